"""Unpacking archives of others: tarfile's and zipfile's safe extraction, with a limit."""

import tarfile
import zipfile
import zlib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from dagf.console import progress
from dagf.errors import UserError, place_fault

RATIO = 100  # an archive may unpack to so many bytes for each of its own,
FLOOR = 2**26  # and to so many in any case
# What the libraries raise on a damaged archive, beside `OSError`.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)


def unpack(
    archive: Path, folder: Path, keep: str = "*", flatten: bool = False, strip: str = ""
) -> int:
    """Unpack the files of a zip or (compressed) tar into `folder`; return how many.

    Only those whose path in the archive matches `keep`; `flatten` drops their folders, `strip` a
    leading folder of this name. Links and devices are left out. Raise `UserError` for a name that
    leaves the folder, for more bytes than the limit allows, and for a broken archive.
    """
    made, left = 0, max(FLOOR, RATIO * archive.stat().st_size)

    def wanted(name: str, size: int) -> str:
        """Return the name that a member gets in the folder, '' where it is not unpacked."""
        nonlocal made, left
        left -= size
        if left < 0:
            raise UserError(
                f"{archive} is refused: it unpacks to far more than a data set would; delete it"
                " and get it from its authors"
            )
        if not fnmatchcase(name, keep):
            return ""
        made += 1
        path = PurePosixPath(name)
        if strip and len(path.parts) > 1 and path.parts[0] == strip:
            path = path.relative_to(strip)
        return path.name if flatten else str(path)

    said = f"unpacking {archive.name}"
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for one in progress(packed.infolist(), said, unit="file"):
                    if not one.is_dir() and (name := wanted(one.filename, one.file_size)):
                        one.filename = name
                        packed.extract(one, folder)
        else:
            with tarfile.open(archive) as tar:
                for info in progress(tar, said, unit="file"):
                    if info.isreg() and (name := wanted(info.name, info.size)):
                        tar.extract(info.replace(name=name, deep=False), folder, filter="data")
                while tar.fileobj and tar.fileobj.read(2**20):
                    pass  # to its end, where gzip has the checksum
    except (*_BROKEN, OSError) as error:
        if place_fault(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"{archive} cannot be unpacked ({reason}): delete it and get it again"
        ) from error
    return made
