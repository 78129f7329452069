"""The curve over distractors against benchmarks of that size, judged one by one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import scale
from dagf.datasets.toytown import load_toytown
from dagf.errors import UserError
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study.opening import open_study
from dagf.study.profile import Scale, load_profile
from dagf.study.study import Study
from tests.fixtures import FOLDER, write_photographs

pytestmark = pytest.mark.study


def test_steps_rise_from_none_to_all() -> None:
    assert scale.steps(0) == [0]
    assert scale.steps(40) == [0, 40]
    assert scale.steps(100) == [0, 100]
    assert scale.steps(20_000) == [0, 100, 300, 1000, 3000, 10_000, 20_000]


class Crowd(NamedTuple):
    """The study among many distractors, and the one that it was made from."""

    study: Study
    before: Study


@pytest.fixture(scope="module")
def crowd(toy: Study, toy_root: Path) -> Crowd:
    before = replace(toy, profile=replace(toy.profile, scale=Scale(130, 2000)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGF_ROOT", str(toy_root))
        return Crowd(scale.crowded(before), before)


def test_the_landmarks_stay_and_distractors_join(crowd: Crowd) -> None:
    study, before = crowd
    assert [len(one.test.distractors) for one in crowd] == [130, len(before.test.distractors)]
    assert study.test.database == before.test.database
    for file in (study.test.database[3], study.test.queries[1].file):
        assert (study.test.root / file).read_bytes() == (before.test.root / file).read_bytes()
    for number, (many, few) in enumerate(
        zip(study.test.distractors, before.test.distractors, strict=False)
    ):
        assert many.read_bytes() == few.read_bytes(), number


def test_the_curve_is_what_each_size_gives_by_itself(crowd: Crowd) -> None:
    study = crowd.study
    sets = scale.extract_all(study, ("gem",), (0, 1))
    found = scale.curve(study, sets)
    assert sorted(found["distractors"].unique()) == [0, 100, 130]
    assert study.toytown is not None
    for (_, seed), _ in sets.items():
        net = study.run("gem", seed).network()
        for count in (0, 100, 130):
            test = load_toytown(study.toytown, "test", count)
            per_query = evaluate(test, benchmark_scores(net, test, study.profile.image)[0])
            for setting in test.settings:
                line = found[(found["seed"] == seed) & (found["distractors"] == count)]
                value = line[line["setting"] == setting.name]["mAP"].item()
                assert value == pytest.approx(
                    mean_average_precision(per_query, setting.name), abs=1e-6
                )


def test_the_loss_is_the_slope_from_a_hundred_on() -> None:
    counts = np.array([0, 100, 1000, 10_000])
    line = {
        "query_set": "query",
        "method": "GeM",
        "seed": 3,
        "run": "c3",
        "setting": "Medium",
        "distractors": counts,
        "mAP": [60.0, 50.0, 43.0, 36.0],
    }
    (row,) = scale.losses(pd.DataFrame(line), "Medium").to_dict("records")
    assert row == {"method": "GeM", "seed": 3, "mAP without": 60, "mAP among all": 36} | {
        "lost per tenfold": pytest.approx(7), "runs": "c3 (seed 3)",
    }  # fmt: skip


def test_query_sets_are_never_mixed() -> None:
    """Each has a line of its own in the table."""
    rows = [
        (
            query_set,
            "gem",
            "GeM",
            0,
            "r",
            "Medium",
            count,
            70 - drop * np.log10(count) if count else 80.0,
        )
        for count in (0, 100, 1000)
        for query_set, drop in (("query", 5), ("query-plain", 9))
    ]
    names = ["query_set", "arm", "method", "seed", "run", "setting", "distractors", "mAP"]
    table = pd.DataFrame(rows, columns=names)
    found = scale.losses(table, "Medium").set_index("query set")
    assert found["lost per tenfold"].to_dict() == pytest.approx({"query": 5, "query-plain": 9})
    assert found["mAP among all"].to_dict() == pytest.approx({"query": 55, "query-plain": 43})


@pytest.mark.usefixtures("one_process")
def test_where_nothing_is_trained_the_arms_are_described_off_the_shelf(
    project: Path, profile: Callable[..., str], tmp_path: Path
) -> None:
    folder = write_photographs(tmp_path / "shots", train_instances=0)
    study = open_study(profile(**FOLDER), str(folder))
    assert study.training is None
    sets = scale.extract_all(study, ("gem", "dagf"), study.profile.seeds)
    assert list(sets) == [("gem", study.profile.seeds[0]), ("dagf", study.profile.seeds[0])]
    curve = scale.curve(study, sets)
    assert set(curve["run"]) == {""}
    assert sorted(curve["distractors"].unique()) == [0, 2]
    one = sets["gem", study.profile.seeds[0]]
    assert len(scale.background(study, one)) == 2
    alone = replace(study, test=replace(study.test, distractors=()))
    assert len(scale.background(alone, one)) == len(one.database)


def test_half_precision_takes_half(crowd: Crowd) -> None:
    one = scale.extract_all(crowd.study, ("gem",), (0,))["gem", 0]
    single, half = scale.half_precision(crowd.study, one, "Medium").to_dict("records")
    assert half["MB"] == single["MB"] / 2
    assert half["mAP"] == pytest.approx(single["mAP"], abs=0.5)


def test_a_profile_that_says_nothing_is_named(toy: Study) -> None:
    assert toy.profile.scale is None
    with pytest.raises(UserError, match="profile tiny has no 'scale'"):
        scale.crowded(toy)


def test_the_shipped_profiles_say_what_they_measure() -> None:
    for name in ("smoke", "cpu", "gpu", "photographs"):
        scale = load_profile(name).scale
        assert scale is not None and scale.rows > scale.distractors
