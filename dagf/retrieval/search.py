"""Exact search: the k most similar rows of a database, in bounded memory."""

import numpy as np
import torch
from numpy.typing import NDArray

from dagf.common import UserError

Descriptors = NDArray[np.float32]


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
    loose = np.abs(norms - 1) > 1e-2
    if loose.any():
        raise UserError(
            f"{what}: row {first + int(loose.argmax())} has length {norms[loose][0]:.3f}; L2-normalise them"
        )


def similarities(database: Descriptors, queries: Descriptors) -> NDArray[np.float32]:
    """Cosine similarities (Q, N) of unit descriptors: for sets small enough to judge every row.

    Raises `UserError` for descriptors that are not finite, not of unit length, or of another dimension.
    """
    return _similarities(database, queries, 0)


def _similarities(database: Descriptors, queries: Descriptors, first: int) -> NDArray[np.float32]:
    check_descriptors(database, "database", first)
    check_descriptors(queries, "queries")
    if database.shape[1] != queries.shape[1]:
        raise UserError(
            f"the database has {database.shape[1]} dimensions and the queries {queries.shape[1]}: "
            "they come from different models"
        )
    return queries @ database.T


def search(
    database: Descriptors, queries: Descriptors, k: int, chunk: int = 65536
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most similar database rows of each query, best first: scores (Q, k) and row numbers (Q, k).

    Exact. Memory beyond the inputs is O(Q * (chunk + k)). Equal scores: the lower row first. A database
    smaller than k gives all its rows.

    Raises `UserError` for descriptors that are not finite, not of unit length, or of another dimension.
    """
    k = min(k, len(database))
    scores = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(database), chunk):
        part = _similarities(database[start : start + chunk], queries, start)
        numbers = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
        scores, rows = _best(np.hstack([scores, part]), np.hstack([rows, numbers]), k)
    return scores, rows


def _best(
    scores: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    # A stable sort over columns that stand in the order of their rows makes ties go to the lower row.
    order = torch.sort(torch.from_numpy(scores), dim=1, descending=True, stable=True).indices[:, :k].numpy()
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
