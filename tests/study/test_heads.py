"""Heads on the maps of the same backbones: fair trials, chosen on validation, no idle run."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dagf.analysis import ablations
from dagf.errors import UserError
from dagf.files import write_json
from dagf.model.network import Variant
from dagf.model.variants import VARIANTS
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate
from dagf.study.config import RunConfig
from dagf.study.runs import RunStore
from dagf.study.study import Study
from tests.fixtures import TOY

pytestmark = pytest.mark.usefixtures("one_process")

RATES = (1e-3, 1e-1)
HEADS = ("gem", "netvlad", "spatial", "channel", "attention", "dagf")  # those with parameters
PLAIN = ("mac", "spoc", "crow")


@pytest.fixture
def own(toy: Study, tmp_path: Path) -> Study:
    """The toy study with a store and a cache of its own, which begin as copies."""
    shutil.copytree(toy.store.root, tmp_path / "runs")
    shutil.copytree(toy.cache, tmp_path / "cache")
    return replace(toy, store=RunStore(tmp_path / "runs"), cache=tmp_path / "cache")


def names(configs: list[RunConfig]) -> list[tuple[str, int, float]]:
    titles = {made_of.title: name for name, made_of in VARIANTS.items()}
    return sorted((titles[one.variant.title], one.seed, one.train.rate) for one in configs)


@pytest.mark.parametrize("heads", [False, True])
def test_the_best_trial_by_validation_is_trained_with_every_seed(toy: Study, heads: bool) -> None:
    trials = toy.trials(heads=heads)
    for (arm, seed), run in toy.train(heads=heads).items():
        own = trials[trials["arm"] == arm]
        assert list(own["rate"]) == (list(RATES) if heads else TOY["rates"])
        assert own["chosen"].sum() == 1
        assert own["validation mAP"][own["chosen"]].item() == own["validation mAP"].max()
        assert run.config.train.rate == own["rate"][own["chosen"]].item()
        assert (run.config.seed, run.config.frozen) == (seed, heads)
        for row in own.to_dict("records"):
            trial = toy.store.find(toy.arm_config(arm, 0, heads, row["rate"]))
            assert trial is not None
            assert trial.record["validation_mAP"] == row["validation mAP"]
    assert trials["chosen"].sum() == trials["arm"].nunique()


def test_every_arm_with_parameters_gets_the_same_trials_on_the_first_seed_only(toy: Study) -> None:
    """And a trial that is not chosen never meets the test queries."""
    budget = toy.profile.plan(heads=True).training
    runs = [run for run in toy.store.all() if run.config.frozen]
    assert all(replace(run.config.train, rate=budget.rate) == budget for run in runs)
    found = names([run.config for run in runs])
    first = [(arm, 0, rate) for arm in HEADS for rate in RATES]
    assert [one for one in found if one[1] == 0] == sorted(first)
    assert sorted(arm for arm, seed, _ in found if seed == 1) == sorted(HEADS)
    own = [run for run in toy.store.all() if not run.config.frozen and run.config.start]
    assert {run.config.train.rate for run in own if run.config.seed == 0} == set(TOY["rates"])
    assert len(own) == 2 * (2 + 1)
    for heads, arms in ((False, own), (True, runs)):
        chosen = {run.id for run in toy.train(heads=heads).values()}
        assert {run.id for run in arms if toy.has_results(run)} == chosen
        assert len(chosen) < len(arms)


def test_another_outcome_of_the_trials_makes_another_choice(
    own: Study, trained: list[RunConfig]
) -> None:
    before = own.train(["channel"], heads=True)
    assert trained == []
    worse = next(rate for rate in RATES if rate != before["channel", 0].config.train.rate)
    lost = own.store.get(own.arm_config("channel", 0, True, worse).id)
    write_json(lost.folder / "record.json", {**lost.record, "validation_mAP": 99.0})
    after = own.train(["channel"], heads=True)
    assert names(trained) == [("channel", 1, worse)]  # the first seed's trial was its training
    assert {run.config.train.rate for run in after.values()} == {worse}
    assert after["channel", 0] == lost


def test_arms_without_parameters_are_used_as_they_are_on_the_backbone_of_each_seed(
    toy: Study,
) -> None:
    found = toy.evaluate(heads=True)
    assert set(found) == {(arm, seed) for arm in (*HEADS, *PLAIN) for seed in (0, 1)}
    assert set(toy.train(heads=True)) == {(arm, seed) for arm in HEADS for seed in (0, 1)}
    for seed in (0, 1):
        backbone = toy.backbone_config(seed)
        assert backbone is not None
        kept = toy.store.get(backbone.id).weights()
        for arm in PLAIN:
            net = toy.untrained(arm, seed).network()
            own = net.backbone.state_dict()
            assert all(kept[f"backbone.{key}"].equal(value) for key, value in own.items())
            scores = toy.test_maps(toy.bare(seed)).scores(net.head)
            per_query = found[arm, seed].per_query
            pd.testing.assert_frame_equal(per_query, evaluate(toy.test, scores))
            # half precision of the maps is all that tells them from the images
            images = benchmark_scores(net, toy.test, toy.profile.image)[0]
            assert np.allclose(scores, images, atol=2e-3)
    assert not found["mac", 0].per_query["AP"].equals(found["mac", 1].per_query["AP"])
    with pytest.raises(UserError, match="mac has nothing to train on a frozen backbone: use it"):
        toy.run("mac", heads=True)


def test_changing_one_arm_trains_that_arm_only(
    own: Study, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "channel", replace(VARIANTS["channel"], windows=(1, 2)))
    own.evaluate(heads=True)
    best = own.trials(["channel"], heads=True).query("chosen")["rate"].item()
    tried = [("channel", 0, rate) for rate in RATES]
    assert names(trained) == sorted([*tried, ("channel", 1, best)])
    trained.clear()
    own.evaluate()  # nor do the end-to-end arms change
    assert trained == []


def test_without_rates_there_are_no_trials_and_one_run_a_seed(
    own: Study, trained: list[RunConfig]
) -> None:
    heads = replace(own.profile.plan(heads=True), arms=("gem", "spoc"), rates=())
    study = replace(own, profile=replace(own.profile, heads=heads, rates=()))
    trials = study.trials(heads=True)
    assert list(trials.columns) == ["arm", "method", "rate", "validation mAP", "chosen", "run"]
    assert trials.empty and study.trials().empty
    assert ablations.trial_table(trials).empty
    runs = study.train(heads=True)
    assert set(runs) == {("gem", 0), ("gem", 1)}
    assert {run.config.train.rate for run in runs.values()} == {heads.training.rate}
    assert all(config.variant.title == "GeM" for config in trained)


def test_a_table_of_heads_is_that_of_their_answers(toy: Study) -> None:
    table = toy.table(["spoc", "dagf"], heads=True)
    results = toy.evaluate(["spoc", "dagf"], heads=True)
    for row in table.to_dict("records"):
        per_query = results[row["arm"], row["seed"]].per_query
        part = per_query[(per_query["setting"] == row["setting"]) & (per_query["positives"] > 0)]
        assert row["mAP"] == pytest.approx(100 * part["AP"].mean())
        assert row["queries"] == len(part)
        assert row["method"] == VARIANTS[row["arm"]].title
    assert set(zip(table["arm"], table["seed"], strict=True)) == set(results)


def test_a_random_mask_is_drawn_alike_whatever_was_drawn_before(
    own: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        VARIANTS, "random", Variant("GeM + random mask", windows=(1, 2, 3), mask="random")
    )
    heads = replace(own.profile.plan(heads=True), arms=("random",), rates=())
    study = replace(own, profile=replace(own.profile, heads=heads, seeds=(0,)))
    run = study.run("random", heads=True)
    first = study.results(run)
    torch.manual_seed(1234)
    again = replace(study, cache=tmp_path / "empty").results(run)
    pd.testing.assert_frame_equal(again.positions, first.positions)
