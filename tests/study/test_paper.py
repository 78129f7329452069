"""The profiles of paper scale on miniature copies of their sets in the real layouts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dagf.cli import main
from dagf.datasets import training_sets
from dagf.datasets.batches import image_batches
from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.model.backbone import BackboneSpec
from dagf.retrieval.extract import MultiScale, benchmark_scores, extract
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.whitening import learned_whitening
from dagf.study import evaluation, opening
from dagf.study.config import Mining
from dagf.study.opening import open_study
from dagf.study.profile import Profile, load_profile
from tests.datasets.sets import write_manifest
from tests.training_copies import write_gldv2, write_sfm

pytestmark = pytest.mark.usefixtures("one_process")

TINY_TRAINING = {"epochs": 2, "steps": 2, "rate": 1e-3}


def miniature(name: str) -> Profile:
    """A shipped profile with a small backbone, small images and few steps; all else as it is."""
    profile = load_profile(name)
    training = replace(profile.arm_training, **TINY_TRAINING)
    if training.mining:
        training = replace(training, mining=Mining(queries=4, pool=16, negatives=2))
    else:
        training = replace(training, landmarks=4, views=2, precision="float32")
    small = {
        "backbone": BackboneSpec(),
        "image": ImageSpec(32),
        "test_image": ImageSpec(40),
        "held_out": 2,
    }
    return replace(profile, arm_training=training, **small)


@pytest.fixture
def paper(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with both sets in miniature, and the profiles cut down to them."""
    write_sfm(project / "data/train/retrieval-SfM-120k")
    write_gldv2(project / "data/train/gldv2")
    write_manifest(project / "data")
    monkeypatch.setattr(opening, "load_profile", miniature)
    return project


@pytest.mark.parametrize(("name", "images"), [("paper", 20), ("paper-gldv2", 16)])
def test_the_profile_trains_on_its_set_and_judges(paper: Path, name: str, images: int) -> None:
    study = open_study(name)
    assert study.training is not None
    assert study.test is study.training.validation
    run = study.run("dagf")
    assert run.record["training_images"] == images
    assert np.isfinite(run.curves["loss"]).all()
    assert run.config.data == study.training.id
    per_query = study.results(run).per_query
    assert per_query["AP"].notna().all()


def test_what_is_trained_is_judged_on_photographs(paper: Path, photographs: Path) -> None:
    study = open_study("paper", str(photographs))
    assert study.training is not None
    assert study.test.name == photographs.name
    validated = open_study("paper")
    assert study.arm_config("gem", 0) == validated.arm_config(
        "gem", 0
    )  # one run, whatever it is judged on
    with pytest.raises(UserError, match="paper trains on sfm120k: leave --train-on out"):
        open_study("paper", str(photographs), train_on=str(photographs))


def test_test_images_have_a_size_of_their_own(paper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study("paper")
    assert study.profile.evaluation_image == ImageSpec(40)
    same = replace(study, profile=replace(study.profile, test_image=None))
    assert same.profile.evaluation_image == ImageSpec(32)
    assert study.arm_config("gem", 0) == same.arm_config("gem", 0)
    run = study.run("gem")
    sizes: list[int] = []
    whole = evaluation.query_batches

    def seen(test: Any, image: ImageSpec) -> Any:
        sizes.append(image.size)
        return whole(test, image)

    monkeypatch.setattr(evaluation, "query_batches", seen)
    for asked in (same, study, same):
        asked.results(run)
    assert sizes == [32]  # the others were judged by the training's end, and are kept apart


def test_descriptors_are_whitened_by_what_the_split_teaches(paper: Path, photographs: Path) -> None:
    study = open_study("paper", str(photographs))
    assert study.profile.whitening == "sfm120k"
    run = study.run("gem")
    encode = MultiScale(run.network(), study.profile.scales)
    files, pairs = training_sets.load_whitening_split(paper / "data/train/retrieval-SfM-120k")
    known = extract(encode, image_batches(files, ImageSpec(40)), len(files))
    whiten = learned_whitening(known, pairs)
    _, rows, asked = benchmark_scores(encode, study.test, ImageSpec(40))
    expected = evaluate(study.test, whiten(asked) @ whiten(rows).T)
    assert study.results(run).per_query["AP"].to_numpy() == pytest.approx(
        expected["AP"].to_numpy(), nan_ok=True
    )
    plain = replace(study, profile=replace(study.profile, whitening=""))
    assert study.has_results(run)
    assert not plain.has_results(run)  # kept apart
    other = replace(study, profile=replace(study.profile, whitening="gldv2"))
    with pytest.raises(UserError, match=r"whitening split 'gldv2'.*known: sfm120k"):
        other.results(run)


@pytest.mark.parametrize(("name", "data"), [("paper", "sfm120k"), ("paper-gldv2", "gldv2")])
def test_without_the_data_one_line_says_how_to_get_them(
    project: Path, name: str, data: str
) -> None:
    found = CliRunner().invoke(main, ["train", "dagf", "--profile", name])
    assert found.exit_code == 2
    assert found.output.count("\n") == 1
    assert f"run `dagf data get {data}`" in found.output


def test_the_command_line_trains_it(paper: Path) -> None:
    found = CliRunner().invoke(main, ["train", "gem", "--profile", "paper"])
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("run ")  # of a slow machine stderr has a bar
    assert "Landmarks" not in found.stderr


def test_what_landmarks_v2_trains_has_its_caveat_beside_it(paper: Path) -> None:
    caveat = training_sets.TRAINING_SETS["gldv2"].caveat
    for words in ("38 of the 70", "36 of the 70", "arXiv 2404.01524"):
        assert words in caveat
    for command in (["train", "gem"], ["evaluate", "gem"], ["evaluate", "gem", "--json"]):
        found = CliRunner().invoke(main, [*command, "--profile", "paper-gldv2"])
        assert found.exit_code == 0, found.output
        assert found.stderr.splitlines().count(caveat) == 1
        assert caveat not in found.stdout
    found = CliRunner().invoke(
        main, ["evaluate", "gem", "--profile", "paper-gldv2", "--off-the-shelf"]
    )
    assert caveat not in found.output  # nothing was trained
    assert open_study("paper-gldv2").caveat == caveat
    assert open_study("paper").caveat == ""
