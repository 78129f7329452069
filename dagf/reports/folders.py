"""What files and folders hold, as a hash: photographs are read again only where something says that they changed."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dagf.errors import UserError
from dagf.files import content_hash, file_sha256, read_json, write_json


def hash_files(files: Iterable[Path], base: Path) -> dict[str, str]:
    """The sha256 of each of the `files` that exist, by their path from `base`."""
    present = {path for path in files if path.is_file()}
    return {
        Path(os.path.relpath(path, base)).as_posix(): file_sha256(path) for path in sorted(present)
    }


def hash_folder(folder: Path, seen: Path) -> str:
    """A hash of the names and contents in a folder of photographs; '' where there is none.

    seen: a file that keeps what was found: what still has its size and times is not read again. Very many photographs
    (`dagf.study.checks.MANY`) are known by name and size, all but the ground truth.
    """
    from dagf.study.checks import (
        MANY,  # its libraries take a moment, and Toytown needs none of them
    )

    if not folder.is_dir():
        return ""
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if len(files) > MANY:
        sizes = [[name, path.stat().st_size] for name, path in files.items()]
        truth = [folder / "labels.csv", *folder.glob("*.json"), *folder.glob("*.pkl")]
        return content_hash([sizes, hash_files(truth, folder)])
    known = _known(seen)
    now = {name: _contents(path, known.get(name)) for name, path in files.items()}
    if now != known:
        with suppress(OSError, UserError):  # where nothing can be written they are read again
            write_json(seen, now)
    return content_hash([[name, one[-1]] for name, one in now.items()])


def _known(seen: Path) -> dict[str, Any]:
    try:
        known = read_json(seen)
    except UserError:  # not there yet, or broken: it is made again
        return {}
    return known if isinstance(known, dict) else {}


def _contents(path: Path, known: object) -> list[Any]:
    """A file's size, times and sha256: the `known` ones where size and times are still the same."""
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    if isinstance(known, list) and known[:-1] == stamp:
        return known
    try:
        return [*stamp, file_sha256(path)]
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; make it readable, or take it away"
        ) from error
