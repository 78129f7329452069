"""Backbones that are kept: the same from the same plan, and those of their record."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from torch import Tensor

from dagf import paths
from dagf.datasets.benchmark import Benchmark, TrainingSet
from dagf.distributed import SINGLE
from dagf.study import backbones, training
from dagf.study.profile import load_profile
from dagf.study.runs import Run, RunStore, Untrained
from dagf.study.sampling import ImageSource
from dagf.study.study import Study, kept_backbone, kept_backbones
from dagf.toytown.generate import Job, write_images
from tests.commands import fine
from tests.fixtures import PROFILE, fails, recorded_here

pytestmark = pytest.mark.usefixtures("one_process")

DRAWN = {"train_landmarks": 4, "train_views": 4, "test_landmarks": 0, "distractors": 0}
TRAINING = {"epochs": 2, "steps": 2, "landmarks": 4, "views": 2, "precision": "bfloat16"}
TINY = PROFILE | {
    "toytown": PROFILE["toytown"] | DRAWN,
    "backbone_training": TRAINING | {"loss": "SupConLoss"},
    "seeds": [0, 3],
    "trials": {
        "as it is": {"arm": "spoc"},
        "fewer": {"arm": "spoc", "changes": {"rate": 1e-2, "toytown": {"train_landmarks": 3}}},
    },
}
KEPT = Path(__file__).parents[2] / "data" / "backbones"
kept = pytest.mark.skipif(not KEPT.is_dir(), reason="no backbones are kept: make backbones")


@pytest.fixture
def plan(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny plan, in an empty project."""
    file = project / "plan.yaml"
    file.write_text(yaml.safe_dump(TINY))
    monkeypatch.setattr(backbones, "PLAN", file)
    return file


def test_backbones_repeat(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = backbones.make_backbones()
    assert json.loads(fine("backbones", "--json")) == [run.record for run in made]
    assert kept_backbones() == dict(zip((0, 3), made, strict=True))
    assert kept_backbone(3).record["seed"] == 3
    times = {file: file.stat().st_mtime_ns for file in paths.backbones().rglob("*")}
    assert backbones.make_backbones() == made
    assert {file: file.stat().st_mtime_ns for file in paths.backbones().rglob("*")} == times
    (tmp_path / "again").mkdir()
    monkeypatch.setenv(paths.ROOT, str(tmp_path / "again"))
    for one, other in zip(made, backbones.make_backbones(), strict=True):
        assert one.id == other.id
        assert one.record["weights_sha256"] == other.record["weights_sha256"]
        assert one.record["first_losses"] == other.record["first_losses"]


def test_another_plan_replaces_what_was_kept(plan: Path) -> None:
    made = backbones.make_backbones()
    plan.write_text(yaml.safe_dump(TINY | {"seeds": [3], "image": {"size": 64}}))
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("dagf.study.study.train", Mock(side_effect=KeyboardInterrupt))
        backbones.make_backbones()
    assert [*kept_backbones().values()] == made  # nothing is lost before others are there
    (last,) = backbones.make_backbones()
    assert [*kept_backbones()] == [3]
    says = r"no backbone of seed 0 in .*backbones \(seeds there: 3\)"
    fails(says, kept_backbone, 0)
    assert [one.name for one in paths.backbones().iterdir()] == [last.id]


def test_trials_are_kept_as_a_table(plan: Path) -> None:
    table = backbones.make_trials()
    assert table["trial"].tolist() == ["as it is", "fewer"]
    assert table["landmarks"].tolist() == [4, 3]
    assert table["rate"].tolist() == [1e-3, 1e-2]
    assert table["steps"].tolist() == [4, 4]
    text = (paths.backbones() / "trials.csv").read_text()
    assert text.splitlines()[0] == ",".join(table.columns)
    assert len(text.splitlines()) == 3


@kept
def test_kept_backbones_are_those_of_plan_and_record(tmp_path: Path) -> None:
    runs = [Run(file.parent) for file in KEPT.glob("*/record.json")]
    plan = load_profile(str(backbones.PLAN))
    data = TrainingSet((), (), Benchmark("", tmp_path, (), ()), f"toytown-{plan.drawing.id}")
    study = Study(plan, data, data.validation, "", "", RunStore(tmp_path), tmp_path)
    assert sorted(run.config.seed for run in runs) == sorted(plan.seeds)
    for run in runs:
        wanted = study.backbone_config(run.config.seed)
        assert wanted and replace(wanted, recipe=run.config.recipe) == run.config
        assert run.weights()  # of the hash that the record holds
        assert run.curves["validation_mAP"].max() == run.record["validation_mAP"]
    assert sum(file.stat().st_size for file in KEPT.rglob("*")) < 12e6


class Enough(Exception):
    """As many steps as are compared."""


@kept
def test_the_code_repeats_the_first_steps_of_kept_backbones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """To the bit where CPU and torch are those of the record; elsewhere closely.

    Only the landmarks of the first batches are drawn: images do not depend on their number.
    """
    drawing = load_profile(str(backbones.PLAN)).drawing
    run = min((Run(file.parent) for file in KEPT.glob("*/record.json")), key=lambda one: one.id)
    jobs = [Job(drawing, "train", one) for one in range(drawing.train_landmarks)]
    files = [tmp_path / job.folder / "jpg" / file for job in jobs for file, *_ in job.images]
    labels = tuple(job.number for job in jobs for _ in job.images)
    for folder in ("jpg", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    data = TrainingSet(tuple(files), labels, Benchmark("", tmp_path, (), ()), "first")
    read, batches = ImageSource.read, iter(range(training.FIRST))

    def drawn(source: ImageSource, rows: np.ndarray) -> Tensor:
        if next(batches, None) is None:
            raise Enough
        for landmark in {labels[row] for row in rows}:
            write_images(jobs[landmark], tmp_path)
        return read(source, rows)

    monkeypatch.setattr(ImageSource, "read", drawn)
    config, store = run.config, RunStore(tmp_path / "runs")
    source = ImageSource(data, config.image, config.train.augmentation)
    loop = training._Loop(
        config, data, Untrained(config, store).network(), source, tmp_path, SINGLE
    )
    with pytest.raises(Enough):
        loop.run()
    expected, was = run.record["first_losses"], run.record["machine"]
    same = recorded_here(was["cpu"], was["versions"]["torch"])
    assert loop.first == (expected if same else pytest.approx(expected, rel=0.02))
