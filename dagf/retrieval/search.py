"""Exact search: the k most similar rows of a database, in bounded memory, by one process or several."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagf.common import UserError
from dagf.team import Team

Descriptors = NDArray[np.float32]
Found = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores (Q, k), best first, and row numbers (Q, k)
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
        raise UserError(f"{what}: row {first + int(bad.argmax())} holds NaN or infinity; extract them again")
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
) -> Iterator[tuple[int, Tensor]]:
    """The cosine similarities of the rows first .. last, `block` rows at a time: (number of the first, (Q, block)).

    Each block is made on `device` and checked there. Raises `UserError` as `similarities` does.
    """
    _check_queries(database, queries)
    asked = torch.from_numpy(queries).to(device)
    last = len(database) if last is None else last
    for start in range(first, last, block):
        part = np.asarray(database[start : min(start + block, last)])
        part = part if part.flags.writeable else part.copy()  # PyTorch takes no array that it could not write to
        rows = torch.from_numpy(part).to(device).float()
        # NaN fails the comparison. By torch, as numpy would take longer over this than over the product.
        if not bool(((torch.linalg.vector_norm(rows, dim=1) - 1).abs() <= LOOSE).all()):
            check_descriptors(part.astype(np.float32), "database", start)
        yield start, asked @ rows.T


def search(database: Rows, queries: Descriptors, k: int, block: int = BLOCK, device: str = "cpu") -> Found:
    """The k most similar database rows of each query, best first: scores (Q, k) and row numbers (Q, k).

    Exact. Memory beyond the inputs is O(Q * (block + k)). Equal scores: the lower row first. A database
    smaller than k gives all its rows.

    Raises `UserError` for descriptors that are not finite, not of unit length, or of another dimension.
    """
    return _search(database, queries, k, block, device, 0, len(database))


def search_together(
    database: Rows, queries: Descriptors, k: int, who: Team, block: int = BLOCK, device: str = "cpu"
) -> Found:
    """`search` by several processes: each searches its share of the rows; all of them get the whole answer."""
    ends = np.linspace(0, len(database), who.size + 1).astype(int)
    mine = _search(database, queries, k, block, device, ends[who.rank], ends[who.rank + 1])
    parts = who.gather(mine)  # in the order of their rows, which decides between equal scores
    scores, rows = (torch.from_numpy(np.hstack(part)) for part in zip(*parts, strict=True))
    return _as_numpy(*_best(scores, rows, min(k, len(database))))


def _search(database: Rows, queries: Descriptors, k: int, block: int, device: str, first: int, last: int) -> Found:
    k = min(k, last - first)
    scores = torch.empty((len(queries), 0), device=device)
    rows = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
    for start, part in similarity_blocks(database, queries, block, device, first, last):
        better = _candidates(part, scores[:, -1:] if 0 < k == scores.shape[1] else None)
        if better is not None:
            found, places = better
            scores, rows = _best(torch.cat([scores, found], 1), torch.cat([rows, places + start], 1), k)
    return _as_numpy(scores, rows)


def _candidates(part: Tensor, worst: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The scores (Q, m) above the worst that each query has kept, in the order of their rows, and their places.

    m is the most that a query has; what others lack is filled with -infinity. None where there is none. Once a few
    blocks have been seen nearly all rows fall out here, at the cost of one comparison; what equals the worst comes
    later, and so stands below it.
    """
    places = torch.arange(part.shape[1], device=part.device).expand_as(part)
    if worst is None:
        return part, places
    above = part > worst
    counts = above.sum(1)
    most = int(counts.max()) if len(counts) else 0
    if most == 0:
        return None
    query, place = above.nonzero(as_tuple=True)
    number = torch.arange(len(query), device=part.device) - (counts.cumsum(0) - counts)[query]
    scores = part.new_full((len(part), most), -torch.inf)
    scores[query, number] = part[query, place]
    filled = places.new_zeros((len(part), most))
    filled[query, number] = place
    return scores, filled


def _best(scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # A stable sort over columns that stand in the order of their rows makes ties go to the lower row.
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]
    return scores.gather(1, order), rows.gather(1, order)


def _as_numpy(scores: Tensor, rows: Tensor) -> Found:
    return scores.cpu().numpy(), rows.cpu().numpy()
