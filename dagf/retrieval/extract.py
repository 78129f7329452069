"""Images -> feature maps, which every head on a frozen backbone reads, and descriptors.

Descriptors are made at several scales, in memory or in shards on disk; maps are computed once.

A shard of `SHARD` files is named by all that decides it, the contents of its files included: a job
that was killed goes on with what is missing, and only contents that are new are extracted.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError
from torch.nn import functional as fn

from dagf.console import progress
from dagf.datasets.batches import Batch, image_batches, network_input, query_batches
from dagf.datasets.benchmark import Benchmark, Indices
from dagf.datasets.contents import Contents
from dagf.datasets.decode import ImageSpec
from dagf.devices import at_once
from dagf.distributed import SINGLE, Group
from dagf.errors import UserError
from dagf.files import atomic_folder, content_hash, read_json, write_json
from dagf.model.network import RetrievalNet, feature_map
from dagf.retrieval.search import Descriptors, Scores, similarities
from dagf.retrieval.shards import SHARDS, ShardedDescriptors, open_shard, store_shard

M = TypeVar("M", bound=nn.Module)
Precision = Literal["float16", "float32"]
SHARD = 4096  # files: some megabytes on disk, and what a killed job does again at most
READERS = 4  # threads that read and hash files
MAPS = 64  # that a head reads at once, or fewer


def resized(images: Tensor, scale: float) -> Tensor:
    """Return images (B, 3, H, W) at `scale` times their sides, (B, 3, scale * H, scale * W)."""
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    if scale == 1:
        return images
    return fn.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


class MultiScale(nn.Module):
    """A network at several image scales: the mean of the unit descriptors, normalised again.

    scales: factors of the image's sides, e.g. (1, 2**-0.5, 0.5) of cnnimageretrieval.
    """

    def __init__(self, network: nn.Module, scales: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.network, self.scales = network, scales

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit descriptors (B, D)."""
        descriptors = [self.network(resized(images, scale)) for scale in self.scales]
        return fn.normalize(torch.stack(descriptors).mean(0))


def for_inference(encode: M, half: bool = False) -> M:
    """Return a copy of a module with networks in it that gives the same descriptors faster.

    In the backbone of every `RetrievalNet` the batch norms become part of the convolutions before
    them; weights lie channels last, without gradients. half: the backbone works in bfloat16, the
    head in float32 as always.
    """
    encode = copy.deepcopy(encode).eval().requires_grad_(False)
    for module in list(encode.modules()):
        if isinstance(module, RetrievalNet):
            folded = _folded(module.backbone)
            module.backbone = _Half(folded) if half else folded
    return encode.to(memory_format=torch.channels_last)


def _folded(backbone: nn.Module) -> nn.Module:
    """Fold batch norms; what uses a layer twice stays as it is: `fuse` would fold it twice."""
    try:
        used = Counter(node.target for node in symbolic_trace(backbone).graph.nodes)
    except (TraceError, NameError):  # decides by the image's size; attention before the last stage
        return backbone
    layers = (
        n for n, one in backbone.named_modules() if isinstance(one, nn.Conv2d | nn.BatchNorm2d)
    )
    return backbone if any(used[n] > 1 for n in layers) else fuse(backbone, inplace=True)


class _Half(nn.Module):
    """A backbone in bfloat16."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.backbone(images)


def extract(
    encode: nn.Module, batches: Iterable[Batch], count: int, what: str = "extracting"
) -> Descriptors:
    """Return the descriptors (count, D), float32, of batches that cover `count` rows.

    encode: images or feature maps (B, ., H, W) -> unit descriptors (B, D), run on the device of its
    parameters in evaluation mode. They stay there until the end: fetching waits for a GPU.
    """
    encode.eval()
    device = next((one.device for one in encode.parameters()), torch.device("cpu"))
    out = torch.empty(0, 0)
    with torch.inference_mode():
        for rows, images in progress(batches, what, count, amount=lambda batch: len(batch[0])):
            found = encode(network_input(images, device)).float()
            out = out if len(out) else found.new_empty(count, found.shape[1])
            out[torch.from_numpy(rows)] = found
        return out.cpu().numpy()


def benchmark_scores(
    encode: nn.Module, benchmark: Benchmark, spec: ImageSpec
) -> tuple[NDArray[np.float32], Descriptors, Descriptors]:
    """Return similarities (queries, rows), and the descriptors of database and queries.

    Queries are cropped to their boxes. A copy of `encode` extracts: see `for_inference`.
    """
    encode, name = for_inference(encode), benchmark.name
    files, crops = benchmark.database_paths, query_batches(benchmark, spec)
    database = extract(encode, image_batches(files, spec), len(files), f"{name}: database")
    queries = extract(encode, crops, len(benchmark.queries), f"{name}: queries")
    return similarities(database, queries), database, queries


def extract_shards(
    encode: nn.Module,
    about: Any,
    files: Sequence[Path],
    spec: ImageSpec,
    folder: Path,
    known: Contents,
    precision: Precision = "float32",
    group: Group = SINGLE,
    damaged: dict[Path, str] | None = None,
) -> tuple[ShardedDescriptors, int]:
    """Return the descriptors of `files`, and how many of them `folder` did not have.

    encode: images -> unit descriptors (B, D). about: what names it and its scales, as JSON can hold
    it. known: what files hold (`dagf.datasets.contents`), kept for the next time. Only
    contents that no shard in `folder` holds are extracted: a stopped job goes on though the list of
    files has changed since. Several processes need the same files and one folder.

    damaged: takes the files that cannot be read, with what is wrong, and the rows are those of the
    others; None: a `UserError` names them all, once the shards of the others stand.
    """
    contents, kind = hashes(files, known, group), content_hash([about, asdict(spec), precision])
    read = zip(files, contents, strict=True)
    faults = {file: str(found) for file, found in read if isinstance(found, UserError)}
    files = [file for file in files if file not in faults]
    images = [found for found in contents if isinstance(found, str)]

    parts = [images[first : first + SHARD] for first in range(0, len(images), SHARD)]

    def name(part: Sequence[str]) -> str:
        return SHARDS.replace("*", f"{kind}-{content_hash(part, 16)}")

    there = set[str]()
    rows: dict[str, tuple[str, int]] = {}  # of each image: its shard, and its number there
    for path in sorted(folder.glob(SHARDS.replace("*", f"{kind}-*"))):
        with suppress(UserError):  # a broken one is made anew
            held = enumerate(open_shard(path)["image"].astype(str).tolist())
            rows |= {image: (path.name, number) for number, image in held}
            there.add(path.name)
    opened = lru_cache(maxsize=8)(open_shard)  # of many shards

    def row(image: str) -> NDArray[np.floating]:
        shard, number = rows[image]
        return opened(folder / shard)["row"][number]

    group.wait()  # until all have seen what is there
    file, bad, made = dict(zip(images, files, strict=True)), dict[str, str](), 0
    mine = [part for part in parts if name(part) not in there][group.rank :: group.size]
    for part in progress(mine, "extracting", len(mine), unit="shard"):
        new = [image for image in dict.fromkeys(part) if image not in rows and image not in bad]
        wrong = dict[int, str]()
        batches = image_batches([file[image] for image in new], spec, damaged=wrong)
        found = extract(encode, batches, len(new))
        fresh = dict(zip(new, found, strict=False))  # no rows at all where none can be read
        bad |= {new[number]: why for number, why in wrong.items()}
        made += len(new) - len(wrong)
        good = [image for image in part if image not in bad]
        if good and (shard := name(good)) not in there:
            both = [fresh[image] if image in fresh else row(image) for image in good]
            store_shard(folder / shard, good, np.stack(both).astype(precision))
            rows |= {image: (shard, number) for number, image in enumerate(good)}
    told = group.gather((bad, made))  # all shards stand
    bad = {image: why for some, _ in told for image, why in some.items()}
    for one, image in zip(files, images, strict=True):
        if image in bad:  # which may be the content of several files
            faults[one] = bad[image].replace(str(file[image]), str(one))
    if damaged is not None:
        damaged |= faults
    elif faults:
        raise UserError("\n".join(faults.values()))
    kept = ([image for image in part if image not in bad] for part in parts)
    names = [name(part) for part in kept if part]
    return ShardedDescriptors(folder, names), sum(count for _, count in told)


def hashes(files: Sequence[Path], known: Contents, group: Group) -> list[str | UserError]:
    """Return the sha256 of each file, or why it cannot be read; every process reads a share."""
    mine = files[group.rank :: group.size]

    def sha256(file: Path) -> str | UserError:
        try:
            return known.sha256(file)
        except UserError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        share = list(progress(pool.map(sha256, mine), "reading", len(mine)))
    known.save()
    contents: list[str | UserError] = [""] * len(files)
    for rank, part in enumerate(group.gather(share)):
        contents[rank :: group.size] = part
    return contents


class FeatureMaps:
    """A backbone's feature maps of lists of files, one after the other, kept on disk as fp16.

    folders: one a list, in which there is an array (n, C, H, W) for each size of map, opened
    memory-mapped. exact: the share of each cell that the exact mask covers is the last channel of
    the maps, kept in arrays of its own. Half precision moves a descriptor by about 1e-4 of its
    length, far below what separates two arms. Raises `UserError` for a folder that is damaged, or
    not whole.
    """

    def __init__(self, *folders: Path, exact: bool = False) -> None:
        self.count, self.groups = 0, list[tuple[Indices, list[NDArray[np.float16]]]]()
        kinds = ["maps", "masks"] if exact else ["maps"]
        for folder in folders:
            try:
                groups = read_json(folder / "groups.json")
                for number, rows in enumerate(groups["rows"]):
                    files = [folder / f"{kind}-{number}.npy" for kind in kinds]
                    parts = [np.load(file, mmap_mode="r") for file in files]
                    self.groups.append((self.count + np.array(rows), parts))
                self.count += groups["count"]
            except (UserError, OSError, ValueError, EOFError, KeyError) as error:
                raise UserError(
                    f"the feature maps in {folder} are damaged: delete the folder, it is made again"
                ) from error

    def batches(self) -> Iterator[Batch]:
        """Yield batches (row numbers, maps (B, C, H, W) float32) that cover every file once."""
        for rows, parts in self.groups:
            batch = at_once(MAPS, parts[0][0].size)
            for start in range(0, len(rows), batch):
                some = slice(start, start + batch)
                yield rows[some], _joined([part[some] for part in parts])

    def take(self, rows: Indices) -> Tensor:
        """Return the maps of the given rows, (len(rows), C, H, W); every map must have one size."""
        ((numbers, parts),) = self.groups
        places = np.searchsorted(numbers, rows)
        return _joined([part[places] for part in parts])

    def extract(self, head: nn.Module) -> Descriptors:
        """Return the descriptors (count, D) under a head: maps (B, C, H, W) -> (B, D)."""
        return extract(head, self.batches(), self.count)


def _joined(parts: Sequence[NDArray[np.float16]]) -> Tensor:
    """Join maps of the same images by their channels, in single precision."""
    return torch.from_numpy(np.concatenate(parts, 1, dtype=np.float32))


def with_masks(spec: ImageSpec) -> ImageSpec:
    """Return how images are read for maps: with exact masks, so that all heads can share them."""
    return replace(spec, truth="cells") if spec.truth == "none" else spec


def cache_maps(
    backbone: nn.Module, batches: Iterable[Batch], count: int, folder: Path, exact: bool = False
) -> FeatureMaps:
    """Return the feature maps of `backbone` over `batches`, `count` rows in all, computed once.

    backbone: images (B, 3, H, W) -> maps (B, C, h, w), kept as they are: a head rectifies what it
    reads, a last stage may need what is negative. exact: whether the maps come with the masks,
    which the images must then have as a fourth channel.
    `folder` must be named by the hash of all that decides the maps.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            _store_maps(backbone.eval(), batches, count, folder)
    return FeatureMaps(folder, exact=exact)


def _store_maps(backbone: nn.Module, batches: Iterable[Batch], count: int, folder: Path) -> None:
    device = next(backbone.parameters()).device
    batches = progress(batches, "feature maps", count, amount=lambda batch: len(batch[0]))
    groups: dict[tuple[int, ...], list[tuple[Indices, NDArray[np.float16]]]] = {}
    masks = 0  # channels
    with torch.inference_mode():
        for rows, images in batches:
            found, masks = feature_map(backbone, network_input(images, device)), images.shape[1] - 3
            maps = found.half().cpu().contiguous()
            groups.setdefault(tuple(maps.shape[1:]), []).append((rows, maps.numpy()))
    with atomic_folder(folder) as temporary:
        order = []
        for number, group in enumerate(groups.values()):
            rows, stored = (np.concatenate(part) for part in zip(*group, strict=True))
            sort, channels = np.argsort(rows), stored.shape[1] - masks
            np.save(temporary / f"maps-{number}.npy", stored[sort, :channels])
            if masks:
                np.save(temporary / f"masks-{number}.npy", stored[sort, channels:])
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
    backbone: nn.Module,
    benchmark: Benchmark,
    spec: ImageSpec,
    folder: Path,
    distractors: Path | None = None,
) -> BenchmarkMaps:
    """Return a benchmark's maps, computed once: `folder` is named by all that decides them.

    distractors: the folder of theirs, which several benchmarks may share; none, and it is in
    `folder`.
    """
    exact, spec = spec.truth == "cells", with_masks(spec)
    own, parts = len(benchmark.database), [folder / "database"]
    lists = [benchmark.database_paths[:own], benchmark.database_paths[own:]]
    if benchmark.distractors:
        parts.append(distractors or folder / "distractors")
    for part, files in zip(parts, lists, strict=False):
        cache_maps(backbone, image_batches(files, spec), len(files), part)
    queries = query_batches(benchmark, spec)
    asked = cache_maps(backbone, queries, len(benchmark.queries), folder / "queries", exact)
    return BenchmarkMaps(FeatureMaps(*parts, exact=exact), asked)
