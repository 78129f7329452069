"""Jobs of one thread each, side by side: the same results on any number of cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from joblib import Parallel, delayed

from dagf.console import HEADLESS, cores, end_with, progress
from dagf.distributed import process_group

J = TypeVar("J")


def side_by_side(work: Callable[[J], object], jobs: Sequence[J], what: str) -> None:
    """Do `work` for every job in worker processes on CPUs; on a GPU, or for one job, here.

    Here, too, where torchrun started this process: it shares each job with the others, which have
    the same order. `work` leaves its result on disk and must be picklable. What a job raises, this
    raises. Ctrl-C ends the workers at once.
    """
    workers = min(cores(), len(jobs))
    if torch.cuda.is_available() or workers <= 1 or process_group().size > 1:
        for job in progress(jobs, what, len(jobs), "run"):
            with one_thread():
                work(job)
        return
    pool = Parallel(workers, return_as="generator_unordered", batch_size=1, max_nbytes=None)
    done = pool(delayed(_in_worker)(work, job, os.getpid()) for job in jobs)
    for _ in progress(done, what, len(jobs), "run"):
        pass


def _in_worker(work: Callable[[J], object], job: J, parent: int) -> None:
    os.environ[HEADLESS] = "1"  # the bar is the parent's
    end_with(parent)
    with one_thread():
        work(job)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread on CPUs: more of them change the last bits of trained weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if torch.cuda.is_available() else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
