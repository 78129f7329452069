"""Jobs side by side: each is done once, with one thread, and what fails is heard of."""

import platform
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from dagf.study import parallel
from dagf.study.parallel import side_by_side
from tests.fixtures import needs_proc, torchrun, wait_for

SHARED = """
from pathlib import Path
from dagf.study import parallel
from dagf.study.parallel import side_by_side
from dagf.distributed import process_group

def meet(name):  # waits for ever where the others do another job
    met = process_group().gather((name, process_group().rank))
    if process_group().rank == 0:
        with Path("met.txt").open("a") as stream:
            stream.write(f"{met}\\n")

parallel.cores = lambda: 4
side_by_side(meet, "abc", "meeting")
"""
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


def note(folder: Path, name: str) -> None:
    """Leave in `folder` how many threads `name` had; twice is an error."""
    with (folder / name).open("x") as stream:
        stream.write(str(torch.get_num_threads()))


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_is_done(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: workers)
    side_by_side(partial(note, tmp_path), ["a", "b", "c"], "notes")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("abc", "1")
    side_by_side(partial(note, tmp_path), [], "notes")
    with pytest.raises(FileExistsError):
        side_by_side(partial(note, tmp_path), ["d", "a"], "notes")


def note_faults(folder: Path, name: str) -> None:
    """Leave how many new pages 64 MB take after they were taken and freed before."""
    for _ in range(20):  # the first ones are laid beside each other
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    (folder / name).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_workers_keep_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    side_by_side(partial(note_faults, tmp_path), ["a", "b"], "notes")
    assert all(int(path.read_text()) < 2**24 * 4 / 4096 / 10 for path in tmp_path.iterdir())


@pytest.mark.study
def test_processes_of_torchrun_do_each_job_together(tmp_path: Path) -> None:
    """In worker processes of their own each of them could be at another job."""
    (tmp_path / "job.py").write_text(SHARED)
    ran = torchrun(tmp_path, "job.py")
    assert ran.returncode == 0, ran.stderr
    met = (tmp_path / "met.txt").read_text().splitlines()
    assert met == [str([(name, 0), (name, 1)]) for name in "abc"]


@pytest.mark.study
@needs_proc
def test_no_worker_outlives_a_killed_job(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(ORPHANS)
    (tmp_path / "pids").mkdir()
    job = subprocess.Popen([sys.executable, "job.py", "pids"], cwd=tmp_path)
    wait_for(lambda: sum(bool(path.read_text()) for path in (tmp_path / "pids").iterdir()) == 2)
    job.kill()
    job.wait()
    workers = [Path("/proc", path.read_text()) for path in (tmp_path / "pids").iterdir()]
    wait_for(lambda: not any(worker.exists() for worker in workers))
