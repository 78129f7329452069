"""Descriptors of very many files: kept in shards, made by one process or several, read without loading them whole.

A shard holds the descriptors of `SHARD` files, in the order of the list. It is named by the hash of all that decides
them: the network and its scales, the image size, the precision, and the contents of its files. So a job that was killed
goes on with the shards that are missing, and a photograph that was changed has its own shard made anew.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dagf.console import progress
from dagf.datasets.batches import image_batches
from dagf.datasets.images import ImageSpec, load_image
from dagf.distributed import SINGLE, Group
from dagf.errors import UserError
from dagf.files import atomic_path, content_hash, file_sha256
from dagf.retrieval.inference import encoded

Precision = Literal["float16", "float32"]
SHARD = 4096  # files: some megabytes on disk, and what a killed job does again at most
SHARDS = "shard-*.npy"
READERS = 4  # threads that read and hash files


class ShardedDescriptors:
    """Descriptors (N, D) in shards on disk, float16 or float32: only what is asked for comes into memory.

    names: of the files in `folder`, in the order of their rows; all but the last have the same number of rows.

    Raises `UserError` for a shard that is missing or broken, or is of another network than the first.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, tuple(names)
        heads = [
            (len(one), one.shape[1], one.dtype.name)
            for one in map(self._open, range(len(self.names)))
        ]
        self._step, width, kind = heads[0] if heads else (1, 0, "float32")
        self.shape, self.dtype = (sum(head[0] for head in heads), width), np.dtype(kind)
        for number, head in enumerate(heads):
            if head != (min(self._step, len(self) - number * self._step), width, kind):
                raise UserError(
                    f"{folder / self.names[number]} does not fit the shards beside it; extract again"
                )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.floating]:
        """The rows of a slice without a step, or of an array of numbers from 0; a slice in one shard is not copied.

        Raises `IndexError` for anything else that NumPy would take.
        """
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            if step != 1:
                raise IndexError(f"rows are read without a step, and not {rows}")
            return self._between(first, last)
        if rows.dtype == bool or (len(rows) and not 0 <= rows.min() <= rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        shards = rows // self._step
        for number in np.unique(shards):
            found[shards == number] = self._open(number)[rows[shards == number] % self._step]
        return found

    def _between(self, first: int, last: int) -> NDArray[np.floating]:
        parts = []
        for number in range(first // self._step, -(-last // self._step) if first < last else 0):
            start = number * self._step
            parts.append(self._open(number)[max(0, first - start) : last - start])
        if not parts:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _open(self, number: int) -> NDArray[np.floating]:
        # Opened for every reading: a process may hold fewer files than there are shards. "c": PyTorch takes arrays that
        # could be written to, and what is written stays in memory.
        path = self.folder / self.names[number]
        try:
            shard: NDArray[np.floating] = np.asarray(np.load(path, mmap_mode="c"))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} is missing or broken; extract again: the other shards are kept"
            ) from error
        if shard.ndim != 2 or shard.dtype not in (np.float16, np.float32):
            raise UserError(
                f"{path} holds no descriptors; extract again: the other shards are kept"
            )
        return shard


class Extracted(NamedTuple):
    """What came of an extraction. made: images described now, the others had been before. seconds: of all of it."""

    descriptors: ShardedDescriptors
    made: int
    seconds: float


def extract_shards(
    encode: nn.Module,
    about: Any,
    files: Sequence[Path],
    spec: ImageSpec,
    folder: Path,
    precision: Precision = "float32",
    group: Group = SINGLE,
    shard: int = SHARD,
    batch: int = 64,
) -> Extracted:
    """The descriptors of `files` in shards in `folder`, made where they are missing; every process waits for all.

    encode: images -> unit descriptors (B, D). about: what names it and its scales, as JSON can hold it. Of several
    processes number r makes the shards r, r + size, ...: they need the same files and one folder.

    Raises `UserError`, one line with the file and the remedy, for an image that cannot be read; finished shards stay.
    """
    started = time.perf_counter()
    contents = hashes(files, group)
    parts = [slice(first, first + shard) for first in range(0, len(files), shard)]
    names = [shard_name(about, contents[part], spec, precision) for part in parts]
    shards = {name: files[part] for name, part in zip(names, parts, strict=True)}
    made = make_shards(encode, shards, spec, folder, precision, group, batch)
    return Extracted(ShardedDescriptors(folder, names), made, time.perf_counter() - started)


def make_shards(
    encode: nn.Module,
    shards: Mapping[str, Sequence[Path]],
    spec: ImageSpec,
    folder: Path,
    precision: Precision = "float32",
    group: Group = SINGLE,
    batch: int = 64,
) -> int:
    """Make those of `shards`, the files of each by its name, that `folder` lacks; return how many images that took.

    Processes share the shards, and wait for each other. Raises as `extract_shards` does.
    """
    mine = list(shards.items())[group.rank :: group.size]
    missing = {name: part for name, part in mine if not is_whole(folder / name, len(part))}
    made = sum(map(len, missing.values()))
    work = (
        _make(encode, part, spec, folder / name, precision, batch) for name, part in missing.items()
    )
    for _ in progress(chain.from_iterable(work), "extracting", made, amount=int):
        pass
    return sum(group.gather(made))


def shard_name(about: Any, contents: Sequence[str], spec: ImageSpec, precision: Precision) -> str:
    """Return the name of the shard of the images with these `hashes`."""
    return SHARDS.replace("*", content_hash([about, asdict(spec), precision, contents], 16))


def hashes(files: Sequence[Path], group: Group = SINGLE) -> list[str]:
    """Return the sha256 of each file; every process reads a share. Raises `UserError` for a bad one."""
    mine = files[group.rank :: group.size]
    with ThreadPoolExecutor(READERS) as pool:
        share = list(progress(pool.map(_hash, mine), "reading", len(mine)))
    contents = [""] * len(files)
    for rank, part in enumerate(group.gather(share)):
        contents[rank :: group.size] = part
    return contents


def _hash(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError:
        load_image(file)  # says in one line what is wrong
        raise


def is_whole(path: Path, rows: int) -> bool:
    """Whether a shard is there, with so many rows of descriptors."""
    try:
        shard = np.load(path, mmap_mode="r")
        return shard.ndim == 2 and len(shard) == rows and shard.dtype in (np.float16, np.float32)
    except Exception:  # NumPy's reader of a hostile head raises nearly anything
        return False


def _make(
    encode: nn.Module,
    files: Sequence[Path],
    spec: ImageSpec,
    path: Path,
    precision: Precision,
    batch: int,
) -> Iterator[int]:
    """Write one shard; how many images each step described."""
    rows: NDArray[np.floating] | None = None
    for places, found in encoded(encode, image_batches(files, spec, batch=batch)):
        rows = np.empty((len(files), found.shape[1]), precision) if rows is None else rows
        rows[places] = found
        yield len(places)
    assert rows is not None  # no shard is empty
    with atomic_path(path) as temporary:
        np.save(temporary, rows)
