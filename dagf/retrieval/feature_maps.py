"""A backbone's feature maps, computed once and kept: what every head on a frozen backbone reads."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from dagf.console import progress
from dagf.datasets.batches import Batch, image_batches, network_input, query_batches
from dagf.datasets.benchmark import Benchmark, Indices
from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.files import atomic_folder, read_json, write_json
from dagf.model.network import feature_map
from dagf.retrieval.extract import extract
from dagf.retrieval.search import Descriptors, Scores, similarities

BATCH = 64  # maps that a head reads at once


class FeatureMaps:
    """A backbone's feature maps of a list of files, kept on disk as fp16.

    One array (n, C, H, W) for each size of map, opened memory-mapped. Half precision moves a
    descriptor by about 1e-4 of its length, far below what separates two arms.
    Raises `UserError` for a folder that is damaged, or not whole.
    """

    def __init__(self, folder: Path) -> None:
        try:
            groups = read_json(folder / "groups.json")
            self.count: int = groups["count"]
            self.groups = [
                (np.array(rows), np.load(folder / f"maps-{number}.npy", mmap_mode="r"))
                for number, rows in enumerate(groups["rows"])
            ]
        except (UserError, OSError, ValueError, EOFError, KeyError) as error:
            raise UserError(
                f"the feature maps in {folder} are damaged: delete the folder, it is made again"
            ) from error

    def batches(self) -> Iterator[Batch]:
        """Yield batches (row numbers, maps (B, C, H, W) float32) that cover every file once."""
        for rows, maps in self.groups:
            for start in range(0, len(rows), BATCH):
                some = slice(start, start + BATCH)
                yield rows[some], torch.from_numpy(maps[some].astype(np.float32))

    def take(self, rows: Indices) -> Tensor:
        """Return the maps of the given rows, (len(rows), C, H, W); every map must have one size."""
        ((numbers, maps),) = self.groups
        return torch.from_numpy(maps[np.searchsorted(numbers, rows)].astype(np.float32))

    def extract(self, head: nn.Module) -> Descriptors:
        """Return the descriptors (count, D) under a head: maps (B, C, H, W) -> (B, D)."""
        return extract(head, self.batches(), self.count)


def cache_maps(
    backbone: nn.Module, batches: Iterable[Batch], count: int, folder: Path
) -> FeatureMaps:
    """Return the feature maps of `backbone` over `batches`, `count` rows in all, computed once.

    backbone: images (B, 3, H, W) -> maps (B, C, h, w), of which the negative part is dropped.
    `folder` must be named by the hash of all that decides the maps.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            _store_maps(backbone.eval(), batches, count, folder)
    return FeatureMaps(folder)


def _store_maps(backbone: nn.Module, batches: Iterable[Batch], count: int, folder: Path) -> None:
    device = next(backbone.parameters()).device
    batches = progress(batches, "feature maps", count, amount=lambda batch: len(batch[0]))
    groups: dict[tuple[int, ...], list[tuple[Indices, NDArray[np.float16]]]] = {}
    with torch.inference_mode():
        for rows, images in batches:
            found = torch.relu(feature_map(backbone, network_input(images, device)))
            maps = found.half().cpu().contiguous()
            groups.setdefault(tuple(maps.shape[1:]), []).append((rows, maps.numpy()))
    with atomic_folder(folder) as temporary:
        order = []
        for number, group in enumerate(groups.values()):
            rows, stored = (np.concatenate(part) for part in zip(*group, strict=True))
            sort = np.argsort(rows)
            np.save(temporary / f"maps-{number}.npy", stored[sort])
            order.append(rows[sort].tolist())
        write_json(temporary / "groups.json", {"count": count, "rows": order})


@dataclass(frozen=True)
class BenchmarkMaps:
    """The feature maps of a benchmark's database and of its cropped queries."""

    database: FeatureMaps
    queries: FeatureMaps

    def extract(self, head: nn.Module) -> tuple[Descriptors, Descriptors]:
        """Return the descriptors (N, D) of database + distractors and (Q, D) of the queries."""
        return self.database.extract(head), self.queries.extract(head)

    def scores(self, head: nn.Module) -> Scores:
        """Return the similarities (Q, N) under a head."""
        return similarities(*self.extract(head))


def cache_benchmark(
    backbone: nn.Module, benchmark: Benchmark, spec: ImageSpec, folder: Path
) -> BenchmarkMaps:
    """Return a benchmark's maps, computed once: `folder` is named by all that decides them."""
    images = image_batches(benchmark.database_paths, spec)
    queries = query_batches(benchmark, spec)
    count = len(benchmark.database_paths)
    return BenchmarkMaps(
        cache_maps(backbone, images, count, folder / "database"),
        cache_maps(backbone, queries, len(benchmark.queries), folder / "queries"),
    )
