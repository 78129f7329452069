"""data/manifest.json: where the public data sets are, and what each must hold.

What no source states is left out of the manifest, and the set's `unmeasured` says so.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dagf.datasets.benchmark import LABELS, Benchmark, Query, from_ground_truth
from dagf.datasets.revisited import load_ground_truth, plain_file
from dagf.errors import UserError
from dagf.files import read_json

Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Folder = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
Address = Annotated[str, Field(pattern=r"^https?://[\w.-]+(:\d+)?/")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RemoteFile(_Model):
    """A file of a set: where it is, and how it is laid out in the set's folder.

    mirrors: addresses, in the order to try. bytes: its size, of archives roughly. md5_from: the
    address of a text with its md5. Of an archive only members whose path matches `keep` are
    unpacked; `flatten` drops their folders, and `strip` a leading folder of this name. It is
    unpacked into the sub-folder `into`; a rar is left as it is, for the user's own tool.
    """

    file: Name
    mirrors: tuple[Address, ...] = Field(min_length=1)
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    bytes: int = Field(0, ge=0)
    md5_from: Address | None = None
    archive: Literal["zip", "tar", "tgz", "rar"] | None = None
    into: Folder | Literal[""] = ""
    keep: str = "*"
    flatten: bool = False
    strip: str = ""


class Counts(_Model):
    """What a benchmark holds: queries, database images, each label summed over the queries.

    without: label -> the queries that have none of it, where some have. own: the label that each
    query's own photograph has in the database; '' where it is not in the database. boxes: each
    query is cropped.
    """

    queries: int
    database: int
    easy: int = 0
    hard: int = 0
    ok: int = 0
    junk: int = 0
    without: Mapping[str, tuple[int, ...]] = {}
    own: Literal["ok", "junk", ""] = ""
    boxes: bool = False


class Expected(_Model):
    """What a whole set holds.

    files: pattern -> number of files (None: one or more). lists: a CSV -> its rows, and the words
    in their last column; or a pickle -> images of its parts. exact: refuse a set that differs.
    """

    files: Mapping[str, int | None] = {}
    lists: Mapping[str, Mapping[str, int]] = {}
    benchmark: Counts | None = None
    exact: bool = True


class DataSet(_Model):
    """A public data set; `needs` names the sets without which it is of no use."""

    name: Name
    title: str
    folder: Folder
    files: tuple[RemoteFile, ...] = Field(min_length=1)
    expected: Expected
    needs: tuple[str, ...] = ()
    unmeasured: str = ""
    notes: str = ""

    @field_validator("files", mode="before")
    @classmethod
    def _numbered(cls, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write out entries with `numbers`: one file a number, which takes the place of {}."""
        found = []
        for entry in files:
            text = json.dumps({key: value for key, value in entry.items() if key != "numbers"})
            first, last, digits = entry.get("numbers", (0, 0, 1))
            names = [f"{number:0{digits}d}" for number in range(first, last + 1)]
            found += [json.loads(text.replace("{}", name)) for name in names]
        return found


class _Manifest(_Model):
    format: Literal[2]
    sets: tuple[DataSet, ...]


def read_manifest(path: Path) -> dict[str, DataSet]:
    """Return the data sets by name; raise `UserError` where the file is not of this form."""
    try:
        sets = _Manifest.model_validate(read_json(path)).sets
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} is no manifest of this version ({where}: {first['msg']}): get it again"
        ) from None
    return {one.name: one for one in sets}


def differences(one: DataSet, folder: Path) -> list[str]:
    """Return what in `folder` is not as expected, each in a few words; empty when all is there."""
    wrong = []
    for pattern, count in one.expected.files.items():
        found = sum(path.is_file() for path in folder.glob(pattern))
        if found != count and not (count is None and found):
            wanted = "some" if count is None else count
            wrong.append(f"{found} files {pattern} (expected {wanted})")
    wrong += list_differences(one, folder)
    truth = folder / f"gnd_{one.name}.pkl"
    if one.expected.benchmark and truth.is_file():
        benchmark = from_ground_truth(one.name, folder, load_ground_truth(truth))
        lines = count_differences(benchmark, one.expected.benchmark)
        wrong += [f"{truth.name}: {line}" for line in lines]
    return wrong


def list_differences(one: DataSet, folder: Path) -> list[str]:
    """Return where the lists of a set have other sizes than expected, each in a few words."""
    wrong = []
    for file, counts in one.expected.lists.items():
        path = plain_file(folder, Path(file).stem) if file.endswith(".pkl") else folder / file
        try:
            if path.suffix == ".csv":
                last = pd.read_csv(path, dtype=str, keep_default_na=False).iloc[:, -1]
                sizes = {"rows": len(last), "items": sum(len(words.split()) for words in last)}
            else:
                parts = load_ground_truth(path)
                sizes = {part: len(parts[part]["cids"]) for part in counts}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"cannot read {path} ({error}): get the set again") from error
        wrong += [
            f"{file}: {sizes[key]} {key} (expected {count})"
            for key, count in counts.items()
            if sizes[key] != count
        ]
    return wrong


def check_counts(benchmark: Benchmark, sets: Mapping[str, DataSet]) -> None:
    """Raise `UserError`, naming the ground truth, where a public set is not as it must be."""
    expected = sets[benchmark.name.removesuffix("-upright")].expected.benchmark
    if expected and (wrong := count_differences(benchmark, expected)):
        source = benchmark.truth or benchmark.root  # names of photographs may be the ground truth
        raise UserError(
            f"{source}: {benchmark.name} has {', '.join(wrong)}: another version of the set, get"
            " it again"
        )


def count_differences(benchmark: Benchmark, expected: Counts) -> list[str]:
    """Return where a benchmark differs from its counts, which labels each query has, and boxes."""
    queries = benchmark.queries
    found = {"queries": len(queries), "database": len(benchmark.database)}
    for label in LABELS:
        found[label] = sum(len(query.labels.get(label, ())) for query in queries)
    wrong = [
        f"{count} {key} (expected {getattr(expected, key)})"
        for key, count in found.items()
        if count != getattr(expected, key)
    ]
    odd: dict[str, set[int]] = {}  # what -> the queries that are so
    for label in LABELS if not wrong else ():
        if getattr(expected, label):
            without = {n for n, one in enumerate(queries) if not len(one.labels.get(label, ()))}
            odd[f"other queries without {label}"] = without ^ {*expected.without.get(label, ())}
    # Searched for uncropped it would find more, and could not be compared with any other figure.
    whole = {n for n, query in enumerate(queries) if query.box is None}
    odd["queries without a box"] = whole if expected.boxes else set()
    row = {file: index for index, file in enumerate(benchmark.database)}

    def own(query: Query) -> str:
        labels = (label for label, rows in query.labels.items() if row[query.file] in rows)
        return next(labels, "no label") if query.file in row else ""

    where = f"labelled {expected.own} for itself" if expected.own else "outside the database"
    strange = {n for n, query in enumerate(queries) if own(query) != expected.own}
    odd[f"queries that are not {where}"] = strange
    for what, numbers in odd.items():
        if numbers:
            names = ", ".join(f"number {n} ({queries[n].file})" for n in sorted(numbers)[:3])
            wrong.append(f"{len(numbers)} {what}, as {names}")
    return wrong
