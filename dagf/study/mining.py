"""Tuples with hard negatives (Radenovic, Tolias and Chum, TPAMI 2019): a query, its positive, and what it takes for it.

At the start of every epoch query-positive pairs and a pool of images are drawn, all are described by the network as it
is, and each query gets the images of the pool that lie nearest to it, at most one of a cluster and none of its own.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from dagf.datasets.training_sets import TrainingSet
from dagf.distributed import Group
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import Descriptors
from dagf.study.config import TrainSpec
from dagf.study.sampling import Rows, Sample, share
from dagf.study.sources import Source

BLOCK = 256  # queries whose similarities to the pool are in memory at once


def hardest(
    queries: Descriptors, own: Rows, pool: Descriptors, clusters: Rows, negatives: int
) -> NDArray[np.int64]:
    """For each query the rows of its most similar pool images, one a cluster, none of its own: (Q, negatives).

    queries: unit descriptors (Q, D). own: their clusters (Q,). pool: unit descriptors (P, D). clusters: theirs (P,).
    Most similar first; equal ones in the order of the pool. Raises `UserError` for a pool of too few clusters.
    """
    found = np.empty((len(queries), negatives), np.int64)
    for start in range(0, len(queries), BLOCK):
        order = np.argsort(-(queries[start : start + BLOCK] @ pool.T), axis=1, kind="stable")
        for number, row in enumerate(order, start):
            names, firsts = np.unique(
                clusters[row], return_index=True
            )  # the nearest image of each cluster
            firsts = np.sort(firsts[names != own[number]])[:negatives]
            if len(firsts) < negatives:
                raise UserError(
                    f"a pool of {len(pool)} images has {len(firsts)} clusters beside a query's own, fewer than "
                    f"{negatives} negatives: raise train.mining.pool, or lower negatives"
                )
            found[number] = row[firsts]
    return found


class TupleSampler:
    """The tuples of one epoch after the other, an equal number in every batch.

    Raises `UserError` where the training set has no or too few pairs.
    """

    def __init__(
        self, data: TrainingSet, spec: TrainSpec, seed: int, source: Source, group: Group
    ) -> None:
        assert spec.mining is not None
        self.mining, self.seed, self.source, self.group = spec.mining, seed, source, group
        self.pairs, self.clusters = (
            np.array(data.pairs, np.int64).reshape(-1, 2),
            np.array(data.labels),
        )
        self.batches = spec.steps * spec.accumulate
        if len(self.pairs) < self.mining.queries:
            raise UserError(
                f"the training set has {len(self.pairs)} query-positive pairs, fewer than the {self.mining.queries} of "
                "an epoch: lower train.mining.queries, or leave train.mining out for a set without pairs"
            )
        self.tuples: NDArray[np.int64] = np.empty((0, 2 + self.mining.negatives), np.int64)

    def start(self, epoch: int, net: RetrievalNet) -> None:
        """Draw the pairs and the pool of an epoch, and mine."""
        rng = np.random.default_rng([self.seed, epoch])
        pairs = self.pairs[rng.permutation(len(self.pairs))[: self.mining.queries]]
        pool = rng.permutation(len(self.clusters))[: self.mining.pool]
        vectors = self._extract(net, np.concatenate([pairs[:, 0], pool]))
        queries, rest = vectors[: len(pairs)], vectors[len(pairs) :]
        own, clusters = self.clusters[pairs[:, 0]], self.clusters[pool]
        self.tuples = np.column_stack(
            [pairs, pool[hardest(queries, own, rest, clusters, self.mining.negatives)]]
        )

    def _extract(self, net: RetrievalNet, rows: Rows) -> Descriptors:
        """Descriptors of training images, each process doing a part of them."""
        mine = np.arange(len(rows))[self.group.rank :: self.group.size]
        found = torch.zeros(len(rows), net.dimensions, device=next(net.parameters()).device)
        found[torch.from_numpy(mine)] = torch.from_numpy(self.source.extract(net, rows[mine])).to(
            found.device
        )
        table: Descriptors = self.group.total(found).cpu().numpy()
        return table

    def draw(self, number: int) -> Sample:
        """This process's tuples of batch `number`: query, positive, negatives; then the next tuple."""
        size, place = self.mining.queries // self.batches, number % self.batches
        mine, weight = share(list(self.tuples[place * size : (place + 1) * size]), self.group)
        tuples = np.array(mine)
        queries = np.arange(len(tuples)) * tuples.shape[1]
        negatives = (queries[:, None] + np.arange(2, tuples.shape[1])).ravel()
        return Sample(
            tuples.ravel(),
            weight,
            (queries, queries + 1, queries.repeat(self.mining.negatives), negatives),
        )
