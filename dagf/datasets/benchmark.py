"""What a retrieval benchmark is: images, queries with their boxes, and who is relevant to whom.

The Revisited protocol's three difficulties are data (`EASY`, `MEDIUM`, `HARD`), and so is the
classic one: a setting names the labels that count as positive and those that are junk, i.e. taken
out of the ranking before it is evaluated. Everything else is a negative; distractors always are.
"""

import difflib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dagf.datasets.decode import ENDINGS, Box
from dagf.errors import UserError, shown
from dagf.files import is_hidden, read_json, walk

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """Which labels of the ground truth are positive, and which junk (neither right nor wrong)."""

    name: str
    positive: tuple[str, ...]
    junk: tuple[str, ...]


EASY = Setting("Easy", positive=("easy",), junk=("junk", "hard"))
MEDIUM = Setting("Medium", positive=("easy", "hard"), junk=("junk",))
HARD = Setting("Hard", positive=("hard",), junk=("junk", "easy"))
CLASSIC = Setting("Classic", positive=("ok",), junk=("junk",))
POSITIVES = ("easy", "hard", "ok")
LABELS = (*POSITIVES, "junk")
LONGEST = 255  # bytes of a name in a folder
NO_IMAGE = "is no image in the folder, or is hidden there"


@dataclass(frozen=True)
class Query:
    """One query image and its ground truth.

    labels: 'easy', 'hard', 'junk' (or 'ok', 'junk') -> indices into the database list. box: x1, y1,
    x2, y2 in pixels of the upright image, or None where the whole image is the query by definition
    of the benchmark. query_set: the group that it is reported in.
    """

    file: str
    labels: Mapping[str, Indices]
    box: Box | None = None
    query_set: str = "query"

    def relevance(self, setting: Setting) -> tuple[Indices, Indices]:
        """Return the database indices of positives and of junk under `setting`, each sorted."""
        return _union(self.labels, setting.positive), _union(self.labels, setting.junk)

    @property
    def positives(self) -> Indices:
        """The database indices of what is right under some setting, sorted."""
        return _union(self.labels, POSITIVES)

    @property
    def labelled(self) -> Indices:
        """The database indices of all labelled images, label after label; others are negatives."""
        return np.concatenate([np.empty(0, np.int64), *self.labels.values()])


def _union(labels: Mapping[str, Indices], names: Sequence[str]) -> Indices:
    empty = np.empty(0, np.int64)
    return np.unique(np.concatenate([empty, *(labels.get(name, empty) for name in names)]))


@dataclass(frozen=True)
class Benchmark:
    """A database, queries and their ground truth; `distractors` follow the database's last row.

    Files are relative to `root`; distractors are whole paths, for they come from elsewhere. A query
    that has a box is never searched for as a whole (DOLG's first figures had to be corrected for
    that).
    """

    name: str
    root: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    distractors: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Easy, Medium and Hard where the ground truth grades positives, else the classic one."""
        classic = any("ok" in query.labels for query in self.queries)
        return (CLASSIC,) if classic else (EASY, MEDIUM, HARD)

    @property
    def middle(self) -> Setting:
        """The setting of contrasts and of the choice of epochs: Medium, or the only one."""
        return self.settings[len(self.settings) // 2]

    @property
    def database_paths(self) -> list[Path]:
        """The files to index, row by row: the database, then the distractors."""
        return [self.root / file for file in self.database] + list(self.distractors)

    @property
    def files(self) -> list[str]:
        """The files that the ground truth names: the database, then the queries."""
        return [*self.database, *(query.file for query in self.queries)]

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of queries, of their boxes, of database images and of each label."""
        rows = dict.fromkeys(LABELS, 0)
        for query in self.queries:
            for label, found in query.labels.items():
                rows[label] += len(found)
        boxes = sum(query.box is not None for query in self.queries)
        about = {"queries": len(self.queries), "database": len(self.database), "boxes": boxes}
        return about | rows

    @property
    def fours(self) -> bool:
        """Whether N-S is defined (UKBench): each query has four positives, itself among them."""
        found = ([self.database[row] for row in query.positives] for query in self.queries)
        pairs = zip(self.queries, found, strict=True)
        return all(len(files) == 4 and query.file in files for query, files in pairs)

    @property
    def query_sets(self) -> dict[str, list[int]]:
        """Name of each query set -> the queries in it, in the order of the ground truth."""
        sets: dict[str, list[int]] = {}
        for index, query in enumerate(self.queries):
            sets.setdefault(query.query_set, []).append(index)
        return sets

    @property
    def first_set(self) -> str:
        """The query set of contrasts: the first of the ground truth."""
        return next(iter(self.query_sets))

    def clusters(self) -> NDArray[np.int64]:
        """Return a cluster id for each query, for the bootstrap: sharing a positive joins two."""
        count, positives = len(self.queries), [query.positives for query in self.queries]
        query = np.repeat(np.arange(count), [*map(len, positives)])
        row = count + np.concatenate([np.empty(0, np.int64), *positives])
        size = count + len(self.database)
        graph = coo_array((np.ones(len(row)), (query, row)), shape=(size, size))
        return connected_components(graph, directed=False)[1][:count].astype(np.int64)


def joined(parts: Sequence[Benchmark]) -> Benchmark:
    """Return the benchmark of several: the queries of each among the images of all.

    What one does not know of the images of another counts as wrong: they share no instance. None
    has distractors.
    """
    root = Path(os.path.commonpath([part.root.resolve() for part in parts]))
    database, queries = list[str](), list[Query]()
    for part in parts:
        inside, first = part.root.resolve().relative_to(root), len(database)
        for query in part.queries:
            labels = {name: rows + first for name, rows in query.labels.items()}
            queries.append(replace(query, file=str(inside / query.file), labels=labels))
        database += [str(inside / file) for file in part.database]
    return Benchmark(" + ".join(part.name for part in parts), root, tuple(database), tuple(queries))


@dataclass(frozen=True)
class TrainingSet:
    """Images, their landmarks (0 .. n-1), a benchmark to validate on, and the hash of all three.

    pairs: rows of a query and of its positive, where not every two images of a landmark show the
    same part of it.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    validation: Benchmark
    id: str
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def landmarks(self) -> int:
        return max(self.labels) + 1


class _Entry(BaseModel):
    """What `gnd` says of a query: its box, and the places in `imlist` under each label."""

    model_config = ConfigDict(extra="forbid", strict=True)
    bbx: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    easy: list[NonNegativeInt] | None = None
    hard: list[NonNegativeInt] | None = None
    ok: list[NonNegativeInt] | None = None
    junk: list[NonNegativeInt] = []


class _Truth(BaseModel):
    """The field's common layout of a ground truth."""

    imlist: list[str]
    qimlist: list[str]
    gnd: list[_Entry]


def from_ground_truth(name: str, root: Path, truth: Path | Mapping[str, Any]) -> Benchmark:
    """Return a benchmark from the field's common layout: `imlist`, `qimlist` and `gnd`.

    gnd: an entry a query, with 'bbx' and either 'easy', 'hard', 'junk' (Radenovic et al., CVPR
    2018) or 'ok', 'junk' (Philbin et al., CVPR 2007), 0-based indices into `imlist`. '.jpg'
    completes names that lack a suffix. truth: a JSON file, or its value.

    Raise `UserError`, naming the file and what is wrong, for another layout, for indices outside
    the database, for an image under two labels, and where queries differ in their labels or in
    having a box.
    """
    where, whole = name, truth
    if isinstance(truth, Path):
        where, whole = str(truth), read_json(truth, "mend it, or get the set again")
    try:
        made = _Truth.model_validate(whole)
        database = tuple(map(_complete, made.imlist))
        if len(set(database)) < len(database):
            raise ValueError("imlist names an image twice")
        pairs = zip(made.qimlist, made.gnd, strict=True)
        queries = tuple(_query(_complete(file), entry, len(database)) for file, entry in pairs)
        kinds = {(frozenset(query.labels), query.box is None) for query in queries}
        if len(kinds) > 1:  # searched for uncropped, a query would find more than the others
            raise ValueError("some queries have other labels than the first, or no box as it has")
    except ValueError as error:
        raise UserError(f"{where}: {first_mistake(error)}; mend its ground truth") from None
    return Benchmark(name, root, database, queries)


def _query(file: str, entry: _Entry, size: int) -> Query:
    given = entry.model_dump(include={*LABELS}, exclude_none=True)
    labels = {label: np.unique(np.array(rows, np.int64)) for label, rows in given.items()}
    if labels.keys() - {"junk"} not in ({"ok"}, {"easy", "hard"}):
        raise ValueError(f"query '{file}' has {', '.join(labels)}: expected ok, or easy and hard")
    union = _union(labels, LABELS)
    if len(union) < sum(map(len, labels.values())):
        raise ValueError(f"query '{file}' gives one image two labels")
    if len(union) and union[-1] >= size:
        raise ValueError(f"query '{file}' lists image {union[-1]}, but the database has {size}")
    if entry.bbx is None:
        return Query(file, labels)
    x1, y1, x2, y2 = box = tuple(entry.bbx)
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"query '{file}' has the empty box {box}: expected x1 y1 x2 y2")
    return Query(file, labels, (x1, y1, x2, y2))


def first_mistake(error: Exception) -> str:
    """Return what is wrong in one line: of pydantic's errors the first, with its place."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if first["type"] == "unexpected_keyword_argument":
        said = "there is no such field"
    elif said.startswith("Input should "):
        said = f"{said.replace('Input', 'it', 1)}, but is {shown(first['input'])}"
    return ": ".join(filter(None, [place, said]))


def _complete(file: str) -> str:
    if leaves_folder(file):
        raise ValueError(f"{shown(file)} {NO_IMAGE}")
    return file if Path(file).suffix else f"{file}.jpg"


def leaves_folder(file: str) -> bool:
    """Whether a relative name, with slashes of any kind, leads out of its folder, is hidden there
    (`dagf.files.walk` passes it by) or too long.

    A quotation mark that is never closed makes one name of many lines.
    """
    path = PureWindowsPath(file)
    long = any(len(os.fsencode(part)) > LONGEST for part in path.parts)
    return bool(path.drive or path.root or any(map(is_hidden, path.parts)) or long)


def spelling(root: Path) -> Callable[[str], str]:
    """Return a function: the name of a file -> as the file in `root` is spelled that it means.

    Other systems write backslashes and other Unicode forms (NFC, NFD), and some tell no capitals
    apart. A name that means no file, or several, comes back as it is, but for a ./ in it.
    """

    def plain(name: str) -> str:
        path = PurePosixPath(name.replace("\\", "/"))
        return unicodedata.normalize("NFC", str(path)).casefold()

    @cache
    def files() -> dict[str, list[str]]:
        found = defaultdict[str, list[str]](list)
        for file in walk(root).files:
            name = file.relative_to(root).as_posix()
            found[plain(name)].append(name)
        return found

    def spelled(name: str) -> str:
        name = str(PurePosixPath(name))
        there = leaves_folder(name) or (root / name).is_file()
        meant = [] if there else files().get(plain(name), [])
        return meant[0] if len(meant) == 1 else name

    return spelled


def check_present(source: object, root: Path, files: Iterable[str], remedy: str) -> None:
    """Raise `UserError`, with the source and the remedy, for files that are not in `root`."""
    missing = [file for file in dict.fromkeys(files) if not (root / file).is_file()]
    if missing:
        first = ", ".join(file + near(root, file) for file in missing[:3])
        raise UserError(
            f"{source} names {len(missing)} images that are not in {root}, as {first}: {remedy}"
        )


def near(root: Path, file: str) -> str:
    """Return, for a message, the image beside a missing one whose name is nearest; '' for none."""
    path = root / file.replace("\\", "/")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = {one.stem: one.name for one in beside if one.suffix.lower() in ENDINGS}
    found = difflib.get_close_matches(path.stem, names, n=1)
    return f" (did you mean {shown(names[found[0]])}?)" if found else ""
