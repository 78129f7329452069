"""Small sets of descriptors in which neighbourhoods mean something."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]


def unit(values: NDArray[np.floating]) -> Array:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def sets(seed: int = 0, count: int = 40, questions: int = 4) -> tuple[Array, Array]:
    """Database and queries around five instances, so that neighbourhoods mean something."""
    chance = np.random.default_rng(seed)
    around = chance.standard_normal((5, 6))
    both = around[chance.integers(0, 5, count + questions)] + 0.7 * chance.standard_normal(
        (count + questions, 6)
    )
    return unit(both[:count]), unit(both[count:])


def cosines(a: Array, b: Array) -> Matrix:
    return a.astype(float) @ b.astype(float).T


def falling(scores: Matrix) -> list[int]:
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))
