"""Descriptors of images, at several scales, in memory or in shards on disk.

A shard holds the descriptors of `SHARD` files, in the order of the list. It is named by the hash of
all that decides them: the network and its scales, the image size, the precision, and the contents
of its files. So a job that was killed goes on with the shards that are missing, and a photograph
that was changed has its own shard made anew.
"""

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as fn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dagf.console import progress
from dagf.datasets.batches import Batch, image_batches, network_input, query_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.images import ImageSpec, load_image
from dagf.distributed import SINGLE, Group
from dagf.errors import UserError
from dagf.files import atomic_path, content_hash, file_sha256
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import Descriptors, similarities

M = TypeVar("M", bound=nn.Module)
Precision = Literal["float16", "float32"]
SHARD = 4096  # files: some megabytes on disk, and what a killed job does again at most
SHARDS = "shard-*.npy"
READERS = 4  # threads that read and hash files


class MultiScale(nn.Module):
    """A network at several image scales: the mean of the unit descriptors, normalised again.

    scales: factors of the image's sides, e.g. (1, 2**-0.5, 0.5) of cnnimageretrieval. All scales
    are made from one decoded image.
    """

    def __init__(self, network: nn.Module, scales: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.network = network
        self.scales = scales

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit descriptors (B, D)."""
        descriptors = [self.network(_scaled(images, scale)) for scale in self.scales]
        return fn.normalize(torch.stack(descriptors).mean(0))


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return fn.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def for_inference(encode: M, half: bool = False) -> M:
    """Return a copy of a module with networks in it that gives the same descriptors faster.

    In the backbone of every `RetrievalNet` the batch norms become part of the convolutions before
    them, and weights lie channels last. The copy is in evaluation mode and has no gradients. half:
    the backbone works in bfloat16, the head in float32 as always.
    """
    encode = copy.deepcopy(encode).eval().requires_grad_(False)
    for module in list(encode.modules()):
        if isinstance(module, RetrievalNet):
            folded = fold_batch_norms(module.backbone)
            module.backbone = _Half(folded) if half else folded
    return encode.to(memory_format=torch.channels_last)


class _Half(nn.Module):
    """A backbone in bfloat16."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.backbone(images)


class _Tracer(fx.Tracer):
    """Follow a backbone down to PyTorch's layers and torchvision's operators."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        operator = m.__module__.startswith("torchvision.ops") and not isinstance(m, nn.Sequential)
        return operator or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms(backbone: nn.Module) -> fx.GraphModule:
    """Return a backbone whose convolutions have taken in the batch norms after them.

    What stands otherwise (before its convolution, after a sum, a convolution that is read twice)
    stays as it is. The modules of `backbone` serve in the result and must not be used any more.
    """
    graph = _Tracer().trace(backbone)
    modules = dict(backbone.named_modules())
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        name, norm_name = str(before.target), str(node.target)
        convolution, norm = modules[name], modules[norm_name]
        alone = called.count(name) == called.count(norm_name) == 1
        if alone and isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            backbone.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    return fx.GraphModule(backbone, graph)


def extract(
    encode: nn.Module, batches: Iterable[Batch], count: int, what: str = "extracting"
) -> Descriptors:
    """Return the descriptors (count, D), float32, of batches that cover `count` rows.

    encode: images or feature maps (B, ., H, W) -> unit descriptors (B, D), run on the device of its
    parameters, in evaluation mode and without gradients.
    """
    out = np.empty((0, 0), np.float32)
    parts = _encoded(encode.eval(), batches)
    for rows, found in progress(parts, what, count, amount=lambda part: len(part[0])):
        if not out.size:
            out = np.empty((count, found.shape[1]), np.float32)
        out[rows] = found
    return out


def _encoded(
    encode: nn.Module, batches: Iterable[Batch]
) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
    device = next((parameter.device for parameter in encode.parameters()), torch.device("cpu"))
    running: tuple[NDArray[np.int64], Tensor] | None = None
    for rows, images in batches:
        with torch.inference_mode():
            found = encode(network_input(images, device)).float()
        if running:  # fetched once the next batch is on its way: fetching waits for a GPU
            yield running[0], running[1].cpu().numpy()
        running = rows, found
    if running:
        yield running[0], running[1].cpu().numpy()


def benchmark_scores(
    encode: nn.Module, benchmark: Benchmark, spec: ImageSpec
) -> tuple[NDArray[np.float32], Descriptors, Descriptors]:
    """Return similarities (queries, rows), and the descriptors of database and queries.

    Queries are cropped to their boxes. They come from a copy of `encode` (`for_inference`), in
    float32.
    """
    encode, name = for_inference(encode), benchmark.name
    files, asked = benchmark.database_paths, query_batches(benchmark, spec)
    database = extract(encode, image_batches(files, spec), len(files), f"{name}: database")
    queries = extract(encode, asked, len(benchmark.queries), f"{name}: queries")
    return similarities(database, queries), database, queries


class ShardedDescriptors:
    """Descriptors (N, D) in shards on disk, float16 or float32: only what is asked for is read.

    names: of the files in `folder`, in the order of their rows; all but the last have as many rows.

    Raises `UserError` for a shard that is missing or broken.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, tuple(names)
        heads = [(one.shape, one.dtype) for one in map(self._open, range(len(names)))]
        self._step: int = heads[0][0][0] if heads else 1
        self.dtype: np.dtype[Any] = heads[0][1] if heads else np.dtype(np.float32)
        self.shape = sum(shape[0] for shape, _ in heads), heads[0][0][1] if heads else 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.floating]:
        """Return a copy of the rows of a slice without a step, or of an array of numbers from 0."""
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            parts = [np.empty((0, self.shape[1]), self.dtype)]
            for start in range(first - first % self._step, last, self._step):
                shard = self._open(start // self._step)
                parts.append(shard[max(0, first - start) : last - start])
            return np.concatenate(parts)
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        numbers = rows // self._step
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._open(number)[rows[here] % self._step]
        return found

    def _open(self, number: int) -> NDArray[np.floating]:
        # Opened for every reading: a process may hold fewer files than there are shards.
        path = self.folder / self.names[number]
        try:
            return np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} is missing or broken; extract again: the other shards are kept"
            ) from error


class Extracted(NamedTuple):
    """What came of an extraction. made: images encoded now. seconds: of all of it."""

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
) -> Extracted:
    """Return the descriptors of `files`, having made the shards that `folder` lacks.

    encode: images -> unit descriptors (B, D). about: what names it and its scales, as JSON can hold
    it. Of several processes number r makes the shards r, r + size, ...: they need the same files
    and one folder.

    Raises `UserError` for an image that cannot be read; finished shards stay.
    """
    started = time.perf_counter()
    contents = hashes(files, group)
    parts = [slice(first, first + SHARD) for first in range(0, len(files), SHARD)]
    names = [shard_name(about, contents[part], spec, precision) for part in parts]
    shards = {name: files[part] for name, part in zip(names, parts, strict=True)}
    made = make_shards(encode, shards, spec, folder, precision, group)
    return Extracted(ShardedDescriptors(folder, names), made, time.perf_counter() - started)


def make_shards(
    encode: nn.Module,
    shards: Mapping[str, Sequence[Path]],
    spec: ImageSpec,
    folder: Path,
    precision: Precision = "float32",
    group: Group = SINGLE,
) -> int:
    """Make those of `shards` that `folder` lacks; return how many images that took.

    shards: name -> the images. Processes share the shards, and wait for each other. Raises as
    `extract_shards` does.
    """
    mine = list(shards.items())[group.rank :: group.size]
    missing = {name: part for name, part in mine if not is_whole(folder / name, len(part))}
    for name, files in progress(missing.items(), "extracting", len(missing), unit="shard"):
        rows = extract(encode, image_batches(files, spec), len(files))
        with atomic_path(folder / name) as temporary:
            np.save(temporary, rows.astype(precision))
    return sum(group.gather(sum(map(len, missing.values()))))


def shard_name(about: Any, contents: Sequence[str], spec: ImageSpec, precision: Precision) -> str:
    """Return the name of the shard of the images with these `hashes`."""
    return SHARDS.replace("*", content_hash([about, asdict(spec), precision, contents], 16))


def hashes(files: Sequence[Path], group: Group = SINGLE) -> list[str]:
    """Return the sha256 of each file; every process reads a share."""
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
    """Tell whether a shard is there, with so many rows."""
    try:
        return len(np.load(path, mmap_mode="r")) == rows
    except (OSError, ValueError, EOFError):
        return False
