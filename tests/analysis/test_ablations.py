"""The tables of the ablations: by hand, and against benchmarks of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.analysis import ablations
from dagf.analysis.ablations import (
    BINS,
    bin_counts,
    chance,
    floors,
    gains,
    head_costs,
    points_by_bin,
    pyramid_table,
    records,
    trained_heads,
    trial_table,
)
from dagf.analysis.contrasts import contrast
from dagf.datasets.benchmark import Benchmark, Query, Setting
from dagf.datasets.toytown import toytown_records
from dagf.errors import UserError
from dagf.files import write_json
from dagf.model.variants import VARIANTS
from dagf.retrieval.extract import MultiScale, benchmark_scores
from dagf.retrieval.metrics import (
    average_precision,
    evaluate,
    mean_average_precision,
    positions,
    positive_ranks,
)
from dagf.retrieval.statistics import t_interval
from dagf.study.config import RunConfig
from dagf.study.study import Study, control_of, open_study
from tests.fixtures import FOLDER

pytestmark = pytest.mark.usefixtures("one_process")


def test_trials_by_hand() -> None:
    rows = [
        ("gem", 1e-3, 40.0, False),
        ("gem", 0.1, 41.0, True),
        ("dagf", 1e-3, 44.0, True),
        ("dagf", 0.1, 39.0, False),
    ]
    trials = pd.DataFrame(rows, columns=["arm", "rate", "validation mAP", "chosen"])
    trials["method"] = [VARIANTS[arm].title for arm in trials["arm"]]
    assert trial_table(trials).to_dict("records") == [
        {"method": "GeM", "rate 0.001": 40, "rate 0.1": 41, "chosen": "0.1"},
        {"method": "DAGF", "rate 0.001": 44, "rate 0.1": 39, "chosen": "0.001"},
    ]
    assert trial_table(trials[:0]).empty


def test_trials_of_a_study(toy: Study) -> None:
    table = trial_table(toy.trials(heads=True))
    assert list(table.columns) == ["method", "rate 0.001", "rate 0.1", "chosen"]
    for row in table.to_dict("records"):
        assert row[f"rate {row['chosen']}"] == max(row["rate 0.001"], row["rate 0.1"])


def test_costs_come_from_the_record(project: Path) -> None:
    assert list(head_costs(["gem"]).columns) == ["head", "cost"]  # before the first `make bench`
    figures = [
        {"what": "a", "head": "gem", "ratio": 1.0}, {"what": "speed", "ratio": 9.0},
        {"what": "b", "head": "dagf", "ratio": 2.5}, {"what": "c", "head": "crow", "ratio": 0.5},
    ]  # fmt: skip
    write_json(project / "benchmarks" / "results.json", {"figures": figures})
    assert head_costs(["dagf", "gem", "mac"]).to_dict("records") == [
        {"head": "DAGF", "cost": 2.5}, {"head": "GeM", "cost": 1.0},
    ]  # fmt: skip
    write_json(project / "benchmarks" / "results.json", {"figures": figures[1:2]})
    assert list(head_costs(["gem"]).columns) == ["head", "cost"]


def test_swept_keeps_the_order_asked_for(toy: Study) -> None:
    assert trained_heads(toy, ["dagf", "glam", "gem", "mac"]) == ["dagf", "gem", "mac"]
    assert trained_heads(replace(toy, profile=replace(toy.profile, heads=None)), ["dagf"]) == []
    assert trained_heads(replace(toy, training=None), ["dagf"]) == []
    for arms in (ablations.LADDER, ablations.READINGS, ablations.SCHEMES):
        assert set(arms) <= set(VARIANTS)
        assert len(set(arms)) == len(arms)


def test_the_pyramid_is_the_same_runs_at_more_sizes(
    toy: Study, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "PYRAMID_DISTRACTORS", 2)
    table = pyramid_table(toy, ("gem", "dagf"), scales=(1.0, 0.7))
    assert trained == []
    assert list(table["images"]) == ["one size", "one size", "pyramid", "pyramid"]
    assert list(table["method"]) == ["GeM", "DAGF"] * 2
    small = toy.smaller(2)
    for scales, row in (((1.0,), table.iloc[1]), ((1.0, 0.7), table.iloc[3])):
        points = []
        for seed in toy.profile.seeds:
            net = MultiScale(toy.train(["dagf"], [seed])["dagf", seed].network(), scales)
            per_query = evaluate(
                small.test, benchmark_scores(net, small.test, toy.profile.image)[0]
            )
            points.append(mean_average_precision(per_query, "Medium"))
        assert row["Medium"] == str(t_interval(points))


def test_a_pyramid_of_heads_goes_through_the_images(toy: Study) -> None:
    """Cached maps are of one size only."""
    study = replace(toy.smaller(1), profile=replace(toy.profile, scales=(1.0, 0.5)))
    found = study.results(study.untrained("mac", 0)).per_query
    net = MultiScale(study.untrained("mac", 0).network(), (1.0, 0.5))
    expected = evaluate(study.test, benchmark_scores(net, study.test, study.profile.image)[0])
    assert np.allclose(found["AP"], expected["AP"])
    plain = toy.test_maps(toy.bare(0)).scores(toy.untrained("mac", 0).network().head)
    assert not np.allclose(found["AP"], evaluate(toy.test, plain)["AP"])


IN_BIN = Setting("in this bin", positive=("in",), junk=("out", "junk"))


def slow_points(study: Study, scores: NDArray[np.float32], nuisance: str) -> list[dict[str, float]]:
    """Each bin as a benchmark whose positives are those of the bin, judged query by query."""
    assert study.toytown is not None
    rows = toytown_records(study.toytown, "test").to_dict("records")
    images = {row["file"]: row for row in rows if row["role"] == "database"}

    def value(row: int) -> float:
        image = images[study.test.database[row]]
        return float(1 - image["visible"] if nuisance == "occlusion" else image[nuisance])

    points = []
    for number, query in enumerate(study.test.queries):
        found = {}
        for name, low, high in BINS[nuisance]:
            right = [int(row) for label in ("easy", "hard") for row in query.labels[label]]
            labels = {
                "in": np.array([row for row in right if low <= value(row) < high], np.int64),
                "out": np.array([row for row in right if not low <= value(row) < high], np.int64),
                "junk": query.labels["junk"],
            }
            alone = Query(query.file, labels, query.box)
            Benchmark("bin", study.test.root, study.test.database, (alone,))  # is one
            found[name] = 100 * average_precision(
                positive_ranks(scores[number], *alone.relevance(IN_BIN))
            )
        points.append(found)
    return points


@pytest.mark.parametrize("nuisance", BINS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), levels=st.sampled_from([2, 5, 1000]))
def test_points_are_those_of_each_bin_judged_alone(
    toy: Study, nuisance: str, seed: int, levels: int
) -> None:
    shape = len(toy.test.queries), len(toy.test.database_paths)
    scores = (np.random.default_rng(seed).integers(0, levels, shape) / levels).astype(
        np.float32
    )  # few levels: ties
    found = points_by_bin(toy, positions(toy.test, scores), nuisance)
    pd.testing.assert_frame_equal(
        found, pd.DataFrame(slow_points(toy, scores, nuisance)), check_names=False
    )


def test_one_bin_with_everything_is_medium(toy: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((len(toy.test.queries), len(toy.test.database_paths)))
    monkeypatch.setitem(BINS, "clutter", (("all", 0.0, 1.01),))  # type: ignore[index]
    found = points_by_bin(toy, positions(toy.test, scores), "clutter")
    medium = evaluate(toy.test, scores, [toy.test.settings[1]])
    assert np.allclose(found["all"], 100 * medium["AP"])


@given(st.floats(0, 1))
def test_every_share_is_in_exactly_one_bin(value: float) -> None:
    for bins in BINS.values():
        assert sum(low <= value < high for _, low, high in bins) == 1


def test_bins_go_from_benign_to_worst_without_a_gap() -> None:
    for nuisance, bins in BINS.items():
        edges = sorted((low, high) for _, low, high in bins)
        assert [low for low, _ in edges[1:]] == [high for _, high in edges[:-1]]
        rising = [low for _, low, _ in bins]
        assert rising == sorted(rising, reverse=nuisance == "scale")
        assert all(
            f"{100 * edge:.0f}" in name
            for name, low, high in bins
            for edge in (low, high)
            if 0 < edge < 1
        )


def test_records_follow_the_database(toy: Study) -> None:
    found = records(toy)
    assert list(found["file"]) == list(toy.test.database)
    assert np.allclose(found["occlusion"] + found["visible"], 1)
    assert found[list(BINS)].stack().between(0, 1).all()
    for query in toy.test.queries:
        for label in ("easy", "hard", "junk"):
            assert set(found["difficulty"][query.labels[label]]) <= {label}


def test_the_last_contrast_is_the_worst_bin_minus_the_first(toy: Study) -> None:
    results = toy.evaluate(["dagf", "gem"])
    for nuisance, bins in BINS.items():
        found = gains(toy, "dagf", "gem", nuisance)
        assert [one.setting for one in found] == [
            *(f"{nuisance}: {name}" for name, _, _ in bins), f"{nuisance}: worst minus mildest",
        ]  # fmt: skip
        assert {(one.what, one.minus, one.seeds) for one in found} == {("DAGF", "GeM", 2)}
        by_seed = [
            points_by_bin(toy, results["dagf", seed].positions, nuisance)
            - points_by_bin(toy, results["gem", seed].positions, nuisance)
            for seed in (0, 1)
        ]
        gained = sum(by_seed) / 2
        for one, (name, _, _) in zip(found, bins, strict=False):
            assert one.joint.mean == pytest.approx(gained[name].mean(), nan_ok=True)
            assert one.queries == gained[name].notna().sum()
        growth = (
            gained[bins[-1][0]] - gained[bins[0][0]]
        ).dropna()  # of the queries that have both
        assert found[-1].joint.mean == pytest.approx(growth.mean(), nan_ok=True)
        assert found[-1].queries == len(growth)
    assert contrast(toy, "dagf", "gem", "Medium").queries == len(toy.test.queries)


def test_a_bin_without_positives_says_nothing(
    toy: Study, toy_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGF_ROOT", str(toy_root))
    control = control_of(toy)  # it has nothing but the first bin
    first, *others, growth = gains(control, "dagf", "gem", "occlusion")
    assert first.joint.mean == pytest.approx(contrast(control, "dagf", "gem", "Medium").joint.mean)
    for one in (*others, growth):
        assert (one.queries, one.clusters) == (0, 0)
        assert np.isnan([*one.joint, one.p, *one.over_queries]).all()
        assert one.verdict == "no difference shown"


def test_counts_cover_all_positives(toy: Study) -> None:
    counts = bin_counts(toy)
    positives = sum(len(query.relevance(toy.test.settings[1])[0]) for query in toy.test.queries)
    assert counts.groupby("nuisance")["positives"].sum().to_dict() == dict.fromkeys(BINS, positives)
    assert list(counts["bin"]) == [name for bins in BINS.values() for name, _, _ in bins]


def test_photographs_have_no_records(
    project: Path, profile: Callable[..., str], photographs: Path
) -> None:
    study = open_study(profile(**FOLDER), str(photographs))
    with pytest.raises(UserError, match="only Toytown's images come with records"):
        records(replace(study, training=None))


def test_chance_is_the_mean_over_all_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """One positive among three images: the APs 1, 1/4, 1/6 are equally likely."""
    query = Query("q.jpg", {"ok": np.array([0]), "junk": np.array([1])})
    test = Benchmark("made", Path(), ("a", "b", "c", "d"), (query,) * 300)
    monkeypatch.setattr(ablations, "DRAWS", 20)
    (row,) = chance(test).to_dict("records")
    assert (row["query_set"], row["setting"]) == ("query", "Classic")
    assert row["mAP"] == pytest.approx(100 * (1 + 1 / 4 + 1 / 6) / 3, abs=1.5)
    assert chance(test).equals(chance(test))


def test_the_floors_are_rows_of_the_main_table(toy: Study) -> None:
    table = floors(toy)
    assert list(table.columns) == ["method", "seeds", "Easy", "Medium", "Hard"]
    assert list(table["method"]) == ["random scores", "GeM, untrained backbone"]
    assert list(table["seeds"]) == ["", 1]
    assert (table[["Easy", "Medium", "Hard"]].astype(float) > 0).all(axis=None)
    assert floors(toy).equals(table)
