"""Ctrl-C: one line and status 130, no process left, and the same command goes on from there."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dagf.paths import ROOT
from dagf.study.runs import RunStore
from tests.fixtures import PROFILE, empty_project, needs_proc, wait_for
from tests.reports.notebooks import write_notebook

LINE = "dagf: stopped; start the same command again to go on from here"
pytestmark = [pytest.mark.study, needs_proc]
NOTEBOOK = """import time
from functools import partial
from pathlib import Path
from dagf import paths
from dagf.study import parallel
parallel.cores = lambda: 2
(paths.data() / "begun").touch()
if not (paths.root() / "go").exists():
    parallel.side_by_side(time.sleep, [600, 600], "sleeping")"""


class Job:
    """`dagf` in a project's folder and a process group of its own, as a terminal starts it."""

    def __init__(self, root: Path, *words: str) -> None:
        command, pipe = [sys.executable, "-m", "dagf", *words], subprocess.PIPE
        # What the project's folder is called is how its processes are told from others.
        environment = {**os.environ, ROOT: str(root), "OMP_NUM_THREADS": "1"}
        self.root = root
        # What runs in a shell's background inherits that Ctrl-C is ignored; a terminal's not.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        self.process = subprocess.Popen(
            command, cwd=root, stdout=pipe, stderr=pipe, text=True, env=environment,
            start_new_session=True, preexec_fn=heed,
        )  # fmt: skip

    def interrupt(self, once: Callable[[], bool]) -> str:
        """Ctrl-C as soon as `once` holds: one line, status 130, and no process is left."""
        wait_for(lambda: once() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()
        os.killpg(self.process.pid, signal.SIGINT)
        _, said = self.process.communicate(timeout=300)
        assert self.process.returncode == 130, said
        wait_for(lambda: not left(self.root))
        lines = said.replace("\r", "\n").splitlines()
        lines = [line for line in lines if line.strip() and "%|" not in line]
        assert len(lines) == 1, said
        return lines[0].removeprefix("\x1b[K")

    def finish(self) -> str:
        """What the command says when it is left alone."""
        said, wrong = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, wrong
        return said


def left(root: Path) -> list[str]:
    """The processes whose project is in `root`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{ROOT}={root}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return empty_project(tmp_path / "project")


def test_train(root: Path) -> None:
    """The backbone is trained in a worker, as is the arm after it."""
    training = {"epochs": 30, "steps": 2, "landmarks": 3, "views": 2}
    profile = PROFILE | {"backbone_training": training, "arm_training": training, "seeds": [0]}
    (root / "tiny.yaml").write_text(json.dumps(profile))
    runs, command = root / "data" / "runs", ("train", "dagf", "--profile", "tiny.yaml")
    assert Job(root, *command).interrupt(lambda: bool(list(runs.glob("*/state.pt")))) == LINE
    assert RunStore(runs).all() == []
    assert Job(root, *command).finish().startswith("run ")
    assert len(RunStore(runs).all()) == 2


def test_report(root: Path) -> None:
    """The notebook's kernel has workers of its own."""
    for name, code in (("01_data_and_protocol", NOTEBOOK), ("00_overview", "1")):
        write_notebook(root / "notebooks" / f"{name}.ipynb", code)
    (root / "data").mkdir()

    def sleeping() -> bool:
        return (root / "data" / "begun").exists() and sum("loky" in one for one in left(root)) > 2

    assert Job(root, "report").interrupt(sleeping) == LINE
    assert not (root / "reports").exists() or not list((root / "reports").glob("*.html"))
    (root / "go").touch()
    Job(root, "report").finish()
    assert (root / "reports" / "01_data_and_protocol.html").exists()
