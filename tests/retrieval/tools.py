"""Descriptors whose neighbourhoods mean something, small blocks, processes, one image at a time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import load_image, to_input
from dagf.distributed import Group
from dagf.retrieval import metrics, search

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
T = TypeVar("T")
SPEC = ImageSpec(32)


@contextmanager
def blocks_of(rows: int) -> Iterator[None]:
    """Read databases in blocks of so many rows, and judge few queries at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "BLOCK", rows)
        patch.setattr(metrics, "AT_ONCE", 2 * rows)
        yield


def unit(values: NDArray[np.floating]) -> Array:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int, centres: int, dimensions: int, spread: float, seed: int = 0) -> Array:
    """Unit rows around centres: neighbours that are worth finding."""
    chance = np.random.default_rng(seed)
    around = chance.standard_normal((centres, dimensions))[chance.integers(0, centres, count)]
    return unit(around + spread * chance.standard_normal((count, dimensions)))


def sets(seed: int = 0) -> tuple[Array, Array]:
    """A database of 40 rows, and four queries, around five instances."""
    both = clustered(44, 5, 6, 0.7, seed)
    return both[:40], both[40:]


def cosines(a: Array, b: Array) -> Matrix:
    return a.astype(float) @ b.astype(float).T


def falling(scores: Matrix) -> list[int]:
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))


def together(size: int, work: Callable[[Group], T]) -> list[T]:
    """What each process of a group makes; threads play the processes."""
    barrier, given = threading.Barrier(size), dict[int, Any]()

    class Member(Group):
        def wait(self) -> None:
            barrier.wait()

        def gather(self, value: Any) -> list[Any]:
            barrier.wait()
            given[self.rank] = value
            barrier.wait()
            return [given[rank] for rank in range(self.size)]

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, [Member(rank, size) for rank in range(size)]))


def alone(net: nn.Module, path: Path, spec: ImageSpec = SPEC) -> Tensor:
    """The slow way: the file by itself."""
    with torch.inference_mode():
        return net(to_input(load_image(path, spec))[None])[0]


class Counted(nn.Module):
    """A module that counts the images it was given, and may stop."""

    def __init__(self, inner: nn.Module, stop: int = -1) -> None:
        super().__init__()
        self.inner, self.stop, self.seen = inner, stop, 0

    def forward(self, images: Tensor) -> Tensor:
        if self.seen == self.stop:
            raise KeyboardInterrupt
        self.seen += len(images)
        return self.inner(images)
