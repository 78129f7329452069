"""From files to batches of images of equal size, decoded ahead of the network that reads them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagf.benchmarks.protocol import Benchmark, Box
from dagf.retrieval.images import ImageSpec, load_image, to_input

Batch = tuple[NDArray[np.int64], Tensor]
DECODERS = 4  # threads: decoding releases the interpreter's lock
WAITING = 4  # batches of decoded images of rare sizes that wait for their like


def image_batches(
    files: Sequence[Path], spec: ImageSpec, boxes: Sequence[Box | None] | None = None, batch: int = 64
) -> Iterator[Batch]:
    """Batches (row numbers, images (B, 3, H, W) as network input) that cover every file once.

    Images of equal size travel together, whatever their place in the list; decoding runs ahead in threads.
    `boxes` are crops in pixels of the upright image, None for the whole.

    Raises `UserError` for a file that cannot be read.
    """
    boxes = boxes or [None] * len(files)
    waiting: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    with ThreadPoolExecutor(DECODERS) as pool:
        for start in range(0, len(files), batch):
            jobs = range(start, min(start + batch, len(files)))
            images = pool.map(lambda row: load_image(files[row], spec, boxes[row]), jobs)
            for row, image in zip(jobs, images, strict=True):
                group = waiting.setdefault(tuple(image.shape), [])
                group.append((row, image))
                if len(group) == batch:
                    yield _stack(waiting.pop(tuple(image.shape)))
            if sum(map(len, waiting.values())) > WAITING * batch:  # many sizes: memory before full batches
                yield _stack(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
    for group in waiting.values():
        yield _stack(group)


def _stack(group: list[tuple[int, Tensor]]) -> Batch:
    rows, images = zip(*group, strict=True)
    return np.array(rows), to_input(torch.stack(images))


def database_batches(benchmark: Benchmark, spec: ImageSpec, batch: int = 64) -> Iterator[Batch]:
    """The batches of a benchmark's database, and of its distractors after it."""
    return image_batches(benchmark.database_paths, spec, batch=batch)


def query_batches(benchmark: Benchmark, spec: ImageSpec, batch: int = 64) -> Iterator[Batch]:
    """The batches of a benchmark's queries, each cropped to its box."""
    files = [benchmark.root / query.file for query in benchmark.queries]
    return image_batches(files, spec, [query.box for query in benchmark.queries], batch)
