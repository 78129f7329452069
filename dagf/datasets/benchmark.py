"""What a retrieval benchmark is: images, queries with their boxes, and who is relevant to whom.

The Revisited protocol's three difficulties are data (`EASY`, `MEDIUM`, `HARD`), and so is the classic one:
a setting names the labels that count as positive and those that are junk, i.e. taken out of the
ranking before it is judged. Everything that is neither is a negative; distractors always are.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dagf.errors import UserError, choose, shown
from dagf.files import present

Box = tuple[float, float, float, float]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """Which labels of the ground truth are positive, and which are junk (neither right nor wrong)."""

    name: str
    positive: tuple[str, ...]
    junk: tuple[str, ...]


EASY = Setting("Easy", positive=("easy",), junk=("junk", "hard"))
MEDIUM = Setting("Medium", positive=("easy", "hard"), junk=("junk",))
HARD = Setting("Hard", positive=("hard",), junk=("junk", "easy"))
CLASSIC = Setting("Classic", positive=("ok",), junk=("junk",))
POSITIVES = ("easy", "hard", "ok")
LABELS = (*POSITIVES, "junk")
KEYS = (*LABELS, "bbx")  # of an entry of the ground truth
MOST_LABELS = 10**7  # of all queries together; UKBench's 40,800 are the most of the known sets


@dataclass(frozen=True)
class Query:
    """One query image and its ground truth.

    `labels` maps 'easy', 'hard', 'junk' (or 'ok', 'junk') to indices into the database list. `box` is
    x1, y1, x2, y2 in pixels of the upright image, or None where the whole image is the query by
    definition of the benchmark. `query_set` names the group it is reported in.
    """

    file: str
    labels: Mapping[str, Indices]
    box: Box | None = None
    query_set: str = "query"

    def relevance(self, setting: Setting) -> tuple[Indices, Indices]:
        """The database indices of the positives and of the junk under `setting`, each sorted."""
        return _union(self.labels, setting.positive), _union(self.labels, setting.junk)

    @property
    def positives(self) -> Indices:
        """The database indices of what is right under some setting, sorted."""
        return _union(self.labels, POSITIVES)

    @property
    def labelled(self) -> Indices:
        """The database indices of all labelled images, label after label: all others are negatives."""
        return np.concatenate([np.empty(0, np.int64), *self.labels.values()])


def _union(labels: Mapping[str, Indices], names: Sequence[str]) -> Indices:
    parts = [labels[name] for name in names if name in labels]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)


@dataclass(frozen=True)
class Benchmark:
    """A database, queries and their ground truth; `distractors` follow the database's last row.

    Files are relative to `root`; distractors are whole paths, for they come from elsewhere. A query is
    never searched for as a whole where it has a box (DOLG's first figures had to be corrected for that).
    `truth` is the file or folder that the ground truth was read from, for messages, where it has one of its own.

    Raises `UserError` for indices outside the database, labels that overlap, or an empty box.
    """

    name: str
    root: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    distractors: tuple[Path, ...] = field(default=(), repr=False)
    truth: Path | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for query in self.queries:
            _check_query(str(self.truth or self.name), query, len(self.database))

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Easy, Medium and Hard where the ground truth grades its positives, else the classic setting."""
        return (
            (CLASSIC,)
            if any("ok" in query.labels for query in self.queries)
            else (EASY, MEDIUM, HARD)
        )

    @property
    def middle(self) -> Setting:
        """The setting that contrasts and the choice of epochs ask for: Medium, or the only one."""
        return self.settings[len(self.settings) // 2]

    @property
    def database_paths(self) -> list[Path]:
        """The files to index, row by row: the database, then the distractors."""
        return [self.root / file for file in self.database] + list(self.distractors)

    @property
    def fours(self) -> bool:
        """Whether each query has four positives, its own photograph among them: what N-S is defined for (UKBench)."""
        oks = [query.labels.get("ok", ()) for query in self.queries]
        return all(
            len(rows) == 4 and any(self.database[row] == query.file for row in rows)
            for query, rows in zip(self.queries, oks, strict=True)
        )

    @property
    def query_sets(self) -> dict[str, list[int]]:
        """Name of each query set -> the queries in it, in the order of the ground truth."""
        sets: dict[str, list[int]] = {}
        for index, query in enumerate(self.queries):
            sets.setdefault(query.query_set, []).append(index)
        return sets

    @property
    def first_set(self) -> str:
        """The query set that contrasts ask for: the first of the ground truth."""
        return next(iter(self.query_sets))

    def clusters(self) -> NDArray[np.int64]:
        """A cluster id for each query: queries that share a positive are one cluster (for the bootstrap)."""
        parent = list(range(len(self.queries)))

        def find(node: int) -> int:
            while parent[node] != node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        owner: dict[int, int] = {}
        for number, query in enumerate(self.queries):
            for row in query.positives:
                parent[find(number)] = find(owner.setdefault(int(row), number))
        return np.array([find(number) for number in range(len(self.queries))], np.int64)


def _check_query(benchmark: str, query: Query, size: int) -> None:
    seen: set[int] = set()
    for label, rows in query.labels.items():
        if len(rows) and (rows.min() < 0 or rows.max() >= size):
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise UserError(
                f"{benchmark}: query {query.file} lists {label} image number {wrong}, but the database "
                f"has {size}: the ground truth belongs to another image list"
            )
        if not seen.isdisjoint(rows.tolist()):
            raise UserError(
                f"{benchmark}: query {query.file} gives one image two labels; mend its ground truth"
            )
        seen.update(rows.tolist())
    if query.box is not None and not (query.box[0] < query.box[2] and query.box[1] < query.box[3]):
        raise UserError(
            f"{benchmark}: query {query.file} has the empty box {query.box}; expected x1 y1 x2 y2"
        )


def from_ground_truth(
    name: str, root: Path, truth: Mapping[str, Any], source: Path | None = None
) -> Benchmark:
    """A benchmark from the field's common layout: `imlist`, `qimlist` and `gnd`, one entry a query.

    An entry holds 'bbx' and either 'easy', 'hard', 'junk' (Radenovic et al., CVPR 2018) or 'ok', 'junk'
    (Philbin et al., CVPR 2007), as 0-based indices into `imlist`. '.jpg' completes names that lack a suffix.
    `source` is where `truth` was read from. Raises `UserError` for another layout, for an entry of neither form or with
    other keys, where entries have different forms or only some have a box, and for more labels than any set has; and
    as `Benchmark`.
    """
    where = str(source or name)
    images, asked, entries = (_part(where, truth, key) for key in ("imlist", "qimlist", "gnd"))
    if len(asked) != len(entries):
        raise UserError(
            f"{where}: qimlist names {len(asked)} queries, gnd has {len(entries)}: give each its entry"
        )
    database, files = ([_complete(where, file) for file in some] for some in (images, asked))
    words = [f"{where}: query {shown(file)}" for file in asked]
    forms = [_form(said, entry, len(images)) for said, entry in zip(words, entries, strict=True)]
    if len(set(forms)) > 1:
        raise UserError(
            f"{where}: some queries have {' and some '.join(sorted(set(forms)))}: give all the same labels"
        )
    if sum(len(entry.get(label, ())) for entry in entries for label in LABELS) > MOST_LABELS:
        raise UserError(
            f"{where}: its gnd has more than {MOST_LABELS} labels; no known set has so many, check the file"
        )
    whole = [said for said, entry in zip(words, entries, strict=True) if entry.get("bbx") is None]
    if 0 < len(whole) < len(entries):  # it would be searched for uncropped, and find more
        raise UserError(
            f"{whole[0]} has no bbx, but others have one: give each query its box; mend its ground truth"
        )
    queries = tuple(
        Query(
            file,
            {label: _rows(said, label, entry[label]) for label in LABELS if label in entry},
            _box(said, entry),
        )
        for file, said, entry in zip(files, words, entries, strict=True)
    )
    return Benchmark(name, root, tuple(database), queries, truth=source)


def _part(where: str, truth: Mapping[str, Any], key: str) -> Sequence[Any]:
    part = truth.get(key) if isinstance(truth, Mapping) else None
    if not isinstance(part, list | tuple):
        raise UserError(
            f"{where}: the ground truth is not of the form imlist, qimlist, gnd: it has no list {key}"
        )
    return part


def _form(said: str, entry: Any, size: int) -> str:
    """Which labels an entry grades by, in words; a misspelt one must not make its query one without positives.

    Lists are not built from here on unless they can be right: a small pickle may name a large one many times.
    """
    if not isinstance(entry, dict):
        raise UserError(
            f"{said} has {shown(entry)} in gnd, expected its labels; mend its ground truth"
        )
    found = {label for label in POSITIVES if label in entry}
    if found not in ({"ok"}, {"easy", "hard"}):
        raise UserError(
            f"{said} has the keys {shown(sorted(map(str, entry)))}, expected ok and junk, or "
            "easy, hard and junk; mend its ground truth"
        )
    for key in map(str, entry):
        try:
            choose("key", key, KEYS)
        except UserError as error:
            raise UserError(f"{said}: {error}; mend its ground truth") from None
    for label in LABELS:
        rows = entry.get(label, [])
        if not isinstance(rows, list | tuple):
            raise UserError(
                f"{said} has {shown(rows)} as {label}, expected a list; mend its ground truth"
            )
        if len(rows) > size:
            raise UserError(
                f"{said} lists {len(rows)} {label} images, but the database has {size}; mend its ground truth"
            )
    return ", ".join(sorted(found))


def _rows(said: str, label: str, values: Sequence[Any]) -> Indices:
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError("true and false are no numbers")
        rows = np.fromiter(map(operator.index, values), np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = "expected places in imlist, whole numbers from 0"
        raise UserError(
            f"{said}: wrong {label} image number ({error}), {wanted}; mend its ground truth"
        ) from None
    found = np.unique(rows)
    if len(found) < len(rows):
        raise UserError(
            f"{said} lists one image twice as {label}: once is enough; mend its ground truth"
        )
    return found


def check_files(benchmark: Benchmark, remedy: str) -> None:
    """Raise `UserError`, ending with `remedy`, where photographs that the ground truth names do not exist."""
    files = dict.fromkeys([*benchmark.database, *(query.file for query in benchmark.queries)])
    missing = [file for file in files if not present(benchmark.root / file)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} images of {benchmark.name} are not in {benchmark.root}, as "
            f"{', '.join(missing[:3])}: {remedy}"
        )


def _complete(where: str, file: Any) -> str:
    if not isinstance(file, str):
        raise UserError(
            f"{where}: {shown(file)} is no name of an image; mend its imlist and qimlist"
        )
    return file if Path(file).suffix else f"{file}.jpg"


def _box(said: str, entry: Mapping[str, Any]) -> Box | None:
    values = entry.get("bbx")
    if values is None:
        return None
    four = isinstance(values, list | tuple) and len(values) == 4
    try:
        if not four or not all(
            isinstance(value, Real) and not isinstance(value, bool) for value in values
        ):
            raise ValueError("not four numbers")
        x1, y1, x2, y2 = (float(value) for value in values)
    except (ValueError, OverflowError):
        wanted = "expected four numbers, x1 y1 x2 y2"
        raise UserError(
            f"{said} has the bbx {shown(values)}, {wanted}; mend its ground truth"
        ) from None
    return x1, y1, x2, y2
