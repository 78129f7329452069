"""The processes that work together: one, or those that torchrun started (Slurm and Kubernetes start torchrun)."""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """This process's number among those that train, extract or search together, and how many they are."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()

    def total(self, values: Tensor) -> Tensor:
        """The sum of the processes' values, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks; anything that can be pickled."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


SINGLE = Group()
PATIENCE = timedelta(
    days=1
)  # the others' shares may take hours more; that one of them died is torchrun's to notice


def process_group() -> Group:
    """The team of this process (NCCL between GPUs, gloo between CPUs), joined once and left when the process ends.

    Not joined anew for each run: torchrun's store would still hold the addresses of the first time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Group(dist.get_rank(), dist.get_world_size())
