"""A backbone's feature maps, computed once and kept: what every head that is tried on a frozen backbone reads."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from dagf.console import progress
from dagf.datasets.batches import Batch, database_batches, network_input, query_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.files import atomic_folder, read_json, write_json
from dagf.retrieval.inference import extract
from dagf.retrieval.search import Descriptors, similarities


class FeatureMaps:
    """A backbone's feature maps of a list of files, kept on disk as fp16: what sweeps on a frozen backbone read.

    One array (n, C, H, W) for each size of map, opened memory-mapped. Half precision moves a descriptor by
    about 1e-4 of its length, far below what separates two arms.

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
        except (
            UserError,
            OSError,
            ValueError,
            EOFError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise UserError(
                f"the feature maps in {folder} are damaged: delete the folder, it is made again"
            ) from error

    def batches(self, size: int = 64) -> Iterator[Batch]:
        """Batches (row numbers, maps (B, C, H, W) float32) that cover every file once."""
        for rows, maps in self.groups:
            for start in range(0, len(rows), size):
                yield (
                    rows[start : start + size],
                    torch.from_numpy(maps[start : start + size].astype(np.float32)),
                )

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """The maps of the given rows, (len(rows), C, H, W); every map must have one size."""
        ((numbers, maps),) = self.groups
        return torch.from_numpy(maps[np.searchsorted(numbers, rows)].astype(np.float32))


def cache_maps(
    backbone: nn.Module, batches: Iterable[Batch], count: int, folder: Path
) -> FeatureMaps:
    """The feature maps of `backbone` over `batches`, computed once: `folder` must be named by its inputs' hash.

    backbone: images (B, 3, H, W) -> maps (B, C, h, w), of which the negative part is dropped. count: rows in all. Raises
    `UserError` for a folder that is there and damaged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            _store_maps(backbone, batches, count, folder)
    return FeatureMaps(folder)


def _store_maps(backbone: nn.Module, batches: Iterable[Batch], count: int, folder: Path) -> None:
    backbone.eval()
    device = next(backbone.parameters()).device
    parts: dict[tuple[int, ...], list[tuple[NDArray[np.int64], NDArray[np.float16]]]] = {}
    with torch.inference_mode():
        for rows, images in progress(
            batches, "feature maps", count, amount=lambda batch: len(batch[0])
        ):
            maps = torch.relu(backbone(network_input(images, device))).half().cpu().contiguous()
            parts.setdefault(tuple(maps.shape[1:]), []).append((rows, maps.numpy()))
    with atomic_folder(folder) as temporary:
        order = []
        for number, group in enumerate(parts.values()):
            rows = np.concatenate([part[0] for part in group])
            sort = np.argsort(rows)
            np.save(
                temporary / f"maps-{number}.npy", np.concatenate([part[1] for part in group])[sort]
            )
            order.append(rows[sort].tolist())
        write_json(temporary / "groups.json", {"count": count, "rows": order})


@dataclass(frozen=True)
class BenchmarkMaps:
    """The feature maps of a benchmark's database and of its cropped queries."""

    database: FeatureMaps
    queries: FeatureMaps

    def extract(self, encode: nn.Module) -> tuple[Descriptors, Descriptors]:
        """The descriptors (N, D) of database + distractors and (Q, D) of the queries under a head.

        encode: the head as a `MapEncoder`: maps (B, C, H, W) -> unit descriptors (B, D).
        """
        rows, asked = (
            extract(encode, maps.batches(), maps.count) for maps in (self.database, self.queries)
        )
        return rows, asked

    def scores(self, encode: nn.Module) -> NDArray[np.float32]:
        """Similarities (queries, database + distractors) under a head, given as for `describe`.

        Raises `UserError` for descriptors that are not finite or not of unit length.
        """
        return similarities(*self.extract(encode))


def cache_benchmark(
    backbone: nn.Module, benchmark: Benchmark, spec: ImageSpec, folder: Path
) -> BenchmarkMaps:
    """A benchmark's maps, computed once: `folder` must be named by the hash of backbone, images and `spec`.

    Raises `UserError` for an image that cannot be read, a box outside its image, and a folder that is damaged.
    """
    return BenchmarkMaps(
        cache_maps(
            backbone,
            database_batches(benchmark, spec),
            len(benchmark.database_paths),
            folder / "database",
        ),
        cache_maps(
            backbone, query_batches(benchmark, spec), len(benchmark.queries), folder / "queries"
        ),
    )
