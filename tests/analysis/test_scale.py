"""The curve over distractors, evaluated size by size; what the tables of costs are made of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import scale
from dagf.datasets.decode import ImageSpec
from dagf.datasets.toytown import load_toytown
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study.profile import Scale
from dagf.study.study import Study
from tests.fixtures import fails
from tests.pictures import save, smooth
from tests.retrieval.tools import Array, unit

pytestmark = pytest.mark.study


def test_steps_rise_from_none_to_all() -> None:
    assert scale.steps(0) == [0]
    assert scale.steps(40) == [0, 40]
    assert scale.steps(100) == [0, 100]
    assert scale.steps(20_000) == [0, 100, 300, 1000, 3000, 10_000, 20_000]


@pytest.fixture(scope="module")
def crowd(toy: Study, toy_root: Path) -> tuple[Study, Study]:
    """The study among many distractors, and the one that it was made from."""
    before = replace(toy, profile=replace(toy.profile, scale=Scale(130, 2000)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGF_ROOT", str(toy_root))
        return scale.crowded(before), before


def test_the_landmarks_stay_and_distractors_join(crowd: tuple[Study, Study]) -> None:
    study, before = crowd
    assert [len(one.test.distractors) for one in crowd] == [130, len(before.test.distractors)]
    assert study.test.database == before.test.database
    for file in (study.test.database[3], study.test.queries[1].file):
        assert (study.test.root / file).read_bytes() == (before.test.root / file).read_bytes()
    pairs = zip(study.test.distractors, before.test.distractors, strict=False)
    for number, (many, few) in enumerate(pairs):
        assert many.read_bytes() == few.read_bytes(), number


def test_the_curve_is_what_each_size_gives_by_itself(crowd: tuple[Study, Study]) -> None:
    study, _ = crowd
    sets = scale.extract_all(study, ("gem",), (0,))
    found = scale.curve(study, sets).set_index(["distractors", "setting"])
    net, whole = study.run("gem", 0).network(), load_toytown(study.toytown, "test")
    scores = benchmark_scores(net, whole, study.profile.image)[0]
    for count in (0, 100, 130):
        test = replace(whole, distractors=whole.distractors[:count])
        per_query = evaluate(test, scores[:, : len(test.database) + count])
        for setting in test.settings:
            expected = mean_average_precision(per_query, setting.name)
            assert found["mAP"][count, setting.name] == pytest.approx(expected, abs=1e-6)
    assert len(found) == 3 * len(whole.settings)


def test_the_loss_is_the_slope_from_a_hundred_on_in_each_query_set() -> None:
    about = {"method": "GeM", "seed": 3, "run": "c3", "setting": "Medium"}
    rows = [
        about | {"query_set": name, "distractors": count, "mAP": mean}
        for name, means in (("query", (60, 50, 43, 36)), ("query-plain", (70, 60, 51, 42)))
        for count, mean in zip((0, 100, 1000, 10_000), means, strict=True)
    ]
    found = scale.losses(pd.DataFrame(rows), "Medium").to_dict("records")
    assert [tuple(row.values()) for row in found] == [
        ("query", "GeM", 3, 60, 36, pytest.approx(7), "c3 (seed 3)"),
        ("query-plain", "GeM", 3, 70, 42, pytest.approx(9), "c3 (seed 3)"),
    ]


def test_a_profile_that_says_nothing_is_named(toy: Study) -> None:
    assert toy.profile.scale is None
    fails("profile tiny has no 'scale'", scale.crowded, toy)


def around(count: int, seed: int = 0) -> Array:
    """Unit rows around one direction, wider in some dimensions than in others."""
    chance = np.random.default_rng(seed)
    rows = np.arange(8, 0, -1) + chance.standard_normal((count, 8)) * np.linspace(0.2, 2, 8)
    return unit(rows)


def test_drawn_rows_follow_those_that_are_there(tmp_path: Path) -> None:
    known = around(4000)
    rows = scale.fitted_rows(known, 20_000, tmp_path / "rows.npy")
    assert rows.shape == (20_000, 8)
    assert np.array_equal(rows[:4000], known)
    drawn = np.array(rows[4000:])
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(drawn.mean(0), known.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), np.cov(known, rowvar=False), atol=0.02)
    again = scale.fitted_rows(known, 20_000, tmp_path / "again.npy")
    assert np.array_equal(rows, again)
    assert len(scale.fitted_rows(known, 100, tmp_path / "few.npy")) == 100  # fewer than there are


def test_a_row_a_size_and_a_flat_index_misses_nothing() -> None:
    known = around(500)
    found = scale.search_costs(known, known[:6], 3000)
    assert found["rows"].tolist() == [30, 100, 300, 1000, 3000]
    assert found["drawn"].tolist() == [0, 0, 0, 500, 2500]
    assert (found["index"] == "Flat").all()
    assert (found["recall"] == 100).all()
    assert found["exact MB"].tolist() == [size * 8 * 4 / 1e6 for size in found["rows"]]
    assert (found[["exact s", "index s", "build s"]] > 0).all(axis=None)


def test_recall_is_the_share_that_is_found() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = np.array([[4, 9, 1, -1], [8, 7, 6, 5]])
    assert scale.recall(found, exact) == 75.0


@pytest.mark.parametrize(
    "backbone", [BackboneSpec("small"), BackboneSpec("resnet18", "layer3", stage=("layer4",))]
)
def test_stages_are_measured_in_turns(
    backbone: BackboneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow moment that lasts for one round of all stages is in no median."""
    calls = iter(range(1000))

    def seconds(work: Callable[[], object]) -> float:
        work()
        return 100.0 if next(calls) < 5 else 1.0

    monkeypatch.setattr(scale, "seconds", seconds)
    files = [save(smooth(64, 48), tmp_path / f"{number}.png") for number in range(2)]
    found = scale.stages(RetrievalNet(backbone, variant("gem")), files, ImageSpec(48))
    assert found["ms per image"].tolist() == [500.0] * 5
    assert found["stage"].tolist()[-1] == "all, overlapped"
