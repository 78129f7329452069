"""Atomic files, content hashes, JSON."""

import glob
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagf.errors import UserError, place_fault, shown

# Which files of a folder are photographs; what a file really is, its first bytes say.
IMAGES = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jpeg",
    ".jpg",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


def present(path: str | Path, folder: bool = False) -> bool:
    """Whether a file, or a `folder`, is there; none is under a name that no file can have (too long, with a zero)."""
    try:
        return Path(path).is_dir() if folder else Path(path).is_file()
    except (OSError, ValueError):
        return False


def existing_file(file: str) -> str:
    """The whole path of a file that a user names; '' where none is. A `UserError` for one that is not there."""
    if file and not present(file):
        raise UserError(
            f"{file if len(file) < 200 else shown(file)} is no file: check the spelling, or make it first"
        )
    return str(Path(file).resolve()) if file else ""


def slug(text: str) -> str:
    """Return `text` as a short name that is safe in file names and addresses."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-") or "unnamed"


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def content_hash(value: Any, length: int = 12) -> str:
    """The first `length` hex digits of the sha256 of `value` (bytes, or anything JSON can hold)."""
    # A file's name may be no text at all; Python then holds its bytes as halves of surrogates.
    data = (
        value
        if isinstance(value, bytes)
        else canonical_json(value).encode("utf-8", "surrogatepass")
    )
    return hashlib.sha256(data).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _explain(error: Exception, path: Path) -> None:
    """Raise a `UserError` in place of an error of the place; leave any other alone."""
    words = "" if isinstance(error, UserError) else place_fault(error)
    if words:
        raise UserError(f"cannot write {path}: {words}; nothing was changed there") from error


def code_only(source: str) -> str:
    """Python source without comments, docstrings, blank lines and spacing: what is left decides what it does.

    Token by token rather than as a syntax tree, whose printed form differs between versions of Python.
    """
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
    blocks = {tokenize.INDENT: ">", tokenize.DEDENT: "<"}
    parts: list[str] = []
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in blocks:
            parts.append(blocks[token.type])  # never inside a statement, and no statement begins so
        elif token.type == tokenize.NEWLINE:
            if any(one.type != tokenize.STRING for one in statement):  # else a docstring
                parts.append(_joined([one.string for one in statement]) + "\n")
            statement = []
        elif token.type not in skipped:
            statement.append(token)
    return "".join(parts)


def _joined(tokens: list[str]) -> str:
    """The tokens without spacing but between two words: `not a` is not the name `nota`."""
    text = ""
    for token in tokens:
        words = (text[-1:] + token[:1]).replace("_", "a")
        text += " " + token if len(words) == 2 and words.isalnum() else token
    return text


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it takes the place of `path` only on success.

    A kill or a full disk in mid-write leaves the earlier file as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
    except OSError as error:
        _explain(error, path)
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 is for secrets; results are to be read
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut could leave the new name on an empty file
        temporary.replace(path)
    except Exception as error:
        _explain(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; renamed to `path` only on success.

    `path` must not exist yet, unless as an empty folder. What a killed run left is removed by the next one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(
            f".{glob.escape(path.name)}.{'?' * 8}.part"
        ):  # mkdtemp's eight characters
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    except OSError as error:
        _explain(error, path)
        raise
    temporary.chmod(0o755)
    try:
        yield temporary
        temporary.replace(path)
    except Exception as error:
        _explain(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as JSON that a person can read and `git diff` can compare."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    if any(
        "\ud800" <= letter <= "\udfff" for letter in text
    ):  # of a name that is no text: UTF-8 cannot hold them
        text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path, remedy: str = "delete it and make it again") -> Any:
    """The value in a JSON file; a `UserError` names the file, and the remedy, when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}") from error
