"""Every rung is a study of its own: other backbones, other steps, the same images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dagf import paths
from dagf.analysis import ladder, rivals
from dagf.analysis.methods import methods
from dagf.model.backbone import BackboneSpec
from dagf.study import backbones
from dagf.study.profile import Ladder, Trial
from dagf.study.study import Study
from tests.fixtures import PROFILE, TOY, copied

pytestmark = pytest.mark.usefixtures("one_process")
GENERIC = BackboneSpec("squeezenet1_1", "features.3")
LADDER = Ladder(backbones=(10,), arms=(1, 2), sizes=(48, 64), landmarks=(2,), generic=GENERIC)


@pytest.fixture
def project(toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The toy study in a project of its own, with a tiny plan for backbones."""
    training = TOY["backbone_training"] | {"loss": "SupConLoss"}
    (tmp_path / "plan.yaml").write_text(json.dumps(PROFILE | {"backbone_training": training}))
    monkeypatch.setattr(backbones, "PLAN", tmp_path / "plan.yaml")
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    return copied(toy, paths.data())


def test_rungs_differ_in_steps_alone(project: Study) -> None:
    rungs = dict(ladder.rungs(project, LADDER))
    short, kept = "backbone of 10 steps", "kept backbone"
    assert [*rungs] == [f"{short}: 1", f"{short}: 2", f"{kept}: 1", f"{kept}: 2"]
    for name, study in rungs.items():
        spec = study.profile.plan().training
        assert f"{spec.epochs * spec.steps}" == name.split(": ")[1]
        assert study.test_id == project.test_id
        for seed in project.profile.seeds:
            start = study.backbone_run(seed)
            steps = start.config.train.epochs * start.config.train.steps
            assert steps == (10 if name.startswith(short) else 1)
            arm = study.run("gem", seed)
            assert arm.config.start == start.weights_id


def test_each_rung_has_the_gain_and_the_ceiling(project: Study) -> None:
    rungs = [*ladder.rungs(project, LADDER)]
    found = ladder.climb(rungs, heads=False)
    about = [(one.what, one.setting.split(": ")[1]) for one in found[:3]]
    assert about == [("DAGF", "1"), ("GeM + exact mask", "1"), ("DAGF", "2")]
    assert {one.minus for one in found} == {"GeM"}
    table = rungs[-1][1].table(["dagf", "gem"]).query("setting == 'Medium'")
    level = table.groupby("arm")["mAP"].mean()
    assert found[-2].joint.mean == pytest.approx(level["dagf"] - level["gem"])


def test_conditions_change_maps_and_landmarks_alone(project: Study) -> None:
    found = dict(ladder.conditions(project, LADDER))
    sizes, landmarks = "cells a side of the map", "landmarks that heads learn from"
    kinds = "backbone: of ImageNet", "backbone: of Toytown"
    assert [*found] == [*kinds, f"{sizes}: 6", f"{sizes}: 8", f"{landmarks}: 2"]
    generic = found[kinds[0]]
    assert generic.bare(0).network().channels == 128 and generic.profile.image.size == 64
    assert found[kinds[1]] == project
    finer, fewer = found[f"{sizes}: 8"], found[f"{landmarks}: 2"]
    assert finer.test_maps(finer.bare(0)).queries.take(np.array([0])).shape[2:] == (8, 8)
    assert fewer.training is not None
    assert fewer.training.landmarks == 2
    assert fewer.test_id == finer.test_id == project.test_id
    (one, *_) = ladder.climb([("landmarks: 2", fewer)], heads=True)
    assert (one.what, one.minus, one.setting) == ("DAGF", "GeM", "landmarks: 2")


def test_trials_stand_beside_gem_on_both_validations(project: Study) -> None:
    faster = Trial("dagf", {"head_rate": 30.0})
    named = {"GeM": Trial("gem"), "DAGF": Trial("dagf"), "faster": faster}
    study = replace(project, profile=replace(project.profile, trials=named))
    table = ladder.trial_table(study).set_index("trial")
    assert [*table.index] == [*named]
    chosen = study.train(["gem", "dagf"])
    for arm, name in ("gem", "GeM"), ("dagf", "DAGF"):
        scores = [chosen[arm, seed].record["validation_mAP"] for seed in study.profile.seeds]
        assert float(table["validation mAP"][name]) == pytest.approx(np.mean(scores), abs=0.051)
    assert table["runs"]["faster"] != table["runs"]["DAGF"]
    level = study.table(["dagf", "gem"]).query("setting == 'Medium'").groupby("arm")["mAP"].mean()
    apart = table["second, minus GeM's [95 %]"]["DAGF"]
    assert float(apart.split()[0]) == pytest.approx(level["dagf"] - level["gem"], abs=0.0051)


def test_training_sets_of_the_study_and_of_other_roles(study: Study, folder: Path) -> None:
    table = ladder.training_sets(study, [folder])
    chosen = rivals.rivals(study)[rivals.CHOSEN]
    assert list(table["method"][:2]) == ["GeM, untrained", f"chosen GeM: {chosen.name}"]
    assert list(table["method"][2:]) == ["GeM", "GeM + spatial + channel", "DAGF"] * 3
    found = table[2:].drop_duplicates("trained on").set_index("trained on")
    assert found["images"].to_dict() == {"3 instances": 15, "4 instances": 20, "sorts": 4}
    assert found["classes"].to_dict() == {"3 instances": 3, "4 instances": 4, "sorts": 2}
    (dagf,) = table.query("method == 'DAGF' and classes == 4").to_dict("records")
    whole = methods(study, ["dagf"])[0]
    assert (dagf["runs"], dagf["validation"]) == (whole.runs, f"{whole.validation:.1f}")


def test_other_roles_join_several_training_sets(study: Study, folder: Path) -> None:
    table = ladder.training_sets(study, [folder, folder])[2:]
    found = table.drop_duplicates("trained on").set_index("trained on")
    names = ["4 instances", "4 instances and sorts"]
    assert found["images"].to_dict() == dict(zip(names, (20, 24), strict=True))
    assert found["classes"].to_dict() == dict(zip(names, (4, 6), strict=True))


def test_smaller_sets_lie_within_larger_ones(study: Study) -> None:
    sets = [ladder.fewer(study, count).training for count in (1, 2, 3, 4)]
    files = [set(one.files) for one in sets if one is not None]
    assert files[0] < files[1] < files[2] < files[3] == set(study.training.files)
    assert sets[-1] == study.training  # the same runs, then
    assert sorted(set(sets[1].labels)) == [0, 1]
    assert sets[1].validation is study.training.validation
    spec = ladder.fewer(study, 1).profile.plan(heads=True).training
    assert (spec.landmarks, spec.views) == (1, 4)  # as many images in a step
