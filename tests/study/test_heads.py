"""Heads on the maps of the same backbones: fair trials, chosen on validation, no idle run."""

import shutil
from collections import Counter
from collections.abc import Callable
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
from dagf.retrieval.metrics import evaluate, positions
from dagf.study.config import RunConfig
from dagf.study.opening import open_study
from dagf.study.runs import Run, RunStore
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


def heads(study: Study) -> list[Run]:
    return [run for run in study.store.all() if run.config.frozen]


def names(configs: list[RunConfig]) -> list[tuple[str, int, float]]:
    titles = {made_of.title: name for name, made_of in VARIANTS.items()}
    return sorted((titles[one.variant.title], one.seed, one.train.rate) for one in configs)


def test_every_arm_with_parameters_gets_the_same_trials_on_the_first_seed_only(toy: Study) -> None:
    found = Counter((run.config.variant.title, run.config.seed) for run in heads(toy))
    assert found == {(VARIANTS[arm].title, seed): 2 - seed for arm in HEADS for seed in (0, 1)}
    on_first = {
        (run.config.variant.title, run.config.train.rate)
        for run in heads(toy)
        if run.config.seed == 0
    }
    assert on_first == {(VARIANTS[arm].title, rate) for arm in HEADS for rate in RATES}
    budget = toy.plan(heads=True).training
    assert all(replace(run.config.train, rate=budget.rate) == budget for run in heads(toy))
    own_arms = [run for run in toy.store.all() if not run.config.frozen and run.config.start]
    assert len(own_arms) == 2 * (2 + 1)
    assert {run.config.train.rate for run in own_arms if run.config.seed == 0} == set(TOY["rates"])


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


def test_another_outcome_of_the_trials_makes_another_choice(
    own: Study, trained: list[RunConfig]
) -> None:
    before = own.train(["channel"], heads=True)
    assert trained == []
    worse = next(rate for rate in RATES if rate != before["channel", 0].config.train.rate)
    lost = own.store.get(own.arm_config("channel", 0, True, worse).id)
    write_json(lost.folder / "record.json", {**lost.record, "validation_mAP": 99.0})
    after = own.train(["channel"], heads=True)
    assert names(trained) == [
        ("channel", 1, worse)
    ]  # with the first seed it was trained: that was the trial
    assert {run.config.train.rate for run in after.values()} == {worse}
    assert after["channel", 0] == lost


def test_a_trial_that_is_not_chosen_never_meets_the_test_queries(toy: Study) -> None:
    for heads in (False, True):
        chosen = {run.id for run in toy.train(heads=heads).values()}
        arms = [run for run in toy.store.all() if run.config.start and run.config.frozen == heads]
        assert {run.id for run in arms if toy.has_results(run)} == chosen
        assert len(chosen) < len(arms)


def test_arms_without_parameters_are_used_as_they_are_on_the_backbone_of_each_seed(
    toy: Study,
) -> None:
    found = toy.evaluate(heads=True)
    assert set(found) == {(arm, seed) for arm in (*HEADS, *PLAIN) for seed in (0, 1)}
    assert set(toy.train(heads=True)) == {(arm, seed) for arm in HEADS for seed in (0, 1)}
    for arm in PLAIN:
        for seed in (0, 1):
            net = toy.untrained(arm, seed).network()
            scores = toy.test_maps(toy.bare(seed)).scores(net.head)
            pd.testing.assert_frame_equal(found[arm, seed].per_query, evaluate(toy.test, scores))
            pd.testing.assert_frame_equal(found[arm, seed].positions, positions(toy.test, scores))
            backbone = toy.backbone_config(seed)
            assert backbone is not None
            kept, own = (
                toy.store.get(backbone.id).network().backbone.state_dict(),
                net.backbone.state_dict(),
            )
            assert all(own[key].equal(value) for key, value in kept.items())
            # half precision of the maps is all that tells them from the images
            assert np.allclose(
                scores, benchmark_scores(net, toy.test, toy.profile.image)[0], atol=2e-3
            )
        assert not found[arm, 0].per_query["AP"].equals(found[arm, 1].per_query["AP"])


def test_to_ask_for_arms_without_parameters_trains_nothing(
    own: Study, trained: list[RunConfig]
) -> None:
    fresh = replace(
        own, profile=replace(own.profile, heads=replace(own.plan(heads=True), rates=(1e-4, 2e-4)))
    )
    assert set(fresh.evaluate(["mac", "crow"], heads=True)) == {
        (arm, seed) for arm in ("mac", "crow") for seed in (0, 1)
    }
    assert fresh.train(["mac"], heads=True) == {}
    assert trained == []
    with pytest.raises(
        UserError, match="mac has nothing to train on a frozen backbone: use it off the shelf"
    ):
        fresh.run("mac", heads=True)


def test_changing_one_arm_trains_that_arm_only(
    own: Study, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "channel", replace(VARIANTS["channel"], windows=(1, 2)))
    before = set(own.store.all())
    own.evaluate(heads=True)
    best = own.trials(["channel"], heads=True).query("chosen")["rate"].item()
    assert names(trained) == sorted(
        [*(("channel", 0, rate) for rate in RATES), ("channel", 1, best)]
    )
    assert len(set(own.store.all()) - before) == 3
    trained.clear()
    own.evaluate()  # nor do the end-to-end arms change
    assert trained == []


def test_a_new_end_to_end_arm_leaves_the_heads_alone(own: Study, trained: list[RunConfig]) -> None:
    more = replace(
        own, profile=replace(own.profile, arms=("gem", "dagf", "mac"), rates=TOY["rates"][:1])
    )
    more.train(["mac"])
    assert names(trained) == [
        ("mac", seed, TOY["rates"][0]) for seed in (0, 1)
    ]  # its backbone can be trained
    assert not any(config.frozen for config in trained)


def test_without_heads_there_is_nothing_to_ask(project: Path, profile: Callable[..., str]) -> None:
    study = open_study(profile())
    for ask in (study.plan, study.trials, study.train, study.evaluate, study.table):
        with pytest.raises(UserError, match="profile tiny has no heads on frozen maps"):
            ask(heads=True)


def test_heads_that_name_no_arms_has_all_of_them(toy: Study) -> None:
    assert toy.plan() == replace(
        toy.plan(heads=True),
        training=toy.profile.arm_training,
        arms=("gem", "dagf"),
        rates=(1e-3, 3e-3),
    )
    every = replace(toy, profile=replace(toy.profile, heads=replace(toy.plan(heads=True), arms=())))
    assert every.plan(heads=True).arms == tuple(VARIANTS)


def test_without_rates_there_are_no_trials_and_one_run_a_seed(
    own: Study, trained: list[RunConfig]
) -> None:
    heads = replace(own.plan(heads=True), arms=("gem", "spoc"), rates=())
    study = replace(own, profile=replace(own.profile, heads=heads, rates=()))
    trials = study.trials(heads=True)
    assert list(trials.columns) == ["arm", "method", "rate", "validation mAP", "chosen", "run"]
    assert trials.empty
    assert ablations.trial_table(trials).empty
    assert study.trials().empty
    trained.clear()
    runs = study.train(heads=True)
    assert set(runs) == {("gem", 0), ("gem", 1)}
    assert {run.config.train.rate for run in runs.values()} == {heads.training.rate}
    assert len(trained) <= 2


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
    heads = replace(own.plan(heads=True), arms=("random",), rates=())
    study = replace(own, profile=replace(own.profile, heads=heads, seeds=(0,)))
    run = study.run("random", heads=True)
    first = study.results(run)
    torch.manual_seed(1234)
    again = replace(study, cache=tmp_path / "empty").results(run)
    pd.testing.assert_frame_equal(again.positions, first.positions)
