"""From files to descriptors: batches of equal size, several scales from one decode, cached feature maps."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.benchmarks.protocol import Benchmark, Box
from dagf.common import atomic_folder, progress, read_json, write_json
from dagf.retrieval.images import ImageSpec, load_image, to_input
from dagf.retrieval.search import Descriptors, similarities

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


class MultiScale(nn.Module):
    """A network at several image scales: the mean of the unit descriptors, normalised again.

    scales: factors of the image's sides, e.g. (1, 2**-0.5, 0.5) of cnnimageretrieval. All scales are made
    from one decoded image.
    """

    def __init__(self, network: nn.Module, scales: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.network = network
        self.scales = scales

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit descriptors (B, D)."""
        return fn.normalize(torch.stack([self.network(_scaled(images, scale)) for scale in self.scales]).mean(0))


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return fn.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def describe(encode: nn.Module, batches: Iterable[Batch], count: int, what: str = "extracting") -> Descriptors:
    """Descriptors (count, D), float32, of the batches of `image_batches` or `FeatureMaps`.

    encode: images or maps (B, ., H, W) -> unit descriptors (B, D), run on the device of its parameters, in
    evaluation mode and without gradients.
    """
    encode.eval()
    device = next((parameter.device for parameter in encode.parameters()), torch.device("cpu"))
    out: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for rows, images in progress(batches, what, unit="batch"):
            found = encode(images.to(device, memory_format=torch.channels_last)).float().cpu().numpy()
            out = np.empty((count, found.shape[1]), np.float32) if out is None else out
            out[rows] = found
    return np.empty((0, 0), np.float32) if out is None else out


class FeatureMaps:
    """A trunk's feature maps of a list of files, kept on disk as fp16: what sweeps on a frozen trunk read.

    One array (n, C, H, W) for each size of map, opened memory-mapped. Half precision moves a descriptor by
    about 1e-4 of its length, far below what separates two arms.
    """

    def __init__(self, folder: Path) -> None:
        groups = read_json(folder / "groups.json")
        self.count: int = groups["count"]
        self.groups = [
            (np.array(rows), np.load(folder / f"maps-{number}.npy", mmap_mode="r"))
            for number, rows in enumerate(groups["rows"])
        ]

    def batches(self, size: int = 64) -> Iterator[Batch]:
        """Batches (row numbers, maps (B, C, H, W) float32) that cover every file once."""
        for rows, maps in self.groups:
            for start in range(0, len(rows), size):
                yield rows[start : start + size], torch.from_numpy(maps[start : start + size].astype(np.float32))

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """The maps of the given rows, (len(rows), C, H, W); every map must have one size."""
        ((numbers, maps),) = self.groups
        return torch.from_numpy(maps[np.searchsorted(numbers, rows)].astype(np.float32))


def cache_maps(trunk: nn.Module, batches: Iterable[Batch], count: int, folder: Path) -> FeatureMaps:
    """The feature maps of `trunk` over `batches`, computed once: `folder` must be named by its inputs' hash."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            _store_maps(trunk, batches, count, folder)
    return FeatureMaps(folder)


def _store_maps(trunk: nn.Module, batches: Iterable[Batch], count: int, folder: Path) -> None:
    trunk.eval()
    device = next(trunk.parameters()).device
    parts: dict[tuple[int, ...], list[tuple[NDArray[np.int64], NDArray[np.float16]]]] = {}
    with torch.inference_mode():
        for rows, images in progress(batches, "feature maps", unit="batch"):
            maps = torch.relu(trunk(images.to(device, memory_format=torch.channels_last))).half().cpu().contiguous()
            parts.setdefault(tuple(maps.shape[1:]), []).append((rows, maps.numpy()))
    with atomic_folder(folder) as temporary:
        order = []
        for number, group in enumerate(parts.values()):
            rows = np.concatenate([part[0] for part in group])
            sort = np.argsort(rows)
            np.save(temporary / f"maps-{number}.npy", np.concatenate([part[1] for part in group])[sort])
            order.append(rows[sort].tolist())
        write_json(temporary / "groups.json", {"count": count, "rows": order})


@dataclass(frozen=True)
class BenchmarkMaps:
    """The feature maps of a benchmark's database and of its cropped queries."""

    database: FeatureMaps
    queries: FeatureMaps

    def describe(self, encode: nn.Module) -> tuple[Descriptors, Descriptors]:
        """The descriptors of database + distractors and of the queries under a head, given as a `MapEncoder`."""
        rows, asked = (describe(encode, maps.batches(), maps.count) for maps in (self.database, self.queries))
        return rows, asked

    def scores(self, encode: nn.Module) -> NDArray[np.float32]:
        """Similarities (queries, database + distractors) under a head."""
        return similarities(*self.describe(encode))


def cache_benchmark(trunk: nn.Module, benchmark: Benchmark, spec: ImageSpec, folder: Path) -> BenchmarkMaps:
    """A benchmark's maps, computed once: `folder` must be named by the hash of trunk, images and `spec`."""
    database, (queries, boxes) = benchmark.database_paths, _queries(benchmark)
    return BenchmarkMaps(
        cache_maps(trunk, image_batches(database, spec), len(database), folder / "database"),
        cache_maps(trunk, image_batches(queries, spec, boxes), len(queries), folder / "queries"),
    )


def _queries(benchmark: Benchmark) -> tuple[list[Path], list[Box | None]]:
    return [benchmark.root / query.file for query in benchmark.queries], [query.box for query in benchmark.queries]


def benchmark_scores(
    encode: nn.Module, benchmark: Benchmark, spec: ImageSpec, batch: int = 64
) -> tuple[NDArray[np.float32], Descriptors, Descriptors]:
    """Similarities (queries, database + distractors) of a benchmark, and the descriptors of database and queries.

    Queries are cropped to their boxes.
    """
    database, (queries, boxes) = benchmark.database_paths, _queries(benchmark)
    rows = describe(encode, image_batches(database, spec, batch=batch), len(database), f"{benchmark.name}: database")
    asked = describe(encode, image_batches(queries, spec, boxes, batch), len(queries), f"{benchmark.name}: queries")
    return similarities(rows, asked), rows, asked
