"""The tables of the ablations: means and ranges by hand, whitening and the pyramid against a plain computation."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from dagf.analysis import ablations
from dagf.analysis.ablations import (
    draw_table,
    grid_means,
    head_costs,
    pyramid_table,
    trained_heads,
    trial_table,
    whitening_table,
)
from dagf.analysis.grid import grid
from dagf.files import write_json
from dagf.model.network import MapEncoder
from dagf.model.variants import VARIANTS
from dagf.retrieval.extract import MultiScale, benchmark_scores
from dagf.retrieval.feature_maps import FeatureMaps
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.retrieval.statistics import t_interval
from dagf.retrieval.whitening import pca_whitening
from dagf.study.config import RunConfig
from dagf.study.study import Study

pytestmark = pytest.mark.usefixtures("one_process")


def grid_rows(values: dict[tuple[str, str, str, int], float]) -> pd.DataFrame:
    """Rows of the grid: (pooling, windows, mask, draw) -> AP of the first query and seed; the others lie beside it."""
    rows = [
        (*key, seed, query, value + 0.1 * query + 0.01 * seed, 2)
        for (key, value), seed, query in product(values.items(), (0, 1), (0, 1))
    ]
    rows += [
        (*key, seed, 2, float("nan"), 0) for key in values for seed in (0, 1)
    ]  # a query without positives
    names = ["pooling", "windows", "mask", "draw", "seed", "query", "AP", "positives"]
    table = pd.DataFrame(rows, columns=names).assign(query_set="query")
    return pd.concat(
        [table, table.assign(query_set="query-plain", AP=0.9)]
    )  # another set, which counts nowhere


CELLS = grid_rows({
    ("GeM", "1", "none", 0): 0.3, ("GeM", "1", "max", 0): 0.4, ("GeM", "max 3", "none", 0): 0.2,
    ("GeM", "max 3", "max", 0): 0.1, ("SPoC", "1", "none", 0): 0.5, ("SPoC", "1", "max", 0): 0.6,
    **{("GeM", windows, "random", draw): 0.1 * draw for windows in ("1", "max 3") for draw in (1, 2, 4)},
    ("SPoC", "1", "random", 0): 0.9,
})  # fmt: skip
BESIDE = 5.5  # points: half of 0.1 for the second query, half of 0.01 for the second seed


def test_grid_means_by_hand() -> None:
    found = grid_means(CELLS).set_index(["pooling", "windows", "mask"])["mAP"]
    assert len(found) == 9
    assert found["GeM", "1", "none"] == pytest.approx(30 + BESIDE)
    assert found["GeM", "1", "random"] == pytest.approx(
        100 * 0.7 / 3 + BESIDE
    )  # over the draws, too
    assert found["SPoC", "1", "random"] == pytest.approx(90 + BESIDE)


def test_draws_by_hand() -> None:
    first, second = draw_table(CELLS).to_dict("records")
    assert [first.pop("windows"), second.pop("windows")] == ["1", "max 3"]
    draws = {"random: least": 10, "random: mean": 70 / 3, "random: most": 40}
    for row, none, most in ((first, 30, 40), (second, 20, 10)):
        expected = {"no mask": none, "MAX-Mask": most, **draws}
        assert row == pytest.approx({name: value + BESIDE for name, value in expected.items()})
    (other,) = draw_table(CELLS, "SPoC").to_dict("records")
    assert other["random: least"] == other["random: most"] == pytest.approx(90 + BESIDE)


def test_the_tables_of_a_real_grid(toy: Study) -> None:
    cells = grid(toy)
    means = grid_means(cells).set_index(["pooling", "windows", "mask"])["mAP"]
    per_query = [toy.results(("gem", seed)).per_query for seed in toy.profile.seeds]
    assert means["GeM", "1", "none"] == pytest.approx(
        np.mean([mean_average_precision(one, "Medium") for one in per_query])
    )
    table = draw_table(cells).set_index("windows")
    for windows in table.index:
        row = table.loc[windows]
        assert row["MAX-Mask"] == pytest.approx(means["GeM", windows, "max"])
        assert row["random: least"] <= row["random: mean"] <= row["random: most"]
        assert row["random: mean"] == pytest.approx(means["GeM", windows, "random"])


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


def whitened_by_hand(study: Study, arm: str, seed: int, size: int) -> float:
    """The training maps described and whitened, image by image."""
    heads = VARIANTS[arm].trainable
    net = study.run(arm, seed, heads=True).network() if heads else study.untrained(arm, seed)

    def extracted(maps: FeatureMaps) -> NDArray[np.float32]:
        found = {}
        for rows, batch in maps.batches(1):
            with torch.inference_mode():
                found[int(rows[0])] = net.head(batch).descriptor[0].numpy()
        return np.stack([found[row] for row in range(len(found))])

    maps = study.seed_maps(seed)
    whiten = pca_whitening(extracted(study.training_maps(seed)), size)
    scores = whiten(extracted(maps.queries)) @ whiten(extracted(maps.database)).T
    return mean_average_precision(evaluate(study.test, scores), "Medium")


def test_whitening_is_learned_on_training_images_under_each_head(
    toy: Study, trained: list[RunConfig]
) -> None:
    table = whitening_table(
        toy, ("gem", "channel", "glam", "mac"), "Medium", sizes=(5, 3)
    ).set_index("method")
    assert trained == []
    assert list(table.index) == ["GeM", "GeM + channel", "MAC"]  # those that the sweep has
    assert list(table.columns) == ["seeds", "as it is", "whitened, 5", "whitened, 3", "runs"]
    assert (
        table["runs"]["MAC"] == ""
        and toy.run("gem", toy.profile.seeds[0], heads=True).id in table["runs"]["GeM"]
    )
    for arm in ("channel", "mac"):
        row = table.loc[VARIANTS[arm].title]
        plain = toy.table([arm], heads=True).query("setting == 'Medium'")["mAP"]
        assert row["as it is"] == str(t_interval(plain))
        for size in (5, 3):
            by_hand = [whitened_by_hand(toy, arm, seed, size) for seed in toy.profile.seeds]
            assert row[f"whitened, {size}"] == str(t_interval(by_hand))
    assert table["seeds"].tolist() == [2, 2, 2]


def test_whitening_keeps_no_more_dimensions_than_the_images_allow(toy: Study) -> None:
    assert toy.training is not None
    most = len(toy.training.files) - 1
    assert most < 128
    table = whitening_table(toy, ["mac"], "Hard")
    assert list(table.columns[2:]) == ["as it is", f"whitened, {most}", f"whitened, {most // 2}"]


def test_the_pyramid_is_the_same_runs_at_more_sizes(toy: Study, trained: list[RunConfig]) -> None:
    table = pyramid_table(toy, ("gem", "dagf"), scales=(1.0, 0.7), distractors=2)
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
    found = study.results(("mac", 0)).per_query
    net = MultiScale(study.untrained("mac", 0), (1.0, 0.5))
    expected = evaluate(study.test, benchmark_scores(net, study.test, study.profile.image)[0])
    assert np.allclose(found["AP"], expected["AP"])
    plain = toy.seed_maps(0).scores(MapEncoder(toy.untrained("mac", 0).head))
    assert not np.allclose(found["AP"], evaluate(toy.test, plain)["AP"])
