"""The profiles of paper scale on miniature copies of their sets in the real layouts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagf.datasets import public
from dagf.datasets.batches import image_batches
from dagf.datasets.decode import ImageSpec
from dagf.model.backbone import BackboneSpec
from dagf.retrieval.extract import MultiScale, benchmark_scores, extract
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.whitening import learned_whitening
from dagf.study import study as studies
from dagf.study.config import Mining
from dagf.study.profile import Profile, load_profile
from dagf.study.study import open_study
from tests.commands import dagf
from tests.datasets.sets import write_gldv2, write_manifest, write_sfm
from tests.fixtures import fails

pytestmark = pytest.mark.usefixtures("one_process")
SIZES: dict[str, Any] = {"image": ImageSpec(32), "test_image": ImageSpec(40), "held_out": 2}


def miniature(name: str) -> Profile:
    """A shipped profile with a small backbone, small images and few steps; all else as it is."""
    profile = load_profile(name)
    training = replace(profile.arm_training, epochs=2, steps=2, rate=1e-3)
    if training.mining:
        training = replace(training, mining=Mining(queries=4, pool=16, negatives=2))
    else:
        training = replace(training, landmarks=4, views=2, precision="float32")
    return replace(profile, arm_training=training, backbone=BackboneSpec(), **SIZES)


@pytest.fixture
def paper(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with both sets in miniature, and the profiles cut down to them."""
    write_sfm(project / "data/train/retrieval-SfM-120k")
    write_gldv2(project / "data/train/gldv2")
    write_manifest(project / "data")
    monkeypatch.setattr(studies, "load_profile", miniature)
    return project


@pytest.mark.parametrize(("name", "images"), [("paper", 20), ("paper-gldv2", 16)])
def test_the_profile_trains_on_its_set_and_evaluates(paper: Path, name: str, images: int) -> None:
    study = open_study(name)
    assert study.test is study.training.validation
    run = study.run("dagf")
    assert run.record["training_images"] == images
    assert np.isfinite(run.curves["loss"]).all()
    assert run.config.data == study.training.id
    assert study.results(run).per_query["AP"].notna().all()


def test_test_images_and_whitening_are_the_evaluations_own(paper: Path, photographs: Path) -> None:
    """One run, whatever it is evaluated on, at which size and with which whitening."""
    study, validated = open_study("paper", str(photographs)), open_study("paper")
    run = study.run("gem")
    assert validated.arm_config("gem", 0) == run.config
    encode = MultiScale(run.network(), study.profile.scales)
    files, pairs = public.load_whitening_split(paper / "data")
    rows = extract(encode, image_batches(files, ImageSpec(40)), len(files))
    whiten = learned_whitening(rows, pairs)

    def expected(size: int) -> Any:
        scores, rows, queries = benchmark_scores(encode, study.test, ImageSpec(size))
        scores = whiten(queries) @ whiten(rows).T if size == 40 else scores
        return pytest.approx(evaluate(study.test, scores)["AP"].to_numpy(), nan_ok=True)

    assert study.results(run).per_query["AP"].to_numpy() == expected(40)
    plain = replace(study, profile=replace(study.profile, whitening="", test_image=None))
    assert not plain.has_results(run)  # kept apart
    assert plain.results(run).per_query["AP"].to_numpy() == expected(32)
    other = replace(study, profile=replace(study.profile, whitening="gldv2"))
    fails(r"whitening split 'gldv2'.*known: sfm120k", other.results, run)
    says = "paper trains on sfm120k: no --train-on"
    fails(says, open_study, "paper", str(photographs), train_on=[str(photographs)])


def test_what_landmarks_v2_trains_has_its_caveat_beside_it(paper: Path) -> None:
    caveat = public.CAVEATS["gldv2"]
    for words in ("38 of the 70", "36 of the 70", "arXiv 2404.01524"):
        assert words in caveat
    for command in (["train", "gem"], ["evaluate", "gem"], ["evaluate", "gem", "--json"]):
        found = dagf(*command, "--profile", "paper-gldv2")
        assert found.exit_code == 0, found.output
        assert found.stderr.splitlines().count(caveat) == 1
        assert caveat not in found.stdout
    untrained = dagf("evaluate", "gem", "--profile", "paper-gldv2", "--off-the-shelf")
    assert caveat not in untrained.output
    assert (open_study("paper-gldv2").caveat, open_study("paper").caveat) == (caveat, "")
