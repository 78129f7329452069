"""Exact search: the k most similar rows, in bounded memory."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Descriptors = NDArray[np.float32]
Scores = NDArray[np.float32]
Indices = NDArray[np.int64]
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
    database: Rows, queries: Descriptors, first: int = 0, last: int | None = None
) -> Iterator[tuple[int, Scores]]:
    """Yield the similarities of the rows first .. last, `BLOCK` rows at a time.

    Each is the number of the block's first row and an array (Q, BLOCK).
    """
    last = len(database) if last is None else last
    for start in range(first, last, BLOCK):
        rows = database[start : min(start + BLOCK, last)]
        with np.errstate(invalid="ignore"):  # whoever reads scores refuses those that are none
            scores = queries @ rows.astype(np.float32, copy=False).T
        yield start, scores


def search(
    database: Rows, queries: Descriptors, k: int, first: int = 0, last: int | None = None
) -> Found:
    """Return the k most similar rows, best first: scores (Q, k) and row numbers (Q, k).

    Exact, among the rows first .. last. Memory beyond the inputs is O(Q * (BLOCK + k)). Equal
    scores: the lower row first. Fewer rows than k are all given.
    """
    last = len(database) if last is None else last
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    kept = min(k, last - first)
    for start, part in similarity_blocks(database, queries, first, last):
        worst = scores[:, -1:] if 0 < kept == scores.shape[1] else None
        found, places = _candidates(part, worst, kept)
        if found.size:
            rows = np.hstack([rows, places + start])
            scores, rows = best(np.hstack([scores, found]), rows, kept)
    return scores, rows


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


def best(scores: Scores, rows: Indices, k: int) -> Found:
    """Return the k best of scores (Q, n), whose equal ones stand in the order of their rows."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
