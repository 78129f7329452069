"""Work of `tests.jobs` in processes that cost a fork: killed at an operation on files, without room, without rights.

A process is killed, as if by `kill -9`, at its n-th operation (open, rename, remove, make) inside the folder that it
works in: what lies on the disk changes at such operations only, so a few hundred numbers are all the moments there are.
Where the operation opens a file to write it, half of something is written first.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
HALF = b'{"half": [1, 2, '
EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.chmod",
    "os.scandir",
    "os.listdir",
}


@dataclass(frozen=True)
class Order:
    """One process: a job of `tests.jobs`, its folder, and what befalls it.

    die: the number of the operation at which it is killed (0: none). powerless: root, too, may write only where the
    bits allow it. limit: the bytes that a file may have (0: any).
    """

    job: str
    folder: Path
    given: dict[str, Any] = field(default_factory=dict)
    die: int = 0
    powerless: bool = False
    limit: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Ended:
    """How a process ended: 0, 2 for a mistake that is told in one line, 1 for a traceback, -9 for killed.

    operations: those on files in its folder, until the end.
    """

    status: int
    said: str = ""
    operations: int = 0


class Forks:
    """The process that has imported everything, and forks one for each order."""

    def __init__(self, log: Path) -> None:
        calm = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "DAGF_HEADLESS": "1",
            "NO_PROXY": "*",
        }
        self.log = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], cwd=PROJECT, env={**os.environ, **calm}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip

    def run(self, *orders: Order) -> list[Ended]:
        """Do the orders at the same time, each in a process of its own; how they ended."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(
            json.dumps([asdict(order) for order in orders], default=str) + "\n"
        )
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, Path(self.log.name).read_text()
        return [Ended(**one) for one in json.loads(line)]

    def close(self) -> None:
        """End it."""
        self.process.communicate()
        self.log.close()


class _Watch:
    """Counts operations inside `folder`, and kills this process at one of them."""

    def __init__(self, folder: str, die: int) -> None:
        self.folder, self.die, self.count = folder, die, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or not self._inside(args):
            return
        self.count += 1
        if self.count == self.die:
            if event == "open" and str(args[1]).startswith(("w", "x")):
                with os.fdopen(
                    os.open(args[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb"
                ) as stream:
                    stream.write(HALF)
            os.kill(os.getpid(), signal.SIGKILL)

    def _inside(self, args: tuple[Any, ...]) -> bool:
        if not args or not isinstance(args[0], str | bytes | os.PathLike):
            return False
        # Names relative to an open folder come from rmtree, and nothing but the job's folders is removed.
        return os.fsdecode(args[0]).startswith(self.folder) or (
            len(args) == 2 and args[1] not in (-1, None)
        )


def _obey(order: dict[str, Any], answer: int) -> None:
    from tests.jobs import JOBS, told

    watch = _Watch(str(order["folder"]), order["die"])
    try:
        if order["powerless"]:
            _drop_rights()
        if order["limit"]:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], order["limit"]))
        import torch

        torch.set_num_threads(order["threads"])
        sys.addaudithook(watch)
        JOBS[order["job"]](Path(order["folder"]), **order["given"])
        status, said = 0, ""
    except BaseException as error:
        said = told(error)
        status, said = (2, said) if said else (1, traceback.format_exc())
    os.write(
        answer, json.dumps({"status": status, "said": said, "operations": watch.count}).encode()
    )


def _drop_rights() -> None:
    """Give up root's right to write where the bits forbid it."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def _serve() -> None:
    import tests.jobs  # noqa: F401  (all that a job needs, before the first fork)

    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a job prints goes to the log
    for line in sys.stdin:
        children = []
        for order in json.loads(line):
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                _obey(order, writing)
                os._exit(0)
            os.close(writing)
            children.append((child, reading))
        ended = []
        for child, reading in children:
            with os.fdopen(reading, "rb") as stream:
                answer = stream.read()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ended.append(
                json.loads(answer) if answer else {"status": status or 1, "said": "no answer"}
            )
        print(json.dumps(ended), file=results, flush=True)


if __name__ == "__main__":
    _serve()
