"""Unpacking archives of others: tarfile's and zipfile's safe extraction, with limits."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from dagf.console import progress
from dagf.errors import UserError, place_fault

RATIO = 100  # an archive may unpack to so many bytes for each of its own,
FLOOR = 2**26  # and to so many in any case
MEMBERS = 4_000_000
# What the libraries raise on a damaged archive, beside `OSError`.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
Member = tuple[str, int, Callable[[str], object]]  # name, bytes, how to extract it under a name


def unpack(
    archive: Path, folder: Path, keep: str = "*", flatten: bool = False, strip: str = ""
) -> int:
    """Unpack the files of a zip or (compressed) tar into `folder`; return how many.

    Only those whose path in the archive matches `keep`; `flatten` drops their folders, `strip` a
    leading folder of this name. Links and devices are left out. Raise `UserError` for a name that
    leaves the folder, for more bytes or members than the limits allow, and for a broken archive.
    """
    made, left = 0, max(FLOOR, RATIO * archive.stat().st_size)
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    told = progress(members(archive, folder), f"unpacking {archive.name}", unit="file")
    try:
        for count, (name, size, extract) in enumerate(told, 1):
            left -= size
            if left < 0 or count > MEMBERS:
                raise UserError(
                    f"{archive} is refused: it unpacks to far more than a data set would; delete it"
                    " and get it from its authors"
                )
            if fnmatchcase(name, keep):
                path = PurePosixPath(name)
                if strip and len(path.parts) > 1 and path.parts[0] == strip:
                    path = path.relative_to(strip)
                extract(path.name if flatten else str(path))
                made += 1
    except (*_BROKEN, OSError) as error:
        if place_fault(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"{archive} cannot be unpacked ({reason}): delete it and get it again"
        ) from error
    return made


def _tar_members(archive: Path, folder: Path) -> Iterator[Member]:
    with tarfile.open(archive) as tar:
        for info in tar:
            if info.isreg():

                def extract(name: str, info: tarfile.TarInfo = info) -> None:
                    tar.extract(info.replace(name=name, deep=False), folder, filter="data")

                yield info.name, info.size, extract
        while tar.fileobj and tar.fileobj.read(2**20):
            pass  # to its end, where gzip has the checksum


def _zip_members(archive: Path, folder: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if not info.is_dir():

                def extract(name: str, info: zipfile.ZipInfo = info) -> None:
                    info.filename = name
                    packed.extract(info, folder)

                yield info.filename, info.file_size, extract
