"""What a retrieval benchmark is: images, queries with their boxes, and who is relevant to whom.

The Revisited protocol's three difficulties are data (`EASY`, `MEDIUM`, `HARD`), and so is the
classic one: a setting names the labels that count as positive and those that are junk, i.e. taken
out of the ranking before it is evaluated. Everything else is a negative; distractors always are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dagf.errors import UserError

Box = tuple[float, float, float, float]
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
    that). truth: the file or folder that the ground truth was read from, for messages.
    """

    name: str
    root: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    distractors: tuple[Path, ...] = field(default=(), repr=False)
    truth: Path | None = field(default=None, repr=False, compare=False)

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
    def fours(self) -> bool:
        """Whether N-S is defined (UKBench): each query has four positives, itself among them."""
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
        """The number of landmarks."""
        return max(self.labels) + 1


def from_ground_truth(
    name: str, root: Path, truth: Mapping[str, Any], source: Path | None = None
) -> Benchmark:
    """Return a benchmark from the field's common layout: `imlist`, `qimlist` and `gnd`.

    gnd: an entry a query, with 'bbx' and either 'easy', 'hard', 'junk' (Radenovic et al., CVPR
    2018) or 'ok', 'junk' (Philbin et al., CVPR 2007), 0-based indices into `imlist`. '.jpg'
    completes names that lack a suffix. source: where `truth` was read from.

    Raise `UserError`, naming the source and the query, for another layout, for indices outside the
    database, for an image under two labels, and where queries differ in their labels or in having a
    box.
    """
    where = about = str(source or name)
    try:
        images, files, entries = (list(truth[key]) for key in ("imlist", "qimlist", "gnd"))
        if len(files) != len(entries):
            raise ValueError(f"qimlist names {len(files)} queries, gnd has {len(entries)}")
        database = tuple(map(_complete, images))
        if len(set(database)) < len(database):
            raise ValueError("imlist names an image twice")
        queries = []
        for file, entry in zip(files, entries, strict=True):
            about = f"{where}: query {file!r}"
            queries.append(_query(_complete(file), entry, len(images)))
        about = where
        if len({query.labels.keys() - {"junk"} == {"ok"} for query in queries}) > 1:
            raise ValueError("some queries have ok, some easy and hard; give all the same labels")
        if len({query.box is None for query in queries}) > 1:  # uncropped, one would find more
            raise ValueError("some queries have no bbx; give each its box")
    except KeyError as error:
        raise UserError(f"{where}: it has no list {error}; mend its ground truth") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{about}: {error}; mend its ground truth") from None
    return Benchmark(name, root, database, tuple(queries), truth=source)


def _query(file: str, entry: Mapping[str, Any], size: int) -> Query:
    """Return a query of `gnd`; raise `ValueError` (or what conversions raise) with the reason."""
    if set(entry) - {"junk", "bbx"} not in ({"ok"}, {"easy", "hard"}):
        expected = "expected ok and junk, or easy, hard and junk, and bbx"
        raise ValueError(f"has the keys {', '.join(map(str, entry))}; {expected}")
    labels = {}
    for label in filter(entry.__contains__, LABELS):
        rows = np.array(entry[label])
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind != "i"):
            raise ValueError(f"its {label} is not a list of places in imlist, whole numbers from 0")
        for wrong in rows[(rows < 0) | (rows >= size)]:
            raise ValueError(f"lists {label} image number {wrong}, but the database has {size}")
        labels[label] = np.unique(rows.astype(np.int64))
    if len(_union(labels, LABELS)) < sum(map(len, labels.values())):
        raise ValueError("gives one image two labels")
    box = entry.get("bbx")
    if box is not None:
        x1, y1, x2, y2 = box = tuple(map(float, box))
        if not (x1 < x2 and y1 < y2):
            raise ValueError(f"has the empty box {box}; expected x1 y1 x2 y2")
    return Query(file, labels, box)


def _complete(file: Any) -> str:
    if not isinstance(file, str) or leaves_folder(file):
        raise ValueError(f"{file!r} is no image in the folder")
    return file if Path(file).suffix else f"{file}.jpg"


def leaves_folder(file: str) -> bool:
    """Whether a relative name, with slashes of any kind, leads out of its folder."""
    path = PureWindowsPath(file)
    return bool(path.drive or path.root or ".." in path.parts)


def check_present(source: object, root: Path, files: Iterable[str], remedy: str) -> None:
    """Raise `UserError`, with the source and the remedy, for files that are not in `root`."""
    missing = [file for file in dict.fromkeys(files) if not (root / file).is_file()]
    if missing:
        raise UserError(
            f"{source} names {len(missing)} images that are not in {root}, as "
            f"{', '.join(missing[:3])}: {remedy}"
        )
