"""Exact search: the k most similar rows of a database, in bounded memory, by one process or several."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dagf.distributed import Group
from dagf.errors import UserError

Descriptors = NDArray[np.float32]
Scores = NDArray[np.float32]
Numbers = NDArray[np.int64]
Found = tuple[Scores, Numbers]  # scores (Q, k), best first, and row numbers (Q, k)
BLOCK = 16384  # rows: small enough for the caches, large enough for the matrix product
LOOSE = 1e-2  # how far from 1 a length may be: half precision is well within


class Rows(Protocol):
    """Unit descriptors (N, D) in single or half precision, in memory or on disk: read by slices or numbers of rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.floating]: ...


def finite_lengths(
    descriptors: NDArray[np.floating], what: str = "descriptors", first: int = 0
) -> NDArray[np.floating]:
    """The lengths (N,) of `descriptors` (N, D); a `UserError` for NaN or infinity, `first` numbers their rows."""
    norms: NDArray[np.floating] = np.linalg.norm(descriptors, axis=1)
    bad = ~np.isfinite(norms)
    if bad.any():
        raise UserError(
            f"{what}: row {first + int(bad.argmax())} holds NaN or infinity; extract them again"
        )
    return norms


def check_descriptors(descriptors: Descriptors, what: str = "descriptors", first: int = 0) -> None:
    """Raise `UserError` unless `descriptors` (N, D) are finite and of unit length; `first` numbers their rows."""
    norms = finite_lengths(descriptors, what, first)
    loose = np.abs(norms - 1) > LOOSE
    if loose.any():
        raise UserError(
            f"{what}: row {first + int(loose.argmax())} has length {norms[loose][0]:.3f}; L2-normalise them"
        )


def similarities(database: Descriptors, queries: Descriptors) -> NDArray[np.float32]:
    """Cosine similarities (Q, N) of unit descriptors: for sets small enough to judge every row.

    Raises `UserError` for descriptors that are not finite, not of unit length, or of another dimension.
    """
    check_descriptors(database, "database")
    _check_queries(database, queries)
    return queries @ database.T


def _check_queries(database: Rows, queries: Descriptors) -> None:
    check_descriptors(queries, "queries")
    if database.shape[1] != queries.shape[1]:
        raise UserError(
            f"the database has {database.shape[1]} dimensions and the queries {queries.shape[1]}: "
            "they come from different models"
        )


def similarity_blocks(
    database: Rows,
    queries: Descriptors,
    block: int = BLOCK,
    device: str = "cpu",
    first: int = 0,
    last: int | None = None,
) -> Iterator[tuple[int, Scores]]:
    """The cosine similarities of the rows first .. last, `block` rows at a time: (number of the first, (Q, block)).

    Each block is made on `device` and checked there. It may be written to. Raises `UserError` as `similarities` does.
    """
    _check_queries(database, queries)
    asked = torch.from_numpy(queries).to(device)
    last = len(database) if last is None else last
    for start in range(first, last, block):
        part = np.asarray(database[start : min(start + block, last)])
        part = (
            part if part.flags.writeable else part.copy()
        )  # PyTorch takes no array that it could not write to
        rows = torch.from_numpy(part).to(device).float()
        # NaN fails the comparison. By torch, as numpy would take longer over this than over the product.
        if not bool(((torch.linalg.vector_norm(rows, dim=1) - 1).abs() <= LOOSE).all()):
            check_descriptors(part.astype(np.float32), "database", start)
        yield start, (asked @ rows.T).cpu().numpy()


def search(database: Rows, queries: Descriptors, k: int, block: int = BLOCK) -> Found:
    """The k most similar database rows of each query, best first: scores (Q, k) and row numbers (Q, k).

    Exact. Memory beyond the inputs is O(Q * (block + k)). Equal scores: the lower row first. A database
    smaller than k gives all its rows.

    Raises `UserError` for descriptors that are not finite, not of unit length, or of another dimension.
    """
    return _search(database, queries, k, block, "cpu", 0, len(database))


def search_together(
    database: Rows, queries: Descriptors, k: int, group: Group, device: str = "cpu"
) -> Found:
    """`search` by several processes: each searches its share of the rows; all of them get the whole answer.

    Scores (Q, k) and row numbers (Q, k), as by one process. Raises `UserError` as `search` does.
    """
    ends = np.linspace(0, len(database), group.size + 1).astype(int)
    mine = _search(database, queries, k, BLOCK, device, ends[group.rank], ends[group.rank + 1])
    parts = group.gather(mine)  # in the order of their rows, which decides between equal scores
    scores, rows = (np.hstack(part) for part in zip(*parts, strict=True))
    return _best(scores, rows, min(k, len(database)))


def _search(
    database: Rows, queries: Descriptors, k: int, block: int, device: str, first: int, last: int
) -> Found:
    k = min(k, last - first)
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start, part in similarity_blocks(database, queries, block, device, first, last):
        found, places = _candidates(part, scores[:, -1:] if 0 < k == scores.shape[1] else None)
        if found.size:
            scores, rows = _best(np.hstack([scores, found]), np.hstack([rows, places + start]), k)
    return scores, rows


def _candidates(part: Scores, worst: Scores | None) -> Found:
    """The scores (Q, m) above the worst that each query has kept, in the order of their rows, and their places.

    m is the most that a query has; what others lack is filled with -infinity. Once a few blocks have been seen nearly
    all rows fall out here, at the cost of one comparison; what equals the worst comes later, and so stands below it.
    """
    count = part.shape[1]
    if worst is None:
        return part, np.broadcast_to(np.arange(count), part.shape)
    query, place = np.divmod(
        np.flatnonzero(part > worst), count
    )  # far faster than nonzero in two dimensions
    number = np.arange(len(query)) - np.searchsorted(query, query)
    shape = len(part), int(number.max(initial=-1)) + 1
    scores, places = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64)
    scores[query, number], places[query, number] = part[query, place], place
    return scores, places


def _best(scores: Scores, rows: Numbers, k: int) -> Found:
    # A stable sort over columns that stand in the order of their rows makes ties go to the lower row.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
