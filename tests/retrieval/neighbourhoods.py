"""Small sets of descriptors in which neighbourhoods mean something, and small blocks."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from dagf.retrieval import metrics, search

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]


@contextmanager
def blocks_of(rows: int) -> Iterator[None]:
    """Read databases in blocks of so many rows."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (metrics, search):
            patch.setattr(module, "BLOCK", rows)
        yield


def unit(values: NDArray[np.floating]) -> Array:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def sets(seed: int = 0, count: int = 40, questions: int = 4) -> tuple[Array, Array]:
    """Database and queries around five instances, so that neighbourhoods mean something."""
    chance = np.random.default_rng(seed)
    around = chance.standard_normal((5, 6))[chance.integers(0, 5, count + questions)]
    both = unit(around + 0.7 * chance.standard_normal((count + questions, 6)))
    return both[:count], both[count:]


def cosines(a: Array, b: Array) -> Matrix:
    return a.astype(float) @ b.astype(float).T


def falling(scores: Matrix) -> list[int]:
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))
