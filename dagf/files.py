"""Atomic files, content hashes, JSON."""

import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from dagf.errors import UserError

# What systems put beside a person's files (NAS, Windows, macOS, ext4): thumbnails, trash, copies.
NOT_OURS = (
    *("@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
    *("__macosx", "lost+found"),
)
ANY_NAME = "surrogateescape"  # for names of files that are no text


def existing_file(file: str | Path) -> str:
    """Return the whole path of a file that a user names; raise `UserError` if there is none."""
    if not Path(file).is_file():
        raise UserError(f"{file} is no file: check the spelling, or make it first")
    return str(Path(file).resolve())


def natural(path: PurePath) -> tuple[object, ...]:
    """Return a key that sorts names as people do: `IMG_2.jpg` comes before `IMG_10.jpg`."""
    parts = [re.split(r"(\d+)", part.casefold()) for part in path.parts]
    numbers = [[int(one) if one.isdecimal() else one for one in part] for part in parts]
    return numbers, str(path)


@dataclass(frozen=True)
class Walk:
    """What is in a folder and its sub-folders: each folder once, whatever links lead to it."""

    files: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)  # files, and folders with all that is in them
    links: list[Path] = field(default_factory=list)  # not followed: to nothing, or a second way
    unread: dict[Path, str] = field(default_factory=dict)  # the system's word on each


def is_hidden(name: str) -> bool:
    """Whether a name is hidden, or of what systems put beside a person's files (any capitals)."""
    return name.startswith(".") or name.casefold() in NOT_OURS


def walk(folder: Path) -> Walk:
    """Return what is in a folder. Links to folders are followed when all others were seen."""
    found, seen, waiting, links = Walk(), set[str](), [folder], list[Path]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        if (real := os.path.realpath(here)) in seen:
            found.links.append(here)
            continue
        seen.add(real)
        try:
            with os.scandir(here) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            found.unread[here] = str(error.strerror)
            continue
        for entry in entries:
            path = here / entry.name
            if is_hidden(entry.name):
                found.hidden.append(path)
                continue
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:
                found.links.append(path)
            except OSError as error:
                found.unread[path] = str(error.strerror)
            else:
                if stat.S_ISDIR(mode):
                    (links if entry.is_symlink() else waiting).append(path)
                elif stat.S_ISREG(mode):
                    found.files.append(path)
    return found


def content_hash(value: Any, length: int = 12) -> str:
    """Return the first hex digits of the sha256 of `value`: bytes, or what JSON can hold.

    A dataclass counts as the mapping of its fields.
    """
    if not isinstance(value, bytes):
        form: Any = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
        value = json.dumps(value, allow_nan=False, default=asdict, **form).encode(errors=ANY_NAME)
    return hashlib.sha256(value).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def slug(text: str) -> str:
    """Return `text` as a short name that is safe in file names and addresses."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-") or "unnamed"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside `path` to write to; it takes the place of `path` on success.

    A kill or a full disk in mid-write leaves the earlier file as it was. An `OSError` becomes a
    `UserError`: libraries that write by themselves and raise others are given a buffer.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it: some libraries write for one alone
        temporary.unlink()
        try:
            yield temporary
            if temporary.is_file():
                temporary.chmod(mode)
                with temporary.open("rb") as written:  # a power cut leaves no name on nothing
                    os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            temporary.unlink(missing_ok=True)
    except OSError as error:
        fault = error.strerror or "the disk took only a part of it"  # of NumPy's and Pillow's own
        raise UserError(f"cannot write {path}: {fault}; nothing was changed there") from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, likewise; `path` must not exist yet, unless empty.

    What a killed run left is removed by the next one.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        shutil.rmtree(left, ignore_errors=True)
    with atomic_path(path) as temporary:
        temporary.mkdir()
        yield temporary


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ANY_NAME)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as JSON that a person reads and `git diff` compares."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def read_json(path: Path, remedy: str = "delete it and make it again") -> Any:
    """Return the value in a JSON file; raise `UserError`, with the remedy, if it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8", errors=ANY_NAME))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}") from error
