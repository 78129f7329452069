"""What a training step reads: which images each batch has, and as what.

They are read as augmented images or, for a head on a frozen backbone, as cached maps. Every batch
follows from (seed, number of the batch) and, where negatives are mined, from the weights at the
start of its epoch: nothing is carried from batch to batch.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Indices, TrainingSet
from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import load_image, to_input
from dagf.distributed import SINGLE, Group
from dagf.errors import UserError, choose
from dagf.files import content_hash
from dagf.model.network import RetrievalNet
from dagf.retrieval.extract import (
    benchmark_scores,
    cache_benchmark,
    cache_maps,
    extract,
    with_masks,
)
from dagf.retrieval.search import Descriptors, Scores
from dagf.study.config import TrainSpec

KEEP_IN_MEMORY = 4 * 2**30  # bytes of decoded training images
BLOCK = 256  # queries whose similarities to the pool are in memory at once


class _Colours(v2.ColorJitter):  # type: ignore[misc]
    """Colours of other light; an exact mask, the fourth channel, stays as it is."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([super().forward(image[:3]), image[3:]])


# No mirror images: writing on a package and the plan of a building tell instances apart.
AUGMENTATIONS: dict[str, Callable[[int], v2.Transform]] = {
    "none": lambda size: v2.Identity(),
    "photograph": lambda size: v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.85, 1.18), antialias=True),
            _Colours(brightness=0.3, contrast=0.3, saturation=0.2),
        ]
    ),
}


class ImageSource:
    """The images of a training set, augmented, of which the whole network learns."""

    def __init__(self, data: TrainingSet, image: ImageSpec, augmentation: str) -> None:
        self.data, self.image = data, image
        augment = AUGMENTATIONS[choose("augmentation", augmentation, AUGMENTATIONS)]
        self.augment = augment(image.size)
        squashed = replace(image, mode="squash")  # a batch needs one size
        kept = lru_cache(KEEP_IN_MEMORY // (3 * image.size**2))
        self.load = kept(lambda row: load_image(data.files[row], squashed))

    def read(self, rows: Indices) -> Tensor:
        """Return images (B, 3, S, S), uint8, not augmented."""
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(self.load, rows.tolist())))

    def batch(self, rows: Indices) -> Tensor:
        """Return network input (B, 3, S, S), each image augmented by torch's global generator."""
        return to_input(torch.stack([self.augment(image) for image in self.read(rows)]))

    def validate(self, net: nn.Module) -> Scores:
        """Return the similarities (queries, rows) of the validation benchmark under a network."""
        return benchmark_scores(net, self.data.validation, self.image)[0]


class MapSource:
    """Feature maps of a frozen backbone, computed once and shared by every head on it.

    backbone_id: what names the weights of the backbone.
    """

    def __init__(
        self, data: TrainingSet, image: ImageSpec, net: RetrievalNet, backbone_id: str, cache: Path
    ) -> None:
        files, read = data.files, with_masks(image)
        folder = cache / content_hash([backbone_id, read, data.id])
        squashed, exact = image_batches(files, replace(read, mode="squash")), image.truth == "cells"
        self.train = cache_maps(net.backbone, squashed, len(files), folder / "train", exact)
        self.validation = cache_benchmark(net.backbone, data.validation, image, folder)

    def read(self, rows: Indices) -> Tensor:
        """Return maps (B, C, H, W)."""
        return self.train.take(rows)

    batch = read

    def validate(self, head: nn.Module) -> Scores:
        """Return the similarities (queries, rows) of the validation benchmark under a head."""
        return self.validation.scores(head)


Source = ImageSource | MapSource


class Sample(NamedTuple):
    """The training images of a batch, and the pairs to learn from, where not every pair counts.

    weight: of the loss, 1 where every process has as much. pairs: places in the batch, as
    pytorch-metric-learning takes them: (anchors, positives, anchors, negatives).
    """

    rows: Indices
    weight: float = 1.0
    pairs: tuple[Indices, Indices, Indices, Indices] | None = None


def share(parts: Indices, group: Group) -> tuple[Indices, float]:
    """Return a process's parts (rows) of a batch, and the weight of its loss.

    (The processes' gradients are averaged evenly.) Raises `UserError` where it would have none.
    """
    if len(parts) < group.size:
        raise UserError(
            f"a batch of {len(parts)} landmarks or tuples cannot be shared by {group.size} "
            "processes: start fewer"
        )
    mine = parts[group.rank :: group.size]
    return mine, len(mine) * group.size / len(parts)


def landmark_batches(
    labels: Indices, spec: TrainSpec, seed: int, epoch: int, group: Group = SINGLE
) -> Iterator[Sample]:
    """Yield this process's share of an epoch's batches: `landmarks` of `views` images each."""
    landmarks, starts = np.unique(np.sort(labels), return_index=True)
    parts = np.split(np.argsort(labels, kind="stable"), starts[1:])  # of each, in their order
    views = dict(zip(landmarks.tolist(), parts, strict=True))
    for number in range(epoch * spec.batches, (epoch + 1) * spec.batches):
        rng = np.random.default_rng([seed, number])
        drawn = [
            rng.choice(views[one], spec.views, replace=len(views[one]) < spec.views)
            for one in rng.permutation(landmarks)[: spec.landmarks].tolist()
        ]
        mine, weight = share(np.array(drawn), group)
        yield Sample(mine.ravel(), weight)


def tuple_batches(
    data: TrainingSet,
    spec: TrainSpec,
    seed: int,
    epoch: int,
    source: Source,
    encode: nn.Module,
    group: Group = SINGLE,
) -> Iterator[Sample]:
    """Yield the same, of tuples with hard negatives (Radenovic, Tolias and Chum, TPAMI 2019).

    Query-positive pairs and a pool of images are drawn and described by `encode`, what `source`
    reads -> descriptors, as it is at the start of the epoch. Each query gets the images of the pool
    that lie nearest to it, at most one of a cluster and none of its own. A batch has queries, each
    followed by its positive and its negatives.

    Raises `UserError` where the training set has no or too few pairs.
    """
    mining, pairs = spec.mining, np.array(data.pairs, np.int64).reshape(-1, 2)
    assert mining is not None
    if len(pairs) < mining.queries:
        raise UserError(
            f"the training set has {len(pairs)} query-positive pairs, fewer than the "
            f"{mining.queries} of an epoch: lower train.mining.queries, or leave train.mining out "
            "for a set without pairs"
        )
    rng, clusters = np.random.default_rng([seed, epoch]), np.array(data.labels)
    pairs = pairs[rng.permutation(len(pairs))[: mining.queries]]
    pool = rng.permutation(len(clusters))[: mining.pool]
    vectors = _extract(source, encode, np.concatenate([pairs[:, 0], pool]), group)
    queries, rest = vectors[: len(pairs)], vectors[len(pairs) :]
    found = hardest(queries, clusters[pairs[:, 0]], rest, clusters[pool], mining.negatives)
    for batch in np.split(np.column_stack([pairs, pool[found]]), spec.batches):
        tuples, weight = share(batch, group)
        first = np.arange(len(tuples)) * tuples.shape[1]
        negatives = (first[:, None] + np.arange(2, tuples.shape[1])).ravel()
        anchors = first.repeat(mining.negatives)
        yield Sample(tuples.ravel(), weight, (first, first + 1, anchors, negatives))


def _extract(source: Source, encode: nn.Module, rows: Indices, group: Group) -> Descriptors:
    """Return the descriptors (len(rows), D) of training images, each process doing a part."""
    mine = rows[group.rank :: group.size]
    parts = np.array_split(np.arange(len(mine)), range(64, len(mine), 64))
    batches = ((part, source.read(mine[part])) for part in parts)
    shares = group.gather(extract(encode, batches, len(mine), "mining"))
    found = np.empty((len(rows), shares[0].shape[1]), np.float32)
    for rank, part in enumerate(shares):
        found[rank :: group.size] = part
    return found


def hardest(
    queries: Descriptors, own: Indices, pool: Descriptors, clusters: Indices, negatives: int
) -> Indices:
    """Return the rows of each query's most similar pool images: (Q, negatives).

    One of a cluster, none of the query's own, most similar first; equal ones in the order of the
    pool. queries: unit descriptors (Q, D). own: their clusters (Q,). pool: unit descriptors (P, D).
    clusters: theirs (P,). Raises `UserError` for a pool of too few clusters.
    """
    found = np.empty((len(queries), negatives), np.int64)
    for start in range(0, len(queries), BLOCK):
        order = np.argsort(-(queries[start : start + BLOCK] @ pool.T), axis=1, kind="stable")
        for number, row in enumerate(order, start):
            names, firsts = np.unique(clusters[row], return_index=True)  # each cluster's nearest
            firsts = np.sort(firsts[names != own[number]])[:negatives]
            if len(firsts) < negatives:
                raise UserError(
                    f"a pool of {len(pool)} images has {len(firsts)} clusters beside a query's "
                    f"own, fewer than {negatives} negatives: raise train.mining.pool, or lower "
                    "negatives"
                )
            found[number] = row[firsts]
    return found
