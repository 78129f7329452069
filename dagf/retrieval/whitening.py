"""Whitening: turned and scaled so that no direction of the training set outweighs another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dagf.errors import UserError
from dagf.retrieval.search import Descriptors, Indices, Rows

Matrix = NDArray[np.float64]

RIDGE = 1e-8  # of the largest eigenvalue; what lies below it is the rounding of half-precision maps


@dataclass(frozen=True)
class Whitening:
    """x -> L2(P (x - m)). For a benchmark, never learn it on the images on which it is evaluated.

    mean: m (D,). projection: P (d, D), the strongest direction first: its first rows are a shorter
    whitening.
    """

    mean: Matrix
    projection: Matrix

    def __call__(self, descriptors: ArrayLike) -> Descriptors:
        """(N, D), of any length -> unit descriptors (N, d), float32."""
        turned = (np.asarray(descriptors, float) - self.mean) @ self.projection.T
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        return (turned / np.maximum(lengths, np.finfo(float).tiny)).astype(np.float32)

    def toward(self, descriptor: ArrayLike, other: ArrayLike) -> Descriptors:
        """Return g (D,) with g (x - m) = the cosine of x and y once both are whitened.

        It shows what of x makes the two alike. descriptor: x (D,). other: y (D,).
        """
        both = np.stack([np.asarray(descriptor, float), np.asarray(other, float)])
        _, wanted = self(both)
        length = np.linalg.norm(self.projection @ (both[0] - self.mean))
        return (wanted @ self.projection / length).astype(np.float32)


@dataclass(frozen=True)
class Whitened:
    """Descriptors (N, D) whitened to (N, d) where they are read, without a second copy."""

    rows: Rows
    whitening: Whitening

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), len(self.whitening.projection)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Indices, /) -> Descriptors:
        return self.whitening(self.rows[rows])


@dataclass(frozen=True)
class Components:
    """The principal components of descriptors: mean (D,), variances (d,), directions (d, D)."""

    mean: Matrix
    variances: Matrix
    directions: Matrix

    def whitening(self, dimensions: int, power: float) -> Whitening:
        """Divide each of the strongest directions by its variance to the `power`.

        P = diag(lambda^-power) V^T. dimensions: at most min(N - 1, D), as no more of them vary.
        power: 1/2 is full whitening (Jegou and Chum, ECCV 2012), less is APANet's power whitening
        (Zhu et al., ACM MM 2018), 0 is PCA alone.
        """
        # A floor rather than an addend: directions that do vary are whitened exactly.
        floored = np.maximum(self.variances, RIDGE * self.variances[0])[:dimensions]
        return Whitening(self.mean, (floored**-power)[:, None] * self.directions[:dimensions])


def principal_components(descriptors: ArrayLike) -> Components:
    """Return all min(N, D) components of descriptors (N, D), the strongest first.

    Raises `UserError` where all of them are alike.
    """
    values = _varied(descriptors)
    mean = values.mean(0)
    centred, span = values - mean, None
    if len(values) < values.shape[1]:  # in the span of the rows: they may have 20,480 dimensions
        span, _ = np.linalg.qr(centred.T)
        centred = centred @ span
    variances, directions = _eigen(centred.T @ centred / (len(values) - 1))
    return Components(mean, variances, directions if span is None else directions @ span.T)


def learned_whitening(descriptors: ArrayLike, pairs: Indices) -> Whitening:
    """Whiten what differs *within* matching pairs, then PCA (Mikolajczyk, Matas, ICCV 2007).

    As in Radenovic et al., TPAMI 2019 (cnnimageretrieval's `whitenlearn`): m is the mean of the
    pairs' queries, S = mean (x_q - x_p)(x_q - x_p)^T, P1 = chol(S)^-1, V the eigenvectors of the
    second moment of P1 (x - m) over all rows x, largest first, and P = V^T P1. So P S P^T = I.

    descriptors: (N, D), of any length. pairs: (M, 2), row numbers of a query and of its positive.
    Raises `UserError` for fewer pairs than D: the ridge alone would scale the other directions.
    """
    values = _varied(descriptors)
    size = values.shape[1]
    if len(pairs) < size:
        raise UserError(
            f"{len(pairs)} matching pairs cannot whiten {size} dimensions: give at least {size}"
        )
    query, positive = pairs.T
    apart = values[query] - values[positive]
    within = apart.T @ apart / len(apart)
    mean = values[query].mean(0)
    root = np.linalg.cholesky(within + RIDGE * np.linalg.norm(within, 2) * np.eye(size))
    turned = np.linalg.solve(root, (values - mean).T)
    _, directions = _eigen(turned @ turned.T / len(values))
    return Whitening(mean, directions @ np.linalg.inv(root))


def _varied(descriptors: ArrayLike) -> Matrix:
    values = np.asarray(descriptors, float)
    if (values == values[:1]).all():
        raise UserError(
            "all descriptors are equal: the network has collapsed, there is nothing to whiten"
        )
    return values


def _eigen(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return eigenvalues (D,), largest first, and eigenvectors as rows."""
    eigenvalues, eigenvectors = np.linalg.eigh(matrix)
    return eigenvalues[::-1], eigenvectors[:, ::-1].T
