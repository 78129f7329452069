"""Jobs side by side: each is done once, after what it needs, and what fails is heard of."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from dagf.study import parallel
from dagf.study.parallel import Task, pipeline, side_by_side


def note(folder: Path, name: str, seconds: float = 0.0) -> None:
    """Leave in `folder` who was there when `name` began, how many threads it had, and that it has ended."""
    there = sorted(path.stem for path in folder.glob("*.done"))
    time.sleep(seconds)
    (folder / f"{name}.done").write_text(
        json.dumps({"there": there, "threads": torch.get_num_threads()})
    )


def fail(folder: Path) -> None:
    raise ValueError("no luck")


def left(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / f"{name}.done").read_text())
    return found


@pytest.fixture(params=[1, 2])
def workers(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> int:
    monkeypatch.setattr(parallel, "cores", lambda: request.param)
    return int(request.param)


def test_a_task_waits_for_what_it_needs_and_for_nothing_else(workers: int, tmp_path: Path) -> None:
    def task(name: str, *needs: str, seconds: float = 0.0) -> Task:
        return Task(partial(note, tmp_path, name, seconds), needs)

    tasks = {
        "slow": task("slow", seconds=1.0),
        "quick": task("quick"),
        "after": task("after", "quick", "not planned"),
    }
    pipeline(tasks | {"last": task("last", "slow", "after")}, "notes")
    assert "quick" in left(tmp_path, "after")["there"]  # type: ignore[operator]
    assert left(tmp_path, "last")["there"] == ["after", "quick", "slow"]
    if workers == 2:
        assert "slow" not in left(tmp_path, "after")["there"]  # type: ignore[operator]
    assert {left(tmp_path, name)["threads"] for name in tasks} == {1}


def test_every_job_is_done_once(workers: int, tmp_path: Path) -> None:
    side_by_side(partial(note, tmp_path), ["a", "b", "c"], "notes")
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "b", "c"]
    side_by_side(partial(note, tmp_path), [], "notes")


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_a_job_raises_is_heard(workers: int, jobs: int, tmp_path: Path) -> None:
    work: Callable[[Path], None] = fail
    with pytest.raises(ValueError, match="no luck"):
        side_by_side(work, [tmp_path] * jobs, "failures")


SHARED = """
import sys
from functools import partial
from pathlib import Path
from dagf.study import parallel
from dagf.study.parallel import Task, pipeline
from dagf.distributed import team

def meet(name):
    met = team().gather((name, team().rank))  # waits for ever where the others do another task
    if team().rank == 0:
        with Path("met.txt").open("a") as stream:
            stream.write(f"{met}\\n")

parallel.cores = lambda: 4
pipeline({name: Task(partial(meet, name)) for name in "abc"}, "meeting")
"""


@pytest.mark.study
def test_processes_of_torchrun_do_each_task_together(tmp_path: Path) -> None:
    """In worker processes of their own each of them could be at another task."""
    (tmp_path / "job.py").write_text(SHARED)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    ran = subprocess.run(
        [*launcher, "job.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    met = (tmp_path / "met.txt").read_text().splitlines()
    assert met == [str([(name, 0), (name, 1)]) for name in "abc"]


ORPHANS = """
import os, sys, time
from functools import partial
from pathlib import Path
from dagf.study import parallel

def stay(folder, name):
    (folder / name).write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    parallel.cores = lambda: 2
    parallel.side_by_side(partial(stay, Path(sys.argv[1])), ["a", "b", "c"], "stays")
"""


@pytest.mark.study
@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="it asks Linux which processes there are"
)
def test_no_worker_outlives_a_killed_job(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(ORPHANS)
    (tmp_path / "pids").mkdir()
    job = subprocess.Popen([sys.executable, "job.py", "pids"], cwd=tmp_path)
    wait_for(lambda: sum(bool(path.read_text()) for path in (tmp_path / "pids").iterdir()) == 2)
    job.kill()
    job.wait()
    workers = [Path("/proc", path.read_text()) for path in (tmp_path / "pids").iterdir()]
    wait_for(lambda: not any(worker.exists() for worker in workers))


def wait_for(what: Callable[[], bool], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)
