"""Which images each batch of a training has, and which share of them each process takes.

Every batch follows from (seed, number of the batch) and, where negatives are mined, from the
weights at the start of its epoch: nothing is carried from batch to batch, so a killed run goes on
with the batches of an unbroken one.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dagf.datasets.training_sets import TrainingSet
from dagf.distributed import SINGLE, Group
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import Descriptors
from dagf.study.config import TrainSpec
from dagf.study.sources import Source

P = TypeVar("P")
Rows = NDArray[np.int64]
BLOCK = 256  # queries whose similarities to the pool are in memory at once


class Sample(NamedTuple):
    """The training images of a batch, and the pairs to learn from, where not every pair counts.

    weight: of the loss, 1 where every process has as much. pairs: places in the batch, as
    pytorch-metric-learning takes them: (anchors, positives, anchors, negatives).
    """

    rows: Rows
    weight: float = 1.0
    pairs: tuple[Rows, Rows, Rows, Rows] | None = None


class Sampler(Protocol):
    """Chooses the images of every batch."""

    def start(self, epoch: int, net: RetrievalNet) -> None:
        """Prepare the batches of an epoch; `net` has the weights that it starts from."""

    def draw(self, number: int) -> Sample:
        """Return this process's share of batch `number`, counted from the first of the training."""


def share(parts: Sequence[P], group: Group) -> tuple[list[P], float]:
    """Return a process's parts of a batch, and the weight of its loss.

    (The processes' gradients are averaged evenly.) Raises `UserError` where it would have none.
    """
    if len(parts) < group.size:
        raise UserError(
            f"a batch of {len(parts)} landmarks or tuples cannot be shared by {group.size} "
            "processes: start fewer"
        )
    mine = list(parts[group.rank :: group.size])
    return mine, len(mine) * group.size / len(parts)


class LandmarkSampler:
    """`landmarks` landmarks with `views` images each, drawn anew for every batch."""

    def __init__(self, labels: Rows, spec: TrainSpec, seed: int, group: Group = SINGLE) -> None:
        self.spec, self.seed, self.group = spec, seed, group
        self.landmarks, starts = np.unique(np.sort(labels), return_index=True)
        rows = np.split(np.argsort(labels, kind="stable"), starts[1:])  # of each, in their order
        self.views = dict(zip(self.landmarks.tolist(), rows, strict=True))

    def start(self, epoch: int, net: RetrievalNet) -> None:
        """Nothing to prepare."""

    def draw(self, number: int) -> Sample:
        rng = np.random.default_rng([self.seed, number])
        rows = []
        for landmark in rng.permutation(self.landmarks)[: self.spec.landmarks].tolist():
            views = self.views[landmark]
            rows.append(rng.choice(views, self.spec.views, replace=len(views) < self.spec.views))
        mine, weight = share(rows, self.group)
        return Sample(np.concatenate(mine), weight)


class TupleSampler:
    """Tuples with hard negatives (Radenovic, Tolias and Chum, TPAMI 2019), as many in every batch.

    At the start of every epoch query-positive pairs and a pool of images are drawn, all are
    described by the network as it is, and each query gets the images of the pool that lie nearest
    to it, at most one of a cluster and none of its own.

    Raises `UserError` where the training set has no or too few pairs.
    """

    def __init__(
        self, data: TrainingSet, spec: TrainSpec, seed: int, source: Source, group: Group
    ) -> None:
        assert spec.mining is not None
        self.mining, self.seed, self.source, self.group = spec.mining, seed, source, group
        self.pairs = np.array(data.pairs, np.int64).reshape(-1, 2)
        self.clusters = np.array(data.labels)
        self.batches = spec.steps * spec.accumulate
        if len(self.pairs) < self.mining.queries:
            raise UserError(
                f"the training set has {len(self.pairs)} query-positive pairs, fewer than the "
                f"{self.mining.queries} of an epoch: lower train.mining.queries, or leave "
                "train.mining out for a set without pairs"
            )
        self.tuples: Rows = np.empty((0, 2 + self.mining.negatives), np.int64)

    def start(self, epoch: int, net: RetrievalNet) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        pairs = self.pairs[rng.permutation(len(self.pairs))[: self.mining.queries]]
        pool = rng.permutation(len(self.clusters))[: self.mining.pool]
        vectors = self._extract(net, np.concatenate([pairs[:, 0], pool]))
        queries, rest = vectors[: len(pairs)], vectors[len(pairs) :]
        own, clusters = self.clusters[pairs[:, 0]], self.clusters[pool]
        negatives = pool[hardest(queries, own, rest, clusters, self.mining.negatives)]
        self.tuples = np.column_stack([pairs, negatives])

    def draw(self, number: int) -> Sample:
        """Return this process's tuples of batch `number`: query, positive, negatives; the next."""
        size, place = self.mining.queries // self.batches, number % self.batches
        mine, weight = share(list(self.tuples[place * size : (place + 1) * size]), self.group)
        tuples = np.array(mine)
        queries = np.arange(len(tuples)) * tuples.shape[1]
        negatives = (queries[:, None] + np.arange(2, tuples.shape[1])).ravel()
        anchors = queries.repeat(self.mining.negatives)
        return Sample(tuples.ravel(), weight, (queries, queries + 1, anchors, negatives))

    def _extract(self, net: RetrievalNet, rows: Rows) -> Descriptors:
        """Descriptors of training images, each process doing a part of them."""
        mine = np.arange(len(rows))[self.group.rank :: self.group.size]
        device = next(net.parameters()).device
        found = torch.zeros(len(rows), net.dimensions, device=device)
        found[torch.from_numpy(mine)] = torch.from_numpy(self.source.extract(net, rows[mine])).to(
            device
        )
        table: Descriptors = self.group.total(found).cpu().numpy()
        return table


def hardest(
    queries: Descriptors, own: Rows, pool: Descriptors, clusters: Rows, negatives: int
) -> Rows:
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
