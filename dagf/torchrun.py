"""The processes that torchrun started, as a `Group`."""

import atexit
import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dagf.devices import take_gpu
from dagf.distributed import SINGLE, Group

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # others' shares may take hours; torchrun notices if one of them dies


class Processes(Group):
    """Several processes."""

    def wait(self) -> None:
        dist.barrier()

    def total(self, values: T) -> T:
        dist.all_reduce(values)  # type: ignore[call-overload]
        return values

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


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
    return Processes(dist.get_rank(), dist.get_world_size())
