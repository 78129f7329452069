"""Which images each batch of a training has, and which share of them each process takes.

Every batch follows from (seed, number of the batch) and, where negatives are mined, from the
weights at the start of its epoch: nothing is carried from batch to batch, so a killed run goes on
with the batches of an unbroken one.
"""

from typing import NamedTuple

import numpy as np

from dagf.datasets.benchmark import Indices, TrainingSet
from dagf.distributed import SINGLE, Group
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import Descriptors
from dagf.study.config import TrainSpec
from dagf.study.sources import Source

BLOCK = 256  # queries whose similarities to the pool are in memory at once


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


class LandmarkSampler:
    """`landmarks` landmarks with `views` images each, drawn anew for every batch."""

    def __init__(self, labels: Indices, spec: TrainSpec, seed: int, group: Group = SINGLE) -> None:
        self.spec, self.seed, self.group = spec, seed, group
        self.landmarks, starts = np.unique(np.sort(labels), return_index=True)
        rows = np.split(np.argsort(labels, kind="stable"), starts[1:])  # of each, in their order
        self.views = dict(zip(self.landmarks.tolist(), rows, strict=True))

    def start(self, epoch: int, net: RetrievalNet) -> None:
        """Prepare the batches of an epoch: nothing to do."""

    def draw(self, number: int) -> Sample:
        """Return this process's share of batch `number`, counted from the first of the training."""
        rng = np.random.default_rng([self.seed, number])
        rows = []
        for landmark in rng.permutation(self.landmarks)[: self.spec.landmarks].tolist():
            views = self.views[landmark]
            rows.append(rng.choice(views, self.spec.views, replace=len(views) < self.spec.views))
        mine, weight = share(np.array(rows), self.group)
        return Sample(mine.ravel(), weight)


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
        self.tuples: Indices = np.empty((0, 2 + self.mining.negatives), np.int64)

    def start(self, epoch: int, net: RetrievalNet) -> None:
        """Mine the tuples of an epoch; `net` has the weights that it starts from."""
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
        tuples, weight = share(self.tuples[place * size : (place + 1) * size], self.group)
        queries = np.arange(len(tuples)) * tuples.shape[1]
        negatives = (queries[:, None] + np.arange(2, tuples.shape[1])).ravel()
        anchors = queries.repeat(self.mining.negatives)
        return Sample(tuples.ravel(), weight, (queries, queries + 1, anchors, negatives))

    def _extract(self, net: RetrievalNet, rows: Indices) -> Descriptors:
        """Return the descriptors of training images, each process doing a part of them."""
        rank, size = self.group.rank, self.group.size
        parts = self.group.gather(self.source.extract(net, rows[rank::size]))
        found = np.empty((len(rows), net.dimensions), np.float32)
        for number, part in enumerate(parts):
            found[number::size] = part
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
