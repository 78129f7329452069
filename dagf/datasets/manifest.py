"""data/manifest.json: where the public data sets are, what they must hold, and how their files are laid out.

A set is `files` (each with its mirrors, in the order to try), a `folder` under data/, and what is `expected` in it.
What no source states is null in the manifest, and its `unmeasured` says so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dagf.datasets.benchmark import from_ground_truth
from dagf.datasets.revisited import counted, load_ground_truth
from dagf.errors import UserError
from dagf.files import read_json

UNPACKED = ("zip", "tar", "tgz")
ARCHIVES = (*UNPACKED, "rar", None)  # a rar is fetched, and unpacked by the user's own tool
_PLAIN_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a set: `file` in `mirrors` order, put into the sub-folder `into` (its members, where it is an archive).

    Of an archive, only members whose path matches `keep` are unpacked; `flatten` drops their folders, and `strip` a
    leading folder of this name. `md5_from` is the address of a text with the md5.
    """

    file: str
    mirrors: tuple[str, ...]
    sha256: str | None = None
    bytes: int | None = None
    about_bytes: int | None = None
    md5_from: str | None = None
    archive: str | None = None
    into: str = ""
    keep: str = "*"
    flatten: bool = False
    strip: str = ""

    @property
    def known_bytes(self) -> int:
        """Its size where the manifest knows it, if only roughly; else 0."""
        return self.bytes or self.about_bytes or 0

    @property
    def checked(self) -> bool:
        """Whether there is a checksum to hold a download against."""
        return bool(self.sha256 or self.md5_from)


@dataclass(frozen=True)
class Expected:
    """What a whole set holds.

    `files`: pattern -> number of files (None: one or more); `truth`: the ground-truth file and its counts; `lists`: a
    CSV -> its rows, and the words in their last column. Where `exact` is false, a difference is told but not refused.
    """

    files: Mapping[str, int | None]
    truth: Mapping[str, Any] | None = None
    lists: Mapping[str, Mapping[str, int]] | None = None
    exact: bool = True


@dataclass(frozen=True)
class DataSet:
    """A public data set; `needs` names the sets without which it is of no use."""

    name: str
    title: str
    folder: str
    needs: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    expected: Expected
    notes: str = ""
    unmeasured: str | None = None


def read_manifest(path: Path) -> dict[str, DataSet]:
    """Name -> data set. Raises `UserError` where the file is missing, broken or names an unsafe path or address."""
    value = read_json(path, "get it again with the project")
    try:
        if value["format"] != 1:
            raise ValueError(f"format {value['format']}, expected 1")
        sets = [_data_set(one) for one in value["sets"]]
        names = [one.name for one in sets]
        _require(len(names) == len(set(names)), "two sets of one name")
        _require(all(need in names for one in sets for need in one.needs), "a need that is no set")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is no manifest of this version ({error}): get it again with the project"
        ) from error
    return {one.name: one for one in sets}


def _require(fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(what)


def _data_set(raw: Mapping[str, Any]) -> DataSet:
    files = tuple(file for entry in raw["files"] for file in _numbered(entry))
    one = DataSet(
        **{
            **raw,
            "files": files,
            "needs": tuple(raw["needs"]),
            "expected": Expected(**raw["expected"]),
        },
    )
    _require(bool(_PLAIN_NAME.fullmatch(one.name)), f"the name {one.name!r}")
    _require(_inside(one.folder) and bool(one.folder), f"the folder {one.folder!r}")
    _require(
        len({file.file for file in files}) == len(files) > 0, f"two files of one name in {one.name}"
    )
    return one


def _numbered(raw: Mapping[str, Any]) -> list[RemoteFile]:
    """The files that an entry stands for: one, or with `numbers` one a number, which takes the place of {}."""
    entry = dict(raw)
    numbers = entry.pop("numbers", None)
    if numbers is None:
        return [_file(entry)]
    texts = [
        f"{number:0{numbers['digits']}d}" for number in range(numbers["first"], numbers["last"] + 1)
    ]

    def filled(value: Any, text: str) -> Any:
        if isinstance(value, list):
            return [filled(item, text) for item in value]
        return value.replace("{}", text) if isinstance(value, str) else value

    return [_file({key: filled(value, text) for key, value in entry.items()}) for text in texts]


def _file(raw: Mapping[str, Any]) -> RemoteFile:
    unknown = set(raw) - {one.name for one in fields(RemoteFile)}
    _require(not unknown, f"unknown keys {sorted(unknown)}")
    one = RemoteFile(**{**raw, "mirrors": tuple(raw["mirrors"])})
    _require(bool(_PLAIN_NAME.fullmatch(one.file)), f"the file name {one.file!r}")
    _require(_inside(one.into), f"the folder {one.into!r}")
    _require(one.archive in ARCHIVES, f"the archive {one.archive!r}")
    _require(
        one.sha256 is None or bool(re.fullmatch("[0-9a-f]{64}", one.sha256)),
        f"the sha256 of {one.file}",
    )
    addresses = [*one.mirrors, *([one.md5_from] if one.md5_from else [])]
    _require(bool(one.mirrors) and all(map(web_address, addresses)), f"the addresses of {one.file}")
    return one


def _inside(folder: str) -> bool:
    return not folder or all(_PLAIN_NAME.fullmatch(part) for part in folder.split("/"))


def web_address(address: str) -> bool:
    """Whether it is an http or https address with a host."""
    parts = urlsplit(address)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def differences(one: DataSet, folder: Path) -> list[str]:
    """What in `folder` is not as the set's `expected` says, each in a few words; empty when all is there.

    Raises `UserError` for a list or a ground truth that cannot be read.
    """
    expected = one.expected
    wrong = []
    for pattern, count in expected.files.items():
        found = sum(path.is_file() for path in folder.glob(pattern))
        if found != count and not (count is None and found):
            wrong.append(f"{found} files {pattern} (expected {'some' if count is None else count})")
    for file, counts in (expected.lists or {}).items():
        _compare(f"{file}: ", _list_counts(folder / file), counts, wrong)
    if expected.truth is not None:
        file = expected.truth["file"]
        benchmark = from_ground_truth(one.name, folder, load_ground_truth(folder / file))
        counts = {key: value for key, value in expected.truth.items() if key != "file"}
        _compare(f"{file}: ", counted(benchmark), counts, wrong)
    return wrong


def _compare(
    what: str, found: Mapping[str, int], expected: Mapping[str, int], wrong: list[str]
) -> None:
    wrong += [
        f"{what}{found[key]} {key} (expected {n})" for key, n in expected.items() if found[key] != n
    ]


def _list_counts(path: Path) -> dict[str, int]:
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            rows = [line for line in lines if line.strip()][1:]  # the first is the header
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; get the set again") from error
    return {"rows": len(rows), "items": sum(len(row.rpartition(",")[2].split()) for row in rows)}
