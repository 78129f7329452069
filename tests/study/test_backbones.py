"""Backbones that are kept: the same from the same plan, and those of their record."""

from pathlib import Path

import pytest
import yaml

from dagf import paths
from dagf.errors import UserError
from dagf.study import backbones

pytestmark = pytest.mark.usefixtures("one_process")

TINY = {
    "toytown": {
        "size": 48, "train_landmarks": 4, "train_views": 4, "validation_landmarks": 2,
        "views": 3, "test_landmarks": 0, "distractors": 0, "validation_distractors": 4,
    },
    "image": {"size": 48},
    "training": {
        "epochs": 2, "steps": 2, "landmarks": 4, "views": 2, "loss": "SupConLoss",
        "precision": "bfloat16",
    },
    "seeds": [0, 3],
    "trials": {"as it is": {}, "fewer": {"rate": 1e-2, "toytown": {"train_landmarks": 3}}},
}  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny plan, in an empty project."""
    (tmp_path / "project").mkdir()
    monkeypatch.setenv(paths.ROOT, str(tmp_path / "project"))
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(TINY))
    monkeypatch.setattr(backbones, "PLAN", file)
    return file


def test_backbones_repeat(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = backbones.make_backbones()
    assert backbones.kept_backbones() == dict(zip((0, 3), made, strict=True))
    assert backbones.kept_backbone(3).record["seed"] == 3
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
    backbones.make_backbones()
    plan.write_text(yaml.safe_dump(TINY | {"seeds": [3]}))
    (last,) = backbones.make_backbones()
    assert [*backbones.kept_backbones()] == [3]
    with pytest.raises(UserError, match=r"no backbone of seed 0 in .*backbones \(seeds there: 3\)"):
        backbones.kept_backbone(0)
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
