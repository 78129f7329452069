"""From files to batches of images of equal size, decoded ahead of the network that reads them."""

import os
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagf.console import cores
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.decode import Box, ImageSpec
from dagf.datasets.images import load_image, to_input
from dagf.devices import at_once
from dagf.errors import UserError

Batch = tuple[NDArray[np.int64], Tensor]
AHEAD = 2  # batches of images that are decoded while the network is busy
WAITING = 4  # batches of decoded images of rare sizes that wait for their like


def image_batches(
    files: Sequence[Path],
    spec: ImageSpec,
    boxes: Sequence[Box | None] | None = None,
    batch: int = 64,
    damaged: dict[int, str] | None = None,
) -> Iterator[Batch]:
    """Yield (row numbers, images (B, 3, H, W) uint8, for `network_input`); each file comes once.

    Images of equal size travel together, whatever their place in the list; of large ones, on a CPU,
    fewer (`at_once`). Threads decode while the reader of the batches works; at most about
    (`AHEAD` + `WAITING` + 1) * `batch` decoded images are held. boxes: crops in pixels of the
    upright image, None for the whole.

    damaged: takes the row number of each image that cannot be read, with what is wrong; None: after
    the last file a `UserError` names them all, and no batch comes once there is one.
    """
    faults = {} if damaged is None else damaged
    waiting = defaultdict[tuple[int, ...], list[tuple[int, Tensor]]](list)

    def released(shape: tuple[int, ...]) -> Batch:
        rows, images = zip(*waiting.pop(shape), strict=True)
        return np.array(rows), torch.stack(images)

    with closing(_decoded(files, spec, boxes or [None] * len(files), AHEAD * batch)) as jobs:
        for row, job in enumerate(jobs):
            try:
                image = job.result()
            except UserError as error:
                faults[row] = str(error)
                continue
            if faults and damaged is None:
                continue
            waiting[*image.shape].append((row, image))
            if len(waiting[*image.shape]) == at_once(batch, image[0].numel()):
                yield released(tuple(image.shape))
            if sum(map(len, waiting.values())) > WAITING * batch:  # many sizes: release the largest
                yield released(max(waiting, key=lambda shape: len(waiting[shape])))
    if faults and damaged is None:
        raise UserError("\n".join(faults.values()))
    for shape in [*waiting]:
        yield released(shape)


def _decoded(
    files: Sequence[Path], spec: ImageSpec, boxes: Sequence[Box | None], ahead: int
) -> Generator[Future[Tensor], None, None]:
    """Yield the images in the order of their files; `ahead` of them are decoded beforehand."""
    pool = ThreadPoolExecutor(decoders())
    jobs: deque[Future[Tensor]] = deque()
    try:
        for file, box in zip(files, boxes, strict=True):
            jobs.append(pool.submit(load_image, file, spec, box))
            if len(jobs) > ahead:
                yield jobs.popleft()
        while jobs:
            yield jobs.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def decoders() -> int:
    """Return the number of decoding threads: one a core of this process, at least two.

    More of them would take the cores from a network that runs on the CPU. torchrun sets
    LOCAL_WORLD_SIZE, the number of processes on this machine.
    """
    return max(2, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def network_input(images: Tensor, device: torch.device) -> Tensor:
    """Bring a batch to a device: images (B, 3, H, W) uint8 by `to_input`, feature maps as they are.

    Images travel as bytes, a quarter of what they are as network input, and are normalised there.
    """
    there = images.to(device, memory_format=torch.channels_last)
    return to_input(there) if there.dtype == torch.uint8 else there


def query_batches(benchmark: Benchmark, spec: ImageSpec) -> Iterator[Batch]:
    """Return the batches of a benchmark's queries, each cropped to its box."""
    files = [benchmark.root / query.file for query in benchmark.queries]
    return image_batches(files, spec, [query.box for query in benchmark.queries])
