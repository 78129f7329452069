"""Jobs of one thread each, side by side: the same results on any number of cores."""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from joblib import Parallel, delayed

from dagf.console import HEADLESS, cores, end_with, progress
from dagf.distributed import process_group

J = TypeVar("J")
# So that glibc keeps what a worker frees: each large tensor would be given back to the system, and
# got anew page by page, no small part of a training step.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


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
        # More threads on CPUs change the last bits of trained weights.
        torch.set_num_threads(before if torch.cuda.is_available() else 1)
        try:
            work(job)
        finally:
            torch.set_num_threads(before)

    if torch.cuda.is_available() or workers <= 1 or process_group().size > 1:
        done = map(alone, jobs)
    else:
        os.environ |= KEEP_MEMORY  # which glibc reads when a process starts
        pool = Parallel(workers, return_as="generator_unordered", batch_size=1, max_nbytes=None)
        done = pool(delayed(alone)(job) for job in jobs)
    for _ in progress(done, what, len(jobs), "run"):
        pass
