"""Independent jobs of one thread each, side by side: the same results on any number of cores."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from dagf.common import progress
from dagf.study.machine import cores

J = TypeVar("J")


def side_by_side(work: Callable[[J], object], jobs: Sequence[J], what: str) -> None:
    """Do `work` for every job, in worker processes on CPUs; on a GPU, or for a single job, here.

    `work` leaves its result on disk and must be picklable. What a job raises, this raises.
    """
    workers = min(cores(), len(jobs))
    if torch.cuda.is_available() or workers <= 1:
        for job in progress(jobs, what, unit="run"):
            with one_thread():
                work(job)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for _ in progress(pool.map(work, jobs), what, total=len(jobs), unit="run"):
            pass


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread on CPUs, also for a job that is done alone: more of them change the last bits of trained weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if torch.cuda.is_available() else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
