"""Whitening: descriptors turned and scaled so that no direction of the training set outweighs another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular

from dagf.errors import UserError
from dagf.retrieval.search import Descriptors, Rows, finite_lengths

Matrix = NDArray[np.float64]

RIDGE = 1e-8  # of the largest eigenvalue; what lies below it is the rounding of half-precision maps


@dataclass(frozen=True)
class Whitening:
    """x -> L2(P (x - m)). For a benchmark, never learn it on the images that it is judged on; who searches photographs
    of their own has no others (`dagf.collections.index.Collection.whitened`).

    mean: m (D,). projection: P (d, D), the strongest direction first: its first rows are a shorter whitening.
    """

    mean: Matrix
    projection: Matrix

    def __call__(self, descriptors: ArrayLike) -> Descriptors:
        """(N, D), of any length -> unit descriptors (N, d), float32.

        Raises `UserError` for descriptors that are not finite, of another dimension, or equal to the mean,
        from which they have no direction.
        """
        values = _matrix(descriptors)
        if values.shape[1] != len(self.mean):
            raise UserError(
                f"the whitening has {len(self.mean)} dimensions and the descriptors {values.shape[1]}: "
                "they come from different models"
            )
        turned = (values - self.mean) @ self.projection.T
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        if not lengths.all():
            raise UserError(
                f"descriptors: row {int(lengths.argmin())} is the whitening's mean; it cannot be whitened"
            )
        return (turned / lengths).astype(np.float32)

    def toward(self, descriptor: ArrayLike, other: ArrayLike) -> Descriptors:
        """g (D,) with g (x - m) = the cosine of x and y once both are whitened: what of x makes the two alike.

        descriptor: x (D,). other: y (D,). Raises `UserError` as `__call__` does.
        """
        both = np.stack([np.asarray(descriptor, float), np.asarray(other, float)])
        _, wanted = self(both)
        length = np.linalg.norm(self.projection @ (both[0] - self.mean))
        return (wanted @ self.projection / length).astype(np.float32)


@dataclass(frozen=True)
class Whitened:
    """Descriptors (N, D) as a whitening makes them, (N, d), where they are read: there is no second copy of them."""

    rows: Rows
    whitening: Whitening

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        return len(self.rows), len(self.whitening.projection)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Descriptors:
        return self.whitening(self.rows[rows])


def pca_whitening(
    descriptors: ArrayLike, dimensions: int | None = None, power: float = 0.5
) -> Whitening:
    """PCA, and each component divided by its variance to the `power`: P = diag(lambda^-power) V^T.

    descriptors: (N, D), of any length. dimensions: d, by default min(N - 1, D). power: 1/2 is full whitening
    (Jegou and Chum, ECCV 2012), less is APANet's power whitening (Zhu et al., ACM MM 2018), 0 is PCA alone.

    Raises `UserError` for descriptors that are not finite, too few for `dimensions`, or all alike.
    """
    values = _matrix(descriptors)
    kept = _dimensions(values, dimensions)
    if (values == values[0]).all():
        raise UserError(
            "all descriptors are equal: the network has collapsed, there is nothing to whiten"
        )
    mean = values.mean(0)
    centred = values - mean
    variances, directions = _eigen(centred.T @ centred / (len(values) - 1))
    # A floor rather than an addend: directions that do vary are whitened exactly.
    scales = np.maximum(variances, RIDGE * variances[0])[:kept] ** -power
    return Whitening(mean, scales[:, None] * directions[:kept])


def learned_whitening(
    descriptors: ArrayLike, pairs: ArrayLike, dimensions: int | None = None
) -> Whitening:
    """Whitening of what differs *within* matching pairs, then PCA (Mikolajczyk and Matas, ICCV 2007).

    As in Radenovic et al., TPAMI 2019 (cnnimageretrieval's `whitenlearn`): m is the mean of the pairs' queries,
    S = mean (x_q - x_p)(x_q - x_p)^T, P1 = chol(S)^-1, V the eigenvectors of the second moment of P1 (x - m)
    over all rows x, largest first, and P = V^T P1. So P S P^T = I.

    descriptors: (N, D), of any length. pairs: (M, 2), row numbers of a query and of its positive. dimensions:
    d, by default min(N - 1, D).

    Raises `UserError` for descriptors that are not finite or too few for `dimensions`, and for pairs that are
    no row numbers, fewer than D, or of equal descriptors only.
    """
    values = _matrix(descriptors)
    kept = _dimensions(values, dimensions)
    query, positive = _pairs(pairs, *values.shape).T
    apart = values[query] - values[positive]
    within = apart.T @ apart / len(apart)
    largest = np.linalg.norm(within, 2)
    if largest == 0:
        raise UserError(
            "the two descriptors of every matching pair are equal: give pairs of different images"
        )
    size, mean = values.shape[1], values[query].mean(0)
    root = np.linalg.cholesky(within + RIDGE * largest * np.eye(size))
    turned = solve_triangular(root, (values - mean).T, lower=True)
    _, directions = _eigen(turned @ turned.T / len(values))
    return Whitening(mean, directions[:kept] @ solve_triangular(root, np.eye(size), lower=True))


def _matrix(descriptors: ArrayLike) -> Matrix:
    values = np.asarray(descriptors, float)
    if values.ndim != 2:
        raise UserError(
            f"descriptors must be a table of rows (N, D), but their shape is {values.shape}"
        )
    finite_lengths(values)
    return values


def _dimensions(values: Matrix, dimensions: int | None) -> int:
    count, size = values.shape
    most = min(count - 1, size)
    kept = most if dimensions is None else dimensions
    if not 1 <= kept <= most:
        raise UserError(
            f"{count} descriptors of {size} dimensions cannot be whitened to {kept}: choose 1 to {most}"
            if most > 0
            else f"{count} descriptors of {size} dimensions cannot be whitened: give at least two"
        )
    return kept


def _pairs(pairs: ArrayLike, count: int, size: int) -> NDArray[np.int64]:
    rows = np.asarray(pairs)
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.issubdtype(rows.dtype, np.integer):
        raise UserError(
            f"pairs must be whole row numbers (M, 2), but they are {rows.dtype} of shape {rows.shape}"
        )
    if (
        len(rows) < size
    ):  # their differences span fewer directions: the ridge alone would scale the others
        raise UserError(
            f"{len(rows)} matching pairs cannot whiten {size} dimensions: give at least {size}"
        )
    if rows.min() < 0 or rows.max() >= count:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise UserError(f"the pairs name row {wrong}, but there are {count} descriptors")
    return rows


def _eigen(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues (D,), largest first, and the eigenvectors as rows (D, D), of a symmetric matrix."""
    eigenvalues, eigenvectors = np.linalg.eigh(matrix)
    return eigenvalues[::-1], eigenvectors[:, ::-1].T
