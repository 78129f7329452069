"""Every rung is a study of its own: other backbones, other steps, the same images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dagf import paths
from dagf.analysis import ladder
from dagf.study import backbones
from dagf.study.profile import Ladder
from dagf.study.runs import RunStore
from dagf.study.study import Study
from tests.fixtures import TOY

pytestmark = pytest.mark.usefixtures("one_process")
LADDER = Ladder(backbones=(10,), arms=(1, 2), epoch=1)


@pytest.fixture
def project(toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The toy study in a project of its own, with a tiny plan for backbones."""
    plan = {"toytown": TOY["toytown"], "image": TOY["image"], "seeds": [0, 1]}
    training = TOY["backbone_training"] | {"loss": "SupConLoss"}
    (tmp_path / "plan.yaml").write_text(json.dumps(plan | {"training": training}))
    monkeypatch.setattr(backbones, "PLAN", tmp_path / "plan.yaml")
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    shutil.copytree(toy.store.root, paths.runs())
    shutil.copytree(toy.cache, paths.cache())
    return replace(toy, store=RunStore(paths.runs()), cache=paths.cache())


def test_rungs_differ_in_steps_alone(project: Study) -> None:
    rungs = dict(ladder.rungs(project, LADDER))
    assert [*rungs] == ["10: 1", "10: 2", "kept: 1", "kept: 2"]
    for name, study in rungs.items():
        spec = study.profile.plan().training
        assert f"{spec.epochs * spec.steps}" == name.split(": ")[1]
        assert study.test_id == project.test_id
        for seed in project.profile.seeds:
            start = study.backbone_run(seed)
            assert start is not None
            steps = start.config.train.epochs * start.config.train.steps
            assert steps == (10 if name.startswith("10") else 1)
            arm = study.run("gem", seed)
            assert arm.config.start == start.weights_id


def test_each_rung_has_the_gain_and_the_ceiling(project: Study) -> None:
    found = ladder.climb(project, LADDER)
    assert [(one.what, one.setting) for one in found[:3]] == [
        ("DAGF", "10: 1"),
        ("GeM + exact mask", "10: 1"),
        ("DAGF", "10: 2"),
    ]
    assert {one.minus for one in found} == {"GeM"}
    last = dict(ladder.rungs(project, LADDER))["kept: 2"]
    table = last.table(["dagf", "gem"]).query("setting == 'Medium'").groupby("arm")["mAP"].mean()
    assert found[-2].joint.mean == pytest.approx(table["dagf"] - table["gem"])
