"""The tables of the ablations: by hand, and against benchmarks of their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.analysis import ablations
from dagf.analysis.contrasts import contrast
from dagf.datasets.benchmark import Benchmark, Query, Setting
from dagf.datasets.toytown import toytown_records
from dagf.retrieval.metrics import average_precision, negatives_above, positions, ranks_of
from dagf.study.study import Study, control_of
from tests.fixtures import fails

pytestmark = pytest.mark.usefixtures("one_process")
IN_BIN = Setting("in this bin", positive=("in",), junk=("out", "junk"))


def test_heads_that_a_profile_trains_keep_the_order_asked_for(toy: Study) -> None:
    assert ablations.trained_heads(toy, ["dagf", "glam", "gem", "mac"]) == ["dagf", "gem", "mac"]
    without = replace(toy, profile=replace(toy.profile, heads=None))
    assert ablations.trained_heads(without, ["dagf"]) == []
    assert ablations.trained_heads(replace(toy, training=None), ["dagf"]) == []


def slow_points(study: Study, scores: NDArray[np.float32], nuisance: str) -> list[dict[str, float]]:
    """Each bin as a setting whose positives are those of the bin, query by query."""
    images = toytown_records(study.toytown, "test").query("role == 'database'").set_index("file")
    images["occlusion"] = 1 - images["visible"]
    values = images[nuisance][list(study.test.database)].to_numpy()
    points = []
    for number, query in enumerate(study.test.queries):
        found = {}
        for name, low, high in ablations.BINS[nuisance]:
            right = np.array([*query.labels["easy"], *query.labels["hard"]], np.int64)
            inside = (low <= values[right]) & (values[right] < high)
            labels = {"in": right[inside], "out": right[~inside], "junk": query.labels["junk"]}
            alone = Query(query.file, labels, query.box).relevance(IN_BIN)
            others = np.delete(scores[number], np.concatenate(alone))
            above = negatives_above(scores[number][alone[0]], others)
            found[name] = 100 * average_precision(ranks_of(above))
        points.append(found)
    return points


@pytest.mark.parametrize("nuisance", ablations.BINS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), levels=st.sampled_from([2, 5, 1000]))
def test_points_are_those_of_each_bin(toy: Study, nuisance: str, seed: int, levels: int) -> None:
    shape = len(toy.test.queries), len(toy.test.database_paths)
    drawn = np.random.default_rng(seed).integers(0, levels, shape)  # few levels: ties
    scores = (drawn / levels).astype(np.float32)
    found = ablations.points_by_bin(toy, positions(toy.test, scores), nuisance)
    slow = pd.DataFrame(slow_points(toy, scores, nuisance))
    pd.testing.assert_frame_equal(found, slow, check_names=False)


@given(st.floats(0, 1))
def test_every_share_is_in_exactly_one_bin(value: float) -> None:
    for bins in ablations.BINS.values():
        assert sum(low <= value < high for _, low, high in bins) == 1


def test_the_last_contrast_is_the_worst_bin_minus_the_first(toy: Study) -> None:
    results = toy.evaluate(["dagf", "gem"])
    for nuisance, bins in ablations.BINS.items():
        found = ablations.gains(toy, "dagf", "gem", nuisance)
        assert [one.setting for one in found] == [
            *(f"{nuisance}: {name}" for name, _, _ in bins), f"{nuisance}: worst minus mildest",
        ]  # fmt: skip
        assert {(one.what, one.minus, one.seeds) for one in found} == {("DAGF", "GeM", 2)}
        by_seed = [
            ablations.points_by_bin(toy, results["dagf", seed].positions, nuisance)
            - ablations.points_by_bin(toy, results["gem", seed].positions, nuisance)
            for seed in (0, 1)
        ]
        gained = sum(by_seed) / 2
        for one, (name, _, _) in zip(found, bins, strict=False):
            assert one.joint.mean == pytest.approx(gained[name].mean(), nan_ok=True)
            assert one.queries == gained[name].notna().sum()
        # of the queries that have both
        growth = (gained[bins[-1][0]] - gained[bins[0][0]]).dropna()
        assert found[-1].joint.mean == pytest.approx(growth.mean(), nan_ok=True)
        assert found[-1].queries == len(growth)


def test_an_empty_bin_says_nothing(toy: Study, at_toy: None) -> None:
    control = control_of(toy)  # it has nothing but the first bin
    first, *others, growth = ablations.gains(control, "dagf", "gem", "occlusion")
    assert first.joint.mean == pytest.approx(contrast(control, "dagf", "gem", "Medium").joint.mean)
    for one in (*others, growth):
        assert (one.queries, one.clusters) == (0, 0)
        assert np.isnan([*one.joint, one.p, *one.over_queries]).all()
        assert one.verdict == "no difference shown"


def test_photographs_have_no_records(toy: Study) -> None:
    says = "only Toytown's images come with records"
    fails(says, ablations.records, replace(toy, toytown=None))


def test_chance_is_the_mean_over_all_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """One positive among three images: the APs 1, 1/4, 1/6 are equally likely."""
    query = Query("q.jpg", {"ok": np.array([0]), "junk": np.array([1])})
    test = Benchmark("made", Path(), ("a", "b", "c", "d"), (query,) * 300)
    monkeypatch.setattr(ablations, "DRAWS", 20)
    (row,) = ablations.chance(test).to_dict("records")
    assert (row["query_set"], row["setting"]) == ("query", "Classic")
    assert row["mAP"] == pytest.approx(100 * (1 + 1 / 4 + 1 / 6) / 3, abs=1.5)
    assert ablations.chance(test).equals(ablations.chance(test))


def test_the_floors_are_rows_of_the_main_table(toy: Study) -> None:
    table = ablations.floors(toy)
    assert list(table.columns) == ["method", "seeds", "Easy", "Medium", "Hard"]
    assert list(table["method"]) == ["random scores", "GeM, untrained backbone"]
    assert list(table["seeds"]) == ["", 1]
    assert (table[["Easy", "Medium", "Hard"]].astype(float) > 0).all(axis=None)
    assert ablations.floors(toy).equals(table)
