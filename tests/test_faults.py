"""Kills, a full disk, two at once: the next run goes on, and gives what an unbroken one gives.

`make torture` (DAGF_KILLS=200) kills more often. The moments are drawn from a seed.
"""

import hashlib
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dagf.files import write_json
from tests import fixtures
from tests.forks import Ended, run

KILLS = int(os.environ.get("DAGF_KILLS", "10"))
JOBS = ("extraction", "study")
Snapshot = dict[str, str]

unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="it needs fork")
pytestmark = [pytest.mark.study, unix, pytest.mark.parametrize("job", JOBS)]


def snapshot(folder: Path) -> Snapshot:
    """The hash of each file but of locks, of half-written ones, and of what holds times."""
    found = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.relative_to(folder).as_posix()
        if re.search(r"\.lock$|(^|/)\.|contents\.json$", name):
            continue
        data = path.read_bytes()
        if path.name == "record.json":
            data = json.dumps(json.loads(data) | {"seconds": 0}).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


class Work:
    """A job, the folder that it begins in, what it needs, and the unbroken run."""

    def __init__(self, job: str, start: Path, given: dict[str, Any]) -> None:
        self.job, self.start, self.given, self.before = job, start, given, snapshot(start)
        unbroken = self.begin(start.with_name(f"unbroken {job}"))
        self.operations = self.fine(unbroken).operations
        self.after = snapshot(unbroken)
        assert self.after != self.before and 20 < self.operations < 2000

    def begin(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.start, folder))

    def fine(self, folder: Path) -> Ended:
        (ended,) = run(self.job, folder, self.given)
        assert ended.status == 0, ended.said
        return ended

    def goes_on(self, folder: Path) -> None:
        """What was there is as it was or as it will be; the next run has the unbroken one's end."""
        known = {*self.before.items(), *self.after.items()}
        assert {one for one in snapshot(folder).items() if one[0] in self.before} <= known
        self.fine(folder)
        assert snapshot(folder) == self.after


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """Every job with its unbroken run."""
    base = tmp_path_factory.mktemp("faults")
    home, profile = fixtures.empty_project(base / "home"), base / "tiny.yaml"
    write_json(profile, fixtures.PROFILE | {"seeds": [0]})
    photographs = fixtures.write_photographs(home / "photographs")
    workshop = fixtures.Workshop(home / "data", fixtures.training_set(photographs))
    photos = photographs / "jpg"
    run_id = workshop.train(fixtures.configured("gem", epochs=1)).id
    extraction: dict[str, Any] = {"home": home, "photos": photos, "run": run_id}
    few, empty, some = (base / name for name in ("few", "empty", "some"))
    for folder in (few, empty, some):
        folder.mkdir()
    for photo in sorted(photos.glob("*.jpg"))[:30]:  # of which there is a collection before
        shutil.copy(photo, few)
    (ended,) = run("extraction", some, extraction | {"photos": few})
    assert ended.status == 0, ended.said
    given = ((some, extraction), (empty, {"profile": profile}))
    return {job: Work(job, *one) for job, one in zip(JOBS, given, strict=True)}


def test_a_killed_job_goes_on(works: dict[str, Work], tmp_path: Path, job: str) -> None:
    """Each job's share of the kills, even over its operations, sometimes several in a row."""
    work, chance = works[job], random.Random(f"kills of {job}")
    kills = KILLS // len(JOBS)
    share = work.operations / kills
    moments = [1 + int((number + chance.random()) * share) for number in range(kills)]
    while moments:
        folder = work.begin(tmp_path / f"{len(moments)}")
        for _ in range(min(len(moments), chance.choice([1, 1, 2]))):
            (ended,) = run(job, folder, work.given, die=moments.pop())
            assert ended.status in (-9, 0), ended.said
        work.goes_on(folder)


def test_two_at_once_have_one_result(works: dict[str, Work], tmp_path: Path, job: str) -> None:
    folder = works[job].begin(tmp_path / "both")
    ended = run(job, folder, works[job].given, times=2)
    assert [one.said for one in ended if one.status] == []
    assert snapshot(folder) == works[job].after


def test_a_full_disk_is_one_line(works: dict[str, Work], tmp_path: Path, job: str) -> None:
    """As on a full disk: the work ends in the middle of a file."""
    folder = works[job].begin(tmp_path / "limited")
    (ended,) = run(job, folder, works[job].given, limit=256)
    assert (ended.status, "\n" in ended.said) == (2, False), ended.said
    works[job].goes_on(folder)
