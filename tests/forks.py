"""Steps of the study in processes of their own, forked from one that has imported everything.

A process counts the operations on files in its folder, and can be killed at any of them. Where it
is killed as it begins to write a file, it leaves half of one behind: writes are not counted.
"""

import json
import os
import resource
import signal
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from sys import addaudithook
from typing import Any, NamedTuple

import torch

from dagf.analysis.tables import keep_table
from dagf.collections.index import Collection, build, open_encoder
from dagf.errors import UserError
from dagf.files import write_json
from dagf.paths import ROOT
from dagf.retrieval import extract as extraction
from dagf.study import parallel
from dagf.study.study import open_study
from tests.fixtures import Workshop, configured, empty_project, training_set

NAMES = ("rename", "remove", "rmdir", "mkdir", "link", "chmod", "scandir", "listdir")
EVENTS = {"open", *(f"os.{name}" for name in NAMES)}
get_context("forkserver").set_forkserver_preload(["tests.forks"])


def train(folder: Path, photographs: str, **changes: Any) -> None:
    """Train a run."""
    Workshop(folder, training_set(Path(photographs))).train(configured(epochs=3, **changes))


def extract(folder: Path, home: str, run: str, photos: str) -> None:
    """Bring a collection up to all photographs, and build and ask its FAISS index."""
    os.environ[ROOT] = home
    extraction.SHARD = 8
    files = sorted(Path(photos).glob("*.jpg"))
    build(files, open_encoder(run), folder / "index")
    found = Collection.load(folder / "index").approximate(files[5], 4)
    write_json(folder / "found.json", found)


def study(folder: Path, profile: str) -> None:
    """Draw, train, evaluate, and keep the table."""
    os.environ[ROOT] = str(empty_project(folder))
    parallel.cores = lambda: 1  # no processes of its own: they take seconds to start
    table = open_study(profile).table()
    keep_table("main", table.round(6), "Main", "What was measured.")


JOBS: dict[str, Any] = {"training": train, "extraction": extract, "study": study}


class Ended(NamedTuple):
    """How a process ended: 0, 2 for a mistake told in one line, 1 for a traceback, -9 for killed.

    operations: those on files in its folder, until the end.
    """

    status: int
    said: str = ""
    operations: int = 0


def run(
    job: str, folder: Path, given: dict[str, Any], times: int = 1, **befalls: int
) -> list[Ended]:
    """Do one of `JOBS` so many times at once, each in a process of its own; return how they ended.

    befalls: die (the number of the operation at which it is killed), limit (the bytes that a file
    may have), threads.
    """
    given = json.loads(json.dumps(given, default=str))
    pools = [ProcessPoolExecutor(1, get_context("forkserver")) for _ in range(times)]
    ended = [pool.submit(_done, job, folder, given, befalls) for pool in pools]
    killed = [isinstance(one.exception(), BrokenProcessPool) for one in ended]
    for pool in pools:
        pool.shutdown()
    return [Ended(-9) if gone else one.result() for one, gone in zip(ended, killed, strict=True)]


def _done(job: str, folder: Path, given: dict[str, Any], befalls: dict[str, int]) -> Ended:
    os.environ |= {"OMP_NUM_THREADS": "1", "DAGF_HEADLESS": "1"}
    torch.set_num_threads(befalls.get("threads", 1))
    counted, status, said = [0], 0, ""

    def watch(event: str, args: tuple[Any, ...]) -> None:
        """Count operations inside the folder, and kill this process at one of them."""
        if event not in EVENTS or not _inside(str(folder), args):
            return
        counted[0] += 1
        if counted[0] == befalls.get("die"):
            writes = event == "open" and str(args[1]).startswith(("w", "x"))
            if writes and not Path(args[0]).is_dir():  # of which tempfile opens a file with no name
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                with os.fdopen(os.open(args[0], flags), "wb") as stream:
                    stream.write(b"half of a file")
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        if limit := befalls.get("limit"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        addaudithook(watch)
        JOBS[job](folder, **given)
    except UserError as error:
        status, said = 2, str(error)
    except BaseException as error:  # as the command line tells it
        fault = isinstance(error, OSError) and error.strerror
        status, said = (2, fault) if fault else (1, traceback.format_exc())
    return Ended(status, said, counted[0])


def _inside(folder: str, args: tuple[Any, ...]) -> bool:
    if not args or not isinstance(args[0], str | bytes | os.PathLike):
        return False
    # Names relative to an open folder come from rmtree, which only the job's folders meet.
    relative = len(args) == 2 and args[1] not in (-1, None)
    return os.fsdecode(args[0]).startswith(folder) or relative
