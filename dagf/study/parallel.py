"""Jobs of one thread each, side by side: the same results on any number of cores."""

import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from joblib import Parallel, delayed

from dagf.console import HEADLESS, cores, end_with, progress
from dagf.distributed import process_group

J = TypeVar("J")
KEEP_MEMORY = {-4: 0, -1: 2**31 - 1}  # mallopt's M_MMAP_MAX and M_TRIM_THRESHOLD


def side_by_side(work: Callable[[J], object], jobs: Sequence[J], what: str) -> None:
    """Do `work` for every job in worker processes on CPUs; on a GPU, or for one job, here.

    Here, too, where torchrun started this process: it shares each job with the others, which have
    the same order. `work` leaves its result on disk. What a job raises, this raises. Ctrl-C ends
    the workers at once.
    """
    workers, parent, before = min(cores(), len(jobs)), os.getpid(), torch.get_num_threads()

    def alone(job: J) -> None:
        if os.getpid() != parent:
            os.environ[HEADLESS] = "1"  # the bar is the parent's
            end_with(parent)
            keep_memory()
        # More threads on CPUs change the last bits of trained weights.
        torch.set_num_threads(before if torch.cuda.is_available() else 1)
        try:
            work(job)
        finally:
            torch.set_num_threads(before)

    if torch.cuda.is_available() or workers <= 1 or process_group().size > 1:
        done = map(alone, jobs)
    else:
        pool = Parallel(workers, return_as="generator_unordered", batch_size=1, max_nbytes=None)
        done = pool(delayed(alone)(job) for job in jobs)
    for _ in progress(done, what, len(jobs), "run"):
        pass


def keep_memory() -> None:
    """Let this process keep the memory that it frees, until its end, where its C library is glibc.

    Each large tensor would be given back to the system, and got anew page by page: no small part
    of a training step.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in KEEP_MEMORY.items():
            library.mallopt(option, value)
