"""Approximate search with FAISS: a flat index of few rows, IVF-PQ of many.

The leading principal components, turned at random so that none outweighs the others; inverted lists
over a coarse quantiser; product-quantised residuals (Jegou et al., PAMI 2011) in four bits, whose
tables fit into registers (Andre et al., VLDB 2015).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from dagf.console import progress
from dagf.errors import UserError
from dagf.files import atomic_path
from dagf.retrieval.search import BLOCK, Descriptors, Found, Rows

FEW = 50_000  # rows up to which an exact search takes well under a second
SEEN = 64  # training rows for each list: FAISS asks for 39 to 256
PROBED = 16  # a query reads one in so many lists
MOST_PARTS = 128
SHORTLIST = 1000  # candidates scored exactly: a code of four bits a part puts few of the best first


def index_factory(rows: int, dimensions: int) -> str:
    """Return the description that faiss.index_factory takes: flat up to `FEW` rows, then IVF-PQ.

    Lists: the power of two nearest to 4 sqrt(rows), within FAISS's advice. Principal components
    that are coded, in four bits each: half the dimensions, at most `MOST_PARTS`.
    """
    if rows <= FEW:
        return "Flat"
    lists = 2 ** round(np.log2(4 * rows**0.5))
    parts = min(MOST_PARTS, max(1, dimensions // 2))
    return f"PCAR{parts},IVF{lists},PQ{parts}x4fs"


@dataclass(frozen=True)
class Index:
    """A FAISS index over unit descriptors (N, D)."""

    faiss: faiss.Index

    def search(self, queries: Descriptors, k: int, database: Rows | None = None) -> Found:
        """Return about the k most similar rows, best first: scores (Q, k) and row numbers (Q, k).

        database: the rows that the index was made of, to score the best `SHORTLIST` exactly; None:
        by their codes alone. Where fewer are found: score -infinity and row -1.
        """
        k = min(k, self.faiss.ntotal)
        count = k if database is None else min(max(k, SHORTLIST), self.faiss.ntotal)
        scores, rows = self.faiss.search(queries, count)
        if database is not None:
            known = (database[near].astype(np.float32) for near in np.maximum(rows, 0))
            scores = np.stack([near @ query for near, query in zip(known, queries, strict=True)])
        scores = np.where(rows < 0, -np.inf, scores)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def save(self, path: Path) -> None:
        """Write the index to one file, atomically."""
        # FAISS itself would leave the last bytes out where the disk is full, and say nothing.
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            faiss.write_index(self.faiss, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Return the index in a file, whose lists stay on disk until they are read."""
        try:
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP))
        except RuntimeError as error:
            raise UserError(
                f"{path} is missing, or no whole FAISS index; delete it and build the index again"
            ) from error


def build_index(database: Rows) -> Index:
    """Return an index of `database` (N, D), as `index_factory` says.

    Memory beyond the index: the training rows, `SEEN` a list, taken evenly from all. FAISS's seeds
    are fixed: built twice, it is the same.
    """
    factory = index_factory(*database.shape)
    index = faiss.index_factory(database.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if factory != "Flat":
        inverted = faiss.extract_index_ivf(index)
        inverted.nprobe = max(1, inverted.nlist // PROBED)
        step = max(1, len(database) // (SEEN * inverted.nlist))
        blocks = _blocks(database, "reading rows to train on")
        seen = np.concatenate([rows[::step].copy() for rows in blocks])
        for _ in progress(range(1), f"training {inverted.nlist} lists", unit="index"):
            index.train(seen)  # most of the time; FAISS tells no progress
    for rows in _blocks(database, "indexing"):
        index.add(rows)
    return Index(index)


def _blocks(database: Rows, what: str) -> Iterator[Descriptors]:
    for start in progress(range(0, len(database), BLOCK), what, unit="block"):
        yield np.ascontiguousarray(database[start : start + BLOCK], np.float32)
