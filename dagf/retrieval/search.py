"""Exact search: the k most similar rows, in bounded memory, by one process or several."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dagf.distributed import SINGLE, Group

Descriptors = NDArray[np.float32]
Scores = NDArray[np.float32]
Indices = NDArray[np.int64]
Product = Callable[[NDArray[np.floating]], Scores]  # rows (n, D) -> their scores (Q, n)
Found = tuple[Scores, Indices]  # scores (Q, k), best first, and row numbers (Q, k)
BLOCK = 16384  # rows: small enough for the caches, large enough for the matrix product


class Rows(Protocol):
    """Unit descriptors (N, D) in single or half precision, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Indices, /) -> NDArray[np.floating]: ...


def similarities(database: Descriptors, queries: Descriptors) -> Scores:
    """Return the cosine similarities (Q, N) of unit descriptors."""
    return queries @ database.T


def similarity_blocks(
    database: Rows,
    queries: Descriptors,
    product: Product | None = None,
    first: int = 0,
    last: int | None = None,
) -> Iterator[tuple[int, Scores]]:
    """Yield the similarities of the rows first .. last, `BLOCK` rows at a time.

    product: makes them elsewhere than on the CPU (`dagf.devices.product`). Each is the number of
    the block's first row and an array (Q, BLOCK), which may be written to.
    """
    last = len(database) if last is None else last
    for start in range(first, last, BLOCK):
        rows = database[start : min(start + BLOCK, last)]
        with np.errstate(invalid="ignore"):  # whoever reads scores refuses those that are none
            scores = product(rows) if product else queries @ rows.astype(np.float32, copy=False).T
        yield start, scores


def search(
    database: Rows,
    queries: Descriptors,
    k: int,
    group: Group = SINGLE,
    product: Product | None = None,
) -> Found:
    """Return the k most similar rows, best first: scores (Q, k) and row numbers (Q, k).

    Exact. Memory beyond the inputs is O(Q * (BLOCK + k)). Equal scores: the lower row first. A
    database smaller than k gives all its rows. Of several processes each searches a share of the
    rows, and all of them get the whole answer. product: as of `similarity_blocks`.
    """
    ends = np.linspace(0, len(database), group.size + 1).astype(int)
    first, last = int(ends[group.rank]), int(ends[group.rank + 1])
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    kept = min(k, last - first)
    for start, part in similarity_blocks(database, queries, product, first, last):
        worst = scores[:, -1:] if 0 < kept == scores.shape[1] else None
        found, places = _candidates(part, worst, kept)
        if found.size:
            rows = np.hstack([rows, places + start])
            scores, rows = _best(np.hstack([scores, found]), rows, kept)
    parts = group.gather((scores, rows))  # in the order of their rows, which decides between ties
    scores, rows = (np.hstack(part) for part in zip(*parts, strict=True))
    return _best(scores, rows, k)


def _candidates(part: Scores, worst: Scores | None, kept: int) -> Found:
    """Return the scores (Q, m) above the worst that each query has kept, by row, and their places.

    m is the most that a query has; what others lack is filled with -infinity. Once a few blocks
    have been seen nearly all rows fall out here, at the cost of one comparison; what equals the
    worst comes later, and so stands below it. worst: None before a query has `kept` scores.
    """
    count = part.shape[1]
    if worst is None and not 0 < kept < count:
        return part, np.broadcast_to(np.arange(count), part.shape)
    if worst is None:
        chosen = part >= np.partition(part, count - kept, axis=1)[:, [count - kept]]
    else:
        chosen = part > worst
    # Far faster than nonzero in two dimensions.
    query, place = np.divmod(np.flatnonzero(chosen), count)
    number = np.arange(len(query)) - np.searchsorted(query, query)
    shape = len(part), int(number.max(initial=-1)) + 1
    scores, places = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64)
    scores[query, number], places[query, number] = part[query, place], place
    return scores, places


def _best(scores: Scores, rows: Indices, k: int) -> Found:
    # A stable sort over columns that stand in the order of their rows makes ties go to the lower
    # row.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
