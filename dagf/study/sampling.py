"""Which images each batch of a training has, and which share of them each process takes.

Every batch follows from (seed, number of the batch) and, where negatives are mined, from the weights at the start of
its epoch: nothing is carried from batch to batch, so a killed run goes on with the batches of an unbroken one.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dagf.distributed import SINGLE, Group
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.study.config import TrainSpec

P = TypeVar("P")
Rows = NDArray[np.int64]


def share(parts: Sequence[P], group: Group) -> tuple[list[P], float]:
    """A process's parts of a batch, and the weight of its loss: the processes' gradients are averaged evenly.

    Raises `UserError` where a process would have none.
    """
    if len(parts) < group.size:
        raise UserError(
            f"a batch of {len(parts)} landmarks or tuples cannot be shared by {group.size} processes: start fewer"
        )
    mine = list(parts[group.rank :: group.size])
    return mine, len(mine) * group.size / len(parts)


class Sample(NamedTuple):
    """The training images of a batch; and the pairs to learn from, where not every pair of them counts.

    weight: of the loss, 1 where every process has as much. pairs: places in the batch, as pytorch-metric-learning takes
    them: (anchors, positives, anchors, negatives).
    """

    rows: Rows
    weight: float = 1.0
    pairs: tuple[Rows, Rows, Rows, Rows] | None = None


class Sampler(Protocol):
    """Chooses the images of every batch."""

    def start(self, epoch: int, net: RetrievalNet) -> None:
        """Prepare the batches of an epoch; `net` has the weights that the epoch starts from."""

    def draw(self, number: int) -> Sample:
        """This process's share of batch `number`, counted from the first of the training."""


class LandmarkSampler:
    """`landmarks` landmarks with `views` images each, drawn anew for every batch."""

    def __init__(self, labels: Rows, spec: TrainSpec, seed: int, group: Group = SINGLE) -> None:
        self.spec, self.seed, self.group = spec, seed, group
        self.landmarks, starts = np.unique(np.sort(labels), return_index=True)
        views = np.split(
            np.argsort(labels, kind="stable"), starts[1:]
        )  # the rows of each landmark, in their order
        self.views = dict(zip(self.landmarks.tolist(), views, strict=True))

    def start(self, epoch: int, net: RetrievalNet) -> None:
        """Nothing to prepare."""

    def draw(self, number: int) -> Sample:
        """This process's landmarks of batch `number`."""
        rng = np.random.default_rng([self.seed, number])
        rows = []
        for landmark in rng.permutation(self.landmarks)[: self.spec.landmarks].tolist():
            views = self.views[landmark]
            rows.append(rng.choice(views, self.spec.views, replace=len(views) < self.spec.views))
        mine, weight = share(rows, self.group)
        return Sample(np.concatenate(mine), weight)
