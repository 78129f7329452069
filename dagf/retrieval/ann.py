"""Approximate search with FAISS: a flat index where few rows make it needless, IVF-PQ where there are many.

The leading principal components, turned at random so that none outweighs the others; inverted lists over a coarse
quantiser; product-quantised residuals (Jegou et al., PAMI 2011) in four bits, whose tables fit into registers (Andre et
al., VLDB 2015). `dagf.retrieval.search.search` is the exact oracle for its recall.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from dagf.console import announced, progress
from dagf.errors import UserError
from dagf.files import atomic_path
from dagf.retrieval.search import BLOCK, Descriptors, Found, Rows, check_descriptors

FEW = 50_000  # rows up to which an exact search takes well under a second
SEEN = 64  # training rows for each list: FAISS asks for 39 to 256
MOST_PARTS = 128
SHORTLIST = 1000  # candidates that are scored exactly: a code of four bits a part puts few of the best first


@dataclass(frozen=True)
class IndexSpec:
    """What an index is made of: `lists` inverted lists, of which a query reads `probes`.

    parts: principal components that are coded, in four bits each. lists = 0 is a flat index: exact, and as large as the
    rows themselves.
    """

    lists: int = 0
    probes: int = 0
    parts: int = 0

    @property
    def factory(self) -> str:
        """The description that faiss.index_factory takes."""
        return f"PCAR{self.parts},IVF{self.lists},PQ{self.parts}x4fs" if self.lists else "Flat"


def index_spec(rows: int, dimensions: int) -> IndexSpec:
    """The defaults for a database of `rows` rows: flat up to `FEW`, then IVF-PQ.

    Lists: the power of two nearest to 4 sqrt(rows), within FAISS's advice. Probes: a sixteenth of them. Parts: half
    the dimensions, at most `MOST_PARTS`.
    """
    if rows <= FEW:
        return IndexSpec()
    lists = 2 ** round(np.log2(4 * rows**0.5))
    return IndexSpec(lists, max(1, lists // 16), min(MOST_PARTS, max(1, dimensions // 2)))


@dataclass(frozen=True)
class Index:
    """A FAISS index over unit descriptors (N, D)."""

    faiss: faiss.Index

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    def search(
        self, queries: Descriptors, k: int, database: Rows | None = None, shortlist: int = SHORTLIST
    ) -> Found:
        """About the k most similar rows of each query, best first: scores (Q, k) and row numbers (Q, k).

        With `database`, the rows that the index was made of, `shortlist` of them (at least k) are looked up and scored
        exactly; without, the scores are those of the codes. Where fewer are found: score -infinity and row -1.

        Raises `UserError` for queries that are not finite, not of unit length, or of another dimension.
        """
        check_descriptors(queries, "queries")
        if queries.shape[1] != self.faiss.d:
            raise UserError(
                f"the index has {self.faiss.d} dimensions and the queries {queries.shape[1]}"
            )
        k = min(k, len(self))
        wanted = k if database is None else min(max(k, shortlist), len(self))
        scores, rows = self.faiss.search(queries, wanted)
        scores = (
            np.where(rows < 0, -np.inf, scores)
            if database is None
            else _exact(database, queries, rows)
        )
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def save(self, path: Path) -> None:
        """Write the index to one file, atomically."""
        # Not by FAISS itself: where the disk is full, it would leave the last bytes out and say nothing.
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            faiss.write_index(self.faiss, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]

    @classmethod
    def load(cls, path: Path) -> "Index":
        """The index in a file, whose lists stay on disk and are mapped into memory where they are read.

        Raises `UserError` for a file that is missing, broken or no index.
        """
        if not path.is_file():
            raise UserError(f"{path} does not exist; build the index again")
        try:
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP))
        except RuntimeError as error:
            raise UserError(
                f"{path} is no FAISS index, or is broken; delete it and build the index again"
            ) from error


def build_index(database: Rows, spec: IndexSpec | None = None) -> Index:
    """An index of `database` (N, D), with the defaults of `index_spec` unless another `spec` is given.

    Rows are added a block at a time, so that the memory needed beyond the index is that of the training rows: `SEEN`
    a list, taken evenly from all. FAISS's own seeds are fixed: built twice, it is the same index.

    Raises `UserError` for rows that are not finite or not of unit length, or fewer rows than lists.
    """
    spec = spec or index_spec(*database.shape)
    made = faiss.index_factory(database.shape[1], spec.factory, faiss.METRIC_INNER_PRODUCT)
    if spec.lists:
        if len(database) < spec.lists:
            raise UserError(f"{len(database)} rows are too few for {spec.lists} lists: name fewer")
        _train(made, database, spec)
    for rows in _blocks(database, "indexing"):
        made.add(rows)
    return Index(made)


def _blocks(database: Rows, what: str) -> Iterator[Descriptors]:
    """The rows in single precision, checked, a block at a time and with a progress bar."""
    for start in progress(range(0, len(database), BLOCK), what, unit="block"):
        rows = np.ascontiguousarray(database[start : start + BLOCK], np.float32)
        check_descriptors(rows, "database", start)
        yield rows


def _train(made: faiss.Index, database: Rows, spec: IndexSpec) -> None:
    faiss.extract_index_ivf(made).nprobe = spec.probes
    step = max(1, len(database) // (SEEN * spec.lists))
    seen = np.concatenate(
        [rows[::step].copy() for rows in _blocks(database, "reading rows to train on")]
    )
    with announced(f"training {spec.lists} lists, most of the time; FAISS tells no progress"):
        made.train(seen)


def _exact(database: Rows, queries: Descriptors, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    scores = np.full(rows.shape, -np.inf, np.float32)
    for one, found, query in zip(scores, rows, queries, strict=True):
        there = found >= 0
        one[there] = database[found[there]].astype(np.float32) @ query
    return scores
