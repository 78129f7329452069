"""Kills, a full disk, two at once: the next run goes on, and gives what an unbroken one gives.

`make torture` (DAGF_KILLS=200) kills more often. The moments are drawn from a seed.
"""

import fnmatch
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagf.collections.index import Collection
from dagf.files import write_json
from dagf.paths import ROOT
from dagf.study.runs import RunStore
from tests import fixtures
from tests.datasets.sets import make_tar, make_zip, serving
from tests.forks import Ended, Order, run
from tests.jobs import FIRST_PHOTOS, make_project

KILLS = int(os.environ.get("DAGF_KILLS", "10"))
JOBS = ("downloading", "extraction", "indexing", "study", "reporting")
# What may differ from the unbroken run while the work is unfinished: what it goes on from.
UNFINISHED = {"downloading": ("downloads/*",), "study": ("*/state.pt", "*/weights.safetensors")}
UNEQUAL = ("seconds",)  # of a record
Snapshot = dict[str, str]

unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="it needs fork")
pytestmark = [pytest.mark.study, unix]


def snapshot(folder: Path) -> Snapshot:
    """The hash of each file but of locks, of half-written ones, and of what holds times."""
    found = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.relative_to(folder).as_posix()
        if re.search(r"\.lock$|(^|/)\.|contents\.json$|scratch/reports/", name):
            continue
        data = path.read_bytes()
        if path.name == "record.json":
            record = json.loads(data)
            data = json.dumps({key: record[key] for key in record if key not in UNEQUAL}).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


@dataclass
class Work:
    """A job, the folder that it begins in, what it needs, and the unbroken run."""

    job: str
    start: Path
    given: dict[str, Any] = field(default_factory=dict)
    operations: int = 0
    before: Snapshot = field(default_factory=dict)
    after: Snapshot = field(default_factory=dict)

    def order(self, folder: Path, **more: Any) -> Order:
        return Order(self.job, folder, self.given, **more)

    def begin(self, folder: Path) -> Path:
        shutil.copytree(self.start, folder, dirs_exist_ok=True)
        return folder

    def half(self, folder: Path) -> list[str]:
        """The files that are neither as they were nor as they will be, nor named as unfinished.

        A shard that can be read is whole: extraction makes shards of new images on its way.
        """
        known = {*self.before.items(), *self.after.items()}
        odd = [name for name, sha in snapshot(folder).items() if (name, sha) not in known]
        odd = [name for name in odd if not (name.endswith(".npy") and readable(folder / name))]
        named = UNFINISHED.get(self.job, ())
        return [name for name in odd if not any(fnmatch.fnmatch(name, one) for one in named)]


def readable(shard: Path) -> bool:
    try:
        return len(np.load(shard)) > 0
    except (ValueError, EOFError, OSError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `jobs.download` asks for: the port of a server, and the sums of its files."""
    folder = tmp_path_factory.mktemp("served")
    make_tar(folder / "a.tgz", {f"{name}.jpg": os.urandom(3000) for name in "abc"})
    make_zip(folder / "b.zip", {f"{name}.jpg": os.urandom(3000) for name in "de"})
    (folder / "list.csv").write_text("id,images\n1,a b c d e\n")
    (folder / "gnd.json").write_text("{}")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    with serving(folder) as port:
        yield {"port": port, "sums": sums}


@pytest.fixture(scope="module")
def works(server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """Every job with its unbroken run."""
    base = tmp_path_factory.mktemp("faults")
    home, profile = fixtures.empty_project(base / "home"), base / "tiny.yaml"
    write_json(profile, fixtures.PROFILE | {"seeds": [0]})
    photographs = fixtures.write_photographs(home / "photographs")
    workshop = fixtures.Workshop(home / "data", fixtures.training_set(photographs))
    about: dict[str, Any] = {"home": home, "photos": photographs / "jpg"}
    extraction = about | {"run": workshop.train(fixtures.configured("gem", epochs=1)).id}
    few, empty, some, all_, project = (base / name for name in ("few", *"abc", "project"))
    for folder in (few, empty, some, all_):
        folder.mkdir()
    make_project(project)
    works = {
        "downloading": Work("downloading", empty, server),
        "extraction": Work("extraction", some, extraction),
        "indexing": Work("indexing", all_, about),
        "study": Work("study", empty, {"profile": profile}),
        "reporting": Work("reporting", project),
    }
    for photo in sorted(about["photos"].glob("*.jpg"))[:FIRST_PHOTOS]:
        shutil.copy(photo, few)
    _fine(Order("extraction", some, extraction | {"photos": few}))
    _fine(Order("extraction", all_, extraction))
    _fine(works["reporting"].order(project))
    for notebook in (project / "notebooks").glob("*.ipynb"):
        notebook.write_text(notebook.read_text().replace("1 + 1", "2 + 2"))
    for name, work in works.items():
        folder = work.begin(base / "unbroken" / name)
        work.before, work.operations = snapshot(folder), _fine(work.order(folder)).operations
        work.after = snapshot(folder)
        assert work.after != work.before
        assert 20 < work.operations < 2000
    return works


def _fine(order: Order) -> Ended:
    (ended,) = run(order)
    assert ended.status == 0, ended.said
    return ended


def usable(work: Work, folder: Path) -> None:
    """What others may read meanwhile can be read: a collection, and every finished run."""
    if work.job in ("extraction", "indexing"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv(ROOT, str(work.given["home"]))
            assert len(Collection.load(folder / "index").files) in (FIRST_PHOTOS, 37)
    for one in RunStore(folder / "runs").all():
        one.network()


@pytest.mark.parametrize("job", JOBS)
def test_a_killed_job_goes_on(works: dict[str, Work], tmp_path: Path, job: str) -> None:
    """Each job's share of the kills, even over its operations, sometimes several in a row."""
    work, chance = works[job], random.Random(f"kills of {job}")
    kills = max(1, KILLS // len(JOBS))
    share = work.operations / kills
    moments = [1 + int((number + chance.random()) * share) for number in range(kills)]
    while moments:
        folder = work.begin(tmp_path / f"{len(moments)}")
        row = [moments.pop() for _ in range(min(len(moments), chance.choice([1, 1, 2])))]
        for moment in row:
            (ended,) = run(work.order(folder, die=moment))
            assert ended.status in (-9, 0), (row, ended.said)
            assert work.half(folder) == [], row
            usable(work, folder)
        _fine(work.order(folder))
        assert snapshot(folder) == work.after, row
        shutil.rmtree(folder)


@pytest.mark.parametrize("job", JOBS)
def test_two_at_once_have_one_result(works: dict[str, Work], tmp_path: Path, job: str) -> None:
    work = works[job]
    folder = work.begin(tmp_path / "both")
    ended = run(work.order(folder), work.order(folder))
    waits = {"reporting": "being made by another run"}
    assert [one.said for one in ended if one.status and waits.get(job, "?") not in one.said] == []
    assert any(one.status == 0 for one in ended)
    assert snapshot(folder) == work.after


@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk_is_one_line(works: dict[str, Work], tmp_path: Path, job: str) -> None:
    """As on a full disk: the work ends in the middle of a file."""
    work = works[job]
    folder = work.begin(tmp_path / "limited")
    (ended,) = run(work.order(folder, limit=256))
    assert (ended.status, "\n" in ended.said) == (2, False), ended.said
    assert work.half(folder) == []
    _fine(work.order(folder))
    assert snapshot(folder) == work.after
