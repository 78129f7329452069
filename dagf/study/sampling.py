"""Which images each batch of a training has, and which share of them each process takes.

Every batch follows from (seed, number of the batch) and, where negatives are mined, from the weights at the start of
its epoch: nothing is carried from batch to batch, so a killed run goes on with the batches of an unbroken one.
"""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from dagf.common import UserError
from dagf.model.network import RetrievalNet
from dagf.study.config import TrainSpec

P = TypeVar("P")
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Team:
    """The processes that train together: one, or those that torchrun started."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def share(self, parts: Sequence[P]) -> tuple[list[P], float]:
        """This process's parts of a batch, and the weight of its loss: the processes' gradients are averaged evenly.

        Raises `UserError` where a process would have none.
        """
        if len(parts) < self.size:
            raise UserError(
                f"a batch of {len(parts)} landmarks or tuples cannot be shared by {self.size} processes: start fewer"
            )
        mine = list(parts[self.rank :: self.size])
        return mine, len(mine) * self.size / len(parts)

    def total(self, values: Tensor) -> Tensor:
        """The sum of the processes' values, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


def team() -> Team:
    """The team of this process (NCCL between GPUs, gloo between CPUs), joined once and left when the process ends.

    Not joined anew for each run: torchrun's store would still hold the addresses of the first time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    return Team(dist.get_rank(), dist.get_world_size())


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

    def __init__(self, labels: Rows, spec: TrainSpec, seed: int, who: Team = Team()) -> None:
        self.spec, self.seed, self.who = spec, seed, who
        self.landmarks, starts = np.unique(np.sort(labels), return_index=True)
        views = np.split(np.argsort(labels, kind="stable"), starts[1:])  # the rows of each landmark, in their order
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
        mine, weight = self.who.share(rows)
        return Sample(np.concatenate(mine), weight)
