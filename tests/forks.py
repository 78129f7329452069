"""Jobs in processes of their own, forked from one that has imported everything.

A process counts the operations on files in its folder, and can be killed at any of them. Where it
is killed as it begins to write a file, it leaves half of one behind: writes are not counted.
"""

import json
import os
import resource
import signal
import traceback
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from sys import addaudithook
from typing import Any

HALF = b"half of a file"
NAMES = ("rename", "remove", "rmdir", "mkdir", "link", "chmod", "scandir", "listdir")
EVENTS = {"open", *(f"os.{name}" for name in NAMES)}
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.jobs"])


@dataclass(frozen=True)
class Order:
    """One process: a job of `tests.jobs`, its folder, and what befalls it.

    die: the number of the operation at which it is killed (0: none). limit: the bytes that a file
    may have (0: any).
    """

    job: str
    folder: Path
    given: dict[str, Any] = field(default_factory=dict)
    die: int = 0
    limit: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Ended:
    """How a process ended: 0, 2 for a mistake told in one line, 1 for a traceback, -9 for killed.

    operations: those on files in its folder, until the end.
    """

    status: int
    said: str = ""
    operations: int = 0


def run(*orders: Order) -> list[Ended]:
    """Do the orders at the same time, each in a process of its own; return how they ended."""
    begun = []
    for order in orders:
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_obey, args=(order, sender))
        process.start()
        sender.close()
        begun.append((process, receiver))
    ended = []
    for process, receiver in begun:
        try:
            ended.append(receiver.recv())
        except EOFError:
            ended.append(None)
        process.join()
    return [one or Ended(process.exitcode) for one, (process, _) in zip(ended, begun, strict=True)]


class _Watch:
    """Counts operations inside `folder`, and kills this process at one of them."""

    def __init__(self, folder: Path, die: int) -> None:
        self.folder, self.die, self.count = str(folder), die, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or not self._inside(args):
            return
        self.count += 1
        if self.count == self.die:
            writes = event == "open" and str(args[1]).startswith(("w", "x"))
            if writes and not Path(args[0]).is_dir():  # of which tempfile opens a file with no name
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                with os.fdopen(os.open(args[0], flags), "wb") as stream:
                    stream.write(HALF)
            os.kill(os.getpid(), signal.SIGKILL)

    def _inside(self, args: tuple[Any, ...]) -> bool:
        if not args or not isinstance(args[0], str | bytes | os.PathLike):
            return False
        # names relative to an open folder come from rmtree, which only the job's folders meet
        relative = len(args) == 2 and args[1] not in (-1, None)
        return os.fsdecode(args[0]).startswith(self.folder) or relative


def _obey(order: Order, answer: Connection) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "DAGF_HEADLESS": "1", "NO_PROXY": "*"}
    import torch

    from tests.jobs import JOBS, told

    torch.set_num_threads(order.threads)
    watch = _Watch(order.folder, order.die)
    try:
        if order.limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order.limit, order.limit))
        addaudithook(watch)
        given = json.loads(json.dumps(order.given, default=str))
        JOBS[order.job](order.folder, **given)
        status, said = 0, ""
    except BaseException as error:
        said = told(error)
        status, said = (2, said) if said else (1, traceback.format_exc())
    answer.send(Ended(status, said, watch.count))
