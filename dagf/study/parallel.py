"""Jobs of one thread each, side by side: the same results on any number of cores."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import torch

from dagf.console import cores, progress
from dagf.distributed import process_group

J = TypeVar("J")


class Task(NamedTuple):
    """Work without arguments, and the keys of the tasks that must be done before it; those not planned count as done.

    `work` leaves its result on disk and must be picklable.
    """

    work: Callable[[], object]
    needs: tuple[Hashable, ...] = ()


def side_by_side(work: Callable[[J], object], jobs: Sequence[J], what: str) -> None:
    """Do `work` for every job, each on its own."""
    pipeline({number: Task(partial(work, job)) for number, job in enumerate(jobs)}, what)


def pipeline(tasks: Mapping[Hashable, Task], what: str) -> None:
    """Do all tasks, each after those that it needs, in worker processes on CPUs; on a GPU, or alone, here.

    Here, too, where torchrun started this process: it shares each task with the others, which have the same order.
    A task that is needed stands before those that need it. What a task raises, this raises. Ctrl-C ends the workers
    at once: what they keep on disk is theirs to make whole.
    """
    workers = min(cores(), len(tasks))
    if torch.cuda.is_available() or workers <= 1 or process_group().size > 1:
        for task in progress(tasks.values(), what, total=len(tasks), unit="run"):
            with one_thread():
                task.work()
        return
    with ProcessPoolExecutor(workers, _context(), _begin) as pool:
        try:
            for _ in progress(_finished(tasks, pool, workers), what, total=len(tasks), unit="run"):
                pass
        except KeyboardInterrupt:
            for (
                worker
            ) in multiprocessing.active_children():  # else the pool waits for what they are at
                worker.terminate()
            raise


def _context() -> multiprocessing.context.BaseContext:
    """How workers start: from a server that has imported everything once, where the system can fork, else each anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dagf.study.study"])
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the server inherits
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
    return context


def _begin() -> None:
    """What a worker does first. Ctrl-C, which a terminal sends to all, is for the process that started the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End this worker when the process that asked for it is gone: a killed job must not go on in its workers."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _finished(
    tasks: Mapping[Hashable, Task], pool: ProcessPoolExecutor, workers: int
) -> Iterator[Hashable]:
    waiting, running = dict(tasks), dict[Future[object], Hashable]()
    while waiting or running:
        undone = {*waiting, *running.values()}
        ready = [key for key, task in waiting.items() if undone.isdisjoint(task.needs)]
        for key in ready[: workers - len(running)]:
            running[pool.submit(waiting.pop(key).work)] = key
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            yield running.pop(future)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread on CPUs, also for a job that is done alone: more of them change the last bits of trained weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if torch.cuda.is_available() else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
