"""Opening a study: what cannot be one, the control Toytown, and fewer distractors."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dagf.datasets.toytown import toytown_records, toytown_spec
from dagf.errors import UserError
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate
from dagf.study.config import RunConfig
from dagf.study.opening import control_of, open_study
from dagf.study.study import Study
from tests.fixtures import FOLDER, write_photographs

pytestmark = pytest.mark.usefixtures("one_process")


def test_what_a_study_cannot_be(
    project: Path, profile: Callable[..., str], photographs: Path
) -> None:
    with pytest.raises(UserError, match=r"weights file .*nowhere\.pth does not exist"):
        open_study(profile(), weights=str(project / "nowhere.pth"))
    with pytest.raises(
        UserError, match="distractors and train_on belong to a benchmark of photographs"
    ):
        open_study(profile(), train_on=str(photographs))
    with pytest.raises(UserError, match=r"labels\.csv does not exist"):
        open_study(profile(), str(project))
    with pytest.raises(UserError, match="did you mean 'spoc'"):
        open_study(profile(), str(photographs)).run("spok")


def test_an_instance_is_trained_on_or_tested_on(
    project: Path, profile: Callable[..., str], tmp_path: Path
) -> None:
    folder = write_photographs(tmp_path / "mine", train_instances=5)
    rows = (folder / "labels.csv").read_text().splitlines()
    tested = next(row.split(",")[1] for row in rows if row.endswith(",query"))
    learned = next(row for row in rows if row.endswith(",train"))
    file, _, role = learned.split(",")
    (folder / "labels.csv").write_text(
        "\n".join(rows).replace(learned, f"{file},{tested},{role}") + "\n"
    )
    with pytest.raises(UserError, match=f"{tested} would be trained and tested on"):
        open_study(profile(**FOLDER), str(folder))


def test_a_folder_without_training_images(
    project: Path, profile: Callable[..., str], tmp_path: Path, backbone_weights: str
) -> None:
    folder = write_photographs(tmp_path / "mine", train_instances=0)
    study = open_study(profile(**FOLDER), str(folder), weights=backbone_weights)
    assert study.training is None
    assert len(study.off_the_shelf_table(["gem"])) == 1
    with pytest.raises(UserError, match="mine has no images of the role 'train' to train on"):
        study.run("gem")
    elsewhere = write_photographs(tmp_path / "others", train_instances=5, first=20)
    labels = (elsewhere / "labels.csv").read_text()
    (elsewhere / "labels.csv").write_text(re.sub(r",i(?=\d)", ",other", labels))
    with_training = open_study(
        profile(**FOLDER), str(folder), [str(elsewhere)], train_on=str(elsewhere)
    )
    assert with_training.training is not None
    assert len(with_training.test.distractors) == 4
    assert with_training.test_id != study.test_id


@pytest.fixture
def control(toy: Study, toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("DAGF_ROOT", str(toy_root))
    return control_of(toy)


def test_the_control_has_the_same_landmarks_without_the_nuisances(
    toy: Study, control: Study
) -> None:
    assert toy.toytown is not None
    assert control.toytown is not None
    ours, theirs = toytown_spec(toy.toytown), toytown_spec(control.toytown)
    assert (ours.nuisances, theirs.nuisances) == (True, False)
    assert (ours.seed, ours.size, ours.test_landmarks, ours.views) == (
        theirs.seed, theirs.size, theirs.test_landmarks, theirs.views,
    )  # fmt: skip
    assert control.test.database == toy.test.database
    assert [query.file for query in control.test.queries] == [
        query.file for query in toy.test.queries
    ]
    assert len(control.test.distractors) == 3
    assert len(toy.test.distractors) == 6
    assert control.test_id != toy.test_id
    drawn = toytown_records(control.toytown, "test").query("role == 'database'")
    assert drawn["clutter"].max() == 0
    assert drawn["visible"].min() == 1
    assert drawn["scale"].max() / drawn["scale"].min() < 2
    assert toytown_records(toy.toytown, "test")["visible"].min() < 0.9


def test_the_same_runs_answer_the_control(
    toy: Study, control: Study, trained: list[RunConfig]
) -> None:
    results = control.evaluate()
    assert trained == []
    assert control.train() == toy.train()
    run = toy.train()["dagf", 1]
    assert toy.has_results(run) and control.has_results(run)
    scores = benchmark_scores(run.network(), control.test, control.profile.image)[0]
    expected = evaluate(control.test, scores)
    pd.testing.assert_frame_equal(
        results["dagf", 1].per_query[["query", "positives"]], expected[["query", "positives"]]
    )
    assert np.allclose(
        results["dagf", 1].per_query["AP"], expected["AP"], atol=0.02, equal_nan=True
    )
    assert not results["dagf", 1].per_query["AP"].equals(toy.evaluate()["dagf", 1].per_query["AP"])


def test_photographs_have_no_control(
    project: Path, profile: Callable[..., str], photographs: Path
) -> None:
    with pytest.raises(UserError, match="only Toytown has a control version"):
        control_of(open_study(profile(**FOLDER), str(photographs)))


def test_fewer_distractors_are_the_first_ones(toy: Study, trained: list[RunConfig]) -> None:
    small = toy.smaller(2)
    assert small.test.distractors == toy.test.distractors[:2]
    assert (small.test.database, small.test.queries) == (toy.test.database, toy.test.queries)
    assert len({toy.test_id, small.test_id, toy.smaller(3).test_id}) == 3
    few, many = (
        small.evaluate(["spoc", "dagf"], heads=True),
        toy.evaluate(["spoc", "dagf"], heads=True),
    )
    assert trained == []
    labelled = sum(len(rows) for rows in toy.test.queries[0].labels.values())
    for key, results in few.items():
        fewer, more = results.positions["above"], many[key].positions["above"]
        assert (fewer <= more).all()
        assert (more - fewer <= 4).all()
        assert fewer.max() <= len(toy.test.database) - labelled + 2
    nothing = toy.smaller(0)
    assert nothing.test.distractors == ()
    assert toy.smaller(99).test.distractors == toy.test.distractors
