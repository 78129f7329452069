"""Descriptors on disk, in shards: files of rows, each beside the hash of its image's file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dagf.errors import UserError
from dagf.files import atomic_path

SHARDS = "shard-*.npy"


class ShardedDescriptors:
    """Descriptors (N, D) in shards on disk, float16 or float32: only what is asked for is read.

    names: of the files in `folder`, in the order of their rows. Raises `UserError` for a shard that
    is missing or broken.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, tuple(names)
        heads = [(one.shape, one.dtype) for one in map(self._open, range(len(names)))]
        self._ends = np.cumsum([shape[0] for shape, _ in heads], dtype=np.int64)
        self.dtype: np.dtype[Any] = heads[0][1] if heads else np.dtype(np.float32)
        self.shape = sum(shape[0] for shape, _ in heads), heads[0][0][1] if heads else 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.floating]:
        """Return a copy of the rows of a slice, or of an array of numbers from 0."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        numbers = np.searchsorted(self._ends, rows, "right")
        for number in np.unique(numbers):
            here, shard = numbers == number, self._open(number)
            found[here] = shard[rows[here] - self._ends[number] + len(shard)]
        return found

    def _open(self, number: int) -> NDArray[np.floating]:
        # Opened for every reading: a process may hold fewer files than there are shards.
        return open_shard(self.folder / self.names[number])["row"]


def open_shard(path: Path) -> NDArray[Any]:
    """Return a shard: of each image its hash (`image`) and its descriptor (`row`)."""
    try:
        found = np.load(path, mmap_mode="r")
        found[["image", "row"]]
    except (OSError, ValueError, EOFError, IndexError, KeyError) as error:
        raise UserError(
            f"{path} is missing or broken; extract again: the other shards are kept"
        ) from error
    return np.asarray(found)


def store_shard(path: Path, images: Sequence[str], rows: NDArray[np.floating]) -> None:
    """Keep a shard: of each image its hash and its descriptor."""
    shard = np.empty(len(rows), [("image", "S64"), ("row", rows.dtype, rows.shape[1:])])
    shard["image"], shard["row"] = images, rows
    buffer = io.BytesIO()  # NumPy itself would say nothing of a disk on which the end is missing
    np.save(buffer, shard)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
