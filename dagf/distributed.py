"""The processes that work together: one, or those that torchrun started."""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dagf.devices import take_gpu

PATIENCE = timedelta(days=1)  # others' shares may take hours; torchrun notices if one of them dies


@dataclass(frozen=True)
class Group:
    """The processes that train, extract or search together; `rank` is this one's number."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, whatever can be pickled, in the order of their ranks."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return found


SINGLE = Group()


def process_group() -> Group:
    """Return the group of this process: NCCL between GPUs, gloo between CPUs.

    Joined once, as torchrun's store would still hold the addresses of the first time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE
    if not dist.is_initialized():
        take_gpu()
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Group(dist.get_rank(), dist.get_world_size())
