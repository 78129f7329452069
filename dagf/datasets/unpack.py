"""Unpacking an archive that somebody else made, as if it were hostile.

Nothing is handed to a shell or to `extractall`: every member's name is checked, files are only ever created anew, no
symbolic link is ever made, and the bytes that come out are counted while they come.
"""

import gzip
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Protocol

from dagf.console import progress
from dagf.errors import UserError, place_fault, shown

_BLOCK = 2**20
_DRIVE = re.compile(r"[A-Za-z]:")
_MAGIC = {"zip": (0, b"PK"), "tgz": (0, b"\x1f\x8b"), "tar": (257, b"ustar"), "rar": (0, b"Rar!")}
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    b"X",
)
_LONGEST = 2**20  # bytes of such a header: a path has 4096 at most, the rest is for attributes
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError),
    *(
        RuntimeError,
        ValueError,
    ),  # zipfile: encrypted, or a method it does not know; numbers that are none
    *(
        OverflowError,
        struct.error,
        IndexError,
        KeyError,
    ),  # zipfile: sizes and places that cannot be
    OSError,  # two members of one name, a file as a folder, a place before the file's beginning, too long a name
)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to: bytes in all, bytes for each of its own (above `floor`), and members."""

    total: int = 2**37
    ratio: int = 100
    floor: int = 2**26
    members: int = 4_000_000


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Meter:
    """Counts bytes and refuses the one beyond the limit."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.left = min(limits.total, max(limits.floor, limits.ratio * archive.stat().st_size))
        self.archive = archive

    def add(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _refused(self.archive, "it unpacks to far more than a data set would (a bomb?)")


class _Metered:
    """A stream whose bytes are counted as they are read, headers included."""

    def __init__(self, stream: _Readable, meter: _Meter) -> None:
        self.stream, self.meter = stream, meter

    def read(self, size: int = -1, /) -> bytes:
        data = self.stream.read(size)
        self.meter.add(len(data))
        return data


class _Bounded(tarfile.TarInfo):
    """A header of a tar that holds little: `tarfile` reads long names and attributes whole, and keeps global ones."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        kept = (
            sum(len(key) + len(value) for key, value in tar.pax_headers.items())
            if self.type in _EXTENDED
            else 0
        )
        if self.type in _EXTENDED and self.size + kept > _LONGEST:
            raise tarfile.ReadError(
                f"a header of {self.size + kept} bytes, expected at most {_LONGEST}"
            )
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._proc_gnusparse_10()
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("a file with holes, whose list of them may have any length")


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # file, folder, link (its target as seen from it), hard link (from the archive's root), or another
    target: str
    open: Callable[[], IO[bytes]]


def looks_like(path: Path, kind: str) -> bool:
    """Whether the file begins as an archive of this kind does: an error page served as a download does not."""
    offset, magic = _MAGIC[kind]
    with path.open("rb") as stream:
        return stream.read(offset + len(magic))[offset:] == magic


def extract(
    archive: Path, kind: str, folder: Path, *, keep: str = "*", flatten: bool = False, strip: str = "",
    limits: Limits | None = None,
) -> int:  # fmt: skip
    """Unpack a 'zip', 'tar' or 'tgz' into the empty `folder`; the number of files made.

    Only files whose path in the archive matches `keep` are made; `flatten` drops their folders, `strip` a leading
    folder of this name. Links inside the archive become hard links to their file. Raises `UserError` for a name that
    is absolute or climbs out, a link that leaves, a device, two files of one name, an archive that unpacks to more
    than `limits` allows, and a broken one. What was made until then stays: unpack into `common.atomic_folder`.
    """
    limits = limits or Limits()
    try:
        with ExitStack() as stack:
            read = _zip_members if kind == "zip" else _tar_members
            members = read(archive, kind, limits, stack)
            told = progress(
                members, f"unpacking {archive.name}", _number(archive, kind), unit="file"
            )
            return _unpack(archive, told, folder, keep, flatten, strip, limits)
    except _BROKEN as error:
        if place_fault(error):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{archive} cannot be unpacked ({reason}): delete it and get it again"
        ) from error


def _unpack(
    archive: Path,
    members: Iterator[_Member],
    folder: Path,
    keep: str,
    flatten: bool,
    strip: str,
    limits: Limits,
) -> int:
    written = _Meter(archive, limits)
    made: dict[str, Path] = {}
    links: list[tuple[str, str]] = []

    def place(name: str) -> Path:
        parts = name.split("/")
        if strip and parts[0] == strip and len(parts) > 1:
            parts = parts[1:]
        path = folder.joinpath(parts[-1] if flatten else "/".join(parts))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    for count, member in enumerate(members, 1):
        if count > limits.members:
            raise _refused(archive, f"it has more than {limits.members} members")
        name = _safe(archive, member.name)
        if member.kind in ("link", "hard link"):
            base = posixpath.dirname(name) if member.kind == "link" else ""
            links.append((name, _inner(archive, name, base, member.target)))
        elif member.kind not in ("file", "folder"):
            raise _refused(archive, f"its member {shown(name)} is a {member.kind}")
        elif member.kind == "file" and name and fnmatchcase(name, keep):
            made[name] = place(name)
            with member.open() as source, made[name].open("xb") as target:
                while block := source.read(_BLOCK):
                    written.add(len(block))
                    target.write(block)
    for name, target_name in links:
        if fnmatchcase(name, keep):
            if target_name not in made:
                raise _refused(archive, f"its link {shown(name)} points at no file of it")
            made[name] = place(name)
            os.link(made[target_name], made[name])
    return len(made)


def _safe(archive: Path, name: str) -> str:
    """The member's path, tidied: relative, with / and without `.`; '' for the root."""
    odd = "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or _DRIVE.match(name) or odd or ".." in parts:
        raise _refused(archive, f"its member {shown(name)} would lie outside the folder")
    return "/".join(parts)


def _inner(archive: Path, name: str, base: str, target: str) -> str:
    path = posixpath.normpath(posixpath.join(base, target))
    if (
        target.startswith("/")
        or "\\" in target
        or _DRIVE.match(target)
        or path.split("/")[0] == ".."
    ):
        raise _refused(archive, f"its link {shown(name)} leaves the folder")
    return path


def _refused(archive: Path, why: str) -> UserError:
    return UserError(f"{archive} is refused: {why}; delete it and get it from its authors")


def _number(archive: Path, kind: str) -> int | None:
    """How many members an archive has; None for a tar, which would have to be read to its end for that."""
    if kind != "zip":
        return None
    with zipfile.ZipFile(archive) as packed:
        return len(packed.infolist())


def _tar_members(archive: Path, kind: str, limits: Limits, stack: ExitStack) -> Iterator[_Member]:
    stream: IO[bytes] = archive.open("rb") if kind == "tar" else gzip.open(archive)  # type: ignore[assignment] # noqa: SIM115
    metered = _Metered(stack.enter_context(stream), _Meter(archive, limits))
    opened = tarfile.open(fileobj=metered, mode="r|", errorlevel=2, tarinfo=_Bounded)  # type: ignore[call-overload] # noqa: SIM115
    tar = stack.enter_context(opened)
    for info in tar:
        kind_of = "device"
        if info.isreg():
            kind_of = "file"
        elif info.isdir():
            kind_of = "folder"
        elif info.issym():
            kind_of = "link"
        elif info.islnk():
            kind_of = "hard link"
        yield _Member(info.name, kind_of, info.linkname, lambda info=info: _opened(tar, info))  # type: ignore[misc]
        tar.members = []  # it keeps all of them: a million in the largest set


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(info)
    if stream is None:
        raise tarfile.ReadError(f"{info.name} has no content")
    return stream


def _zip_members(archive: Path, kind: str, limits: Limits, stack: ExitStack) -> Iterator[_Member]:
    packed = stack.enter_context(zipfile.ZipFile(archive))
    _Meter(archive, limits).add(
        sum(info.file_size for info in packed.infolist())
    )  # what it says; then what comes
    for info in packed.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        target = ""
        if info.filename.endswith("/"):  # is_dir() fails on a name without a letter
            kind_of = "folder"
        elif mode == stat.S_IFLNK:
            kind_of = "link"
            with packed.open(info) as stream:
                target = stream.read(4096).decode("utf-8", errors="replace")
        else:
            kind_of = "file" if mode in (0, stat.S_IFREG) else "device"
        yield _Member(info.filename, kind_of, target, lambda info=info: packed.open(info))  # type: ignore[misc]
