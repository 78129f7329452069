"""The study: what is trained, shared, chosen and kept, on Toytown and on photographs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from dagf.analysis.contrasts import summary
from dagf.files import file_sha256, write_json
from dagf.model.variants import VARIANTS
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate
from dagf.study import parallel
from dagf.study.config import RunConfig
from dagf.study.runs import RunStore
from dagf.study.study import Study
from tests.fixtures import FOLDER, TOY, Opened, copied, fails

pytestmark = pytest.mark.usefixtures("one_process")

RATES = (1e-3, 1e-1)
HEADS = ("gem", "netvlad", "spatial", "channel", "attention", "dagf")  # those with parameters
PLAIN = ("mac", "spoc", "crow")


@pytest.fixture
def own(toy: Study, tmp_path: Path) -> Study:
    return copied(toy, tmp_path)


def names(configs: list[RunConfig]) -> list[tuple[str, int, float]]:
    titles = {made_of.title: name for name, made_of in VARIANTS.items()}
    return sorted((titles[one.variant.title], one.seed, one.train.rate) for one in configs)


def test_arms_start_from_the_backbone_of_their_seed(toy: Study, trained: list[RunConfig]) -> None:
    runs = toy.train()
    assert trained == []
    assert set(runs) == {(arm, seed) for arm in ("gem", "dagf") for seed in (0, 1)}
    assert len({run.id for run in runs.values()}) == 4
    for (_, seed), run in runs.items():
        of = toy.backbone_run(seed)
        assert (of.config.variant.title, of.config.start) == ("SPoC", "")
        assert run.config.start == of.weights_id == toy.bare(seed).backbone_id


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
            assert trial.record["validation_mAP"] == row["validation mAP"]


def test_every_arm_with_parameters_gets_the_same_trials_on_the_first_seed_only(toy: Study) -> None:
    """And a trial that is not chosen never meets the test queries."""
    budget = toy.profile.plan(heads=True).training
    runs = [run for run in toy.store.all() if run.config.frozen]
    assert all(replace(run.config.train, rate=budget.rate) == budget for run in runs)
    found = names([run.config for run in runs])
    first = [(arm, 0, rate) for arm in HEADS for rate in RATES]
    assert [one for one in found if one[1] == 0] == sorted(first)
    assert sorted(arm for arm, seed, _ in found if seed == 1) == sorted(HEADS)
    chosen = {run.id for run in toy.train(heads=True).values()}
    assert {run.id for run in runs if toy.has_results(run)} == chosen
    assert len(chosen) < len(runs)


def test_other_trials_make_another_choice(own: Study, trained: list[RunConfig]) -> None:
    before = own.train(["channel"], heads=True)
    assert trained == []
    worse = next(rate for rate in RATES if rate != before["channel", 0].config.train.rate)
    lost = own.store.get(own.arm_config("channel", 0, True, worse).id)
    write_json(lost.folder / "record.json", {**lost.record, "validation_mAP": 99.0})
    after = own.train(["channel"], heads=True)
    assert names(trained) == [("channel", 1, worse)]  # the first seed's trial was its training
    assert {run.config.train.rate for run in after.values()} == {worse}
    assert after["channel", 0] == lost


def test_arms_without_parameters_stand_on_the_backbone_of_each_seed(toy: Study) -> None:
    found = toy.evaluate(heads=True)
    assert set(found) == {(arm, seed) for arm in (*HEADS, *PLAIN) for seed in (0, 1)}
    assert set(toy.train(heads=True)) == {(arm, seed) for arm in HEADS for seed in (0, 1)}
    for seed in (0, 1):
        kept = toy.backbone_run(seed).weights()
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
    fails("mac has nothing to train on a frozen backbone: use it", toy.run, "mac", heads=True)


def test_only_what_changed_is_trained_again(
    own: Study, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "dagf", replace(VARIANTS["dagf"], title="another title"))
    monkeypatch.setitem(VARIANTS, "channel", replace(VARIANTS["channel"], windows=(1, 2)))
    own.evaluate(heads=True)
    best = own.trials(["channel"], heads=True).query("chosen")["rate"].item()
    tried = [("channel", 0, rate) for rate in RATES]
    assert names(trained) == sorted([*tried, ("channel", 1, best)])
    trained.clear()
    own.evaluate()  # nor do the end-to-end arms change
    assert trained == []
    longer = replace(own.profile.arm_training, steps=2)
    replace(own, profile=replace(own.profile, arm_training=longer, rates=())).train(["gem"])
    assert names(trained) == [("gem", seed, longer.rate) for seed in (0, 1)]  # no backbone


def test_another_pyramid_is_evaluated_not_trained(own: Study, trained: list[RunConfig]) -> None:
    other = replace(own, profile=replace(own.profile, scales=(1.0, 0.7071)))
    run = own.run("gem")
    assert other.run("gem") == run and trained == []
    assert not other.has_results(run)
    assert not other.results(run).positions.equals(own.results(run).positions)


@pytest.mark.parametrize("heads", [False, True])
def test_a_lost_backbone_is_made_again(own: Study, trained: list[RunConfig], heads: bool) -> None:
    study = replace(own, profile=replace(own.profile, seeds=(0,)))
    first, of = study.run("gem", heads=heads), study.backbone_run(0)
    weights, configs = first.weights(), [of.config, first.config]
    for run in (of, first):
        shutil.rmtree(run.folder)
    again = study.run("gem", heads=heads)
    assert trained == configs
    assert all(again.weights()[key].equal(one) for key, one in weights.items())


@pytest.mark.parametrize("heads", [False, True])
def test_nothing_is_taken_for_that_of_other_backbone_weights(own: Study, heads: bool) -> None:
    """Another machine trains the same backbone to other weights: arms, maps and results are new."""
    first, of = own.run("gem", heads=heads), own.backbone_run(0)
    before, maps = own.results(first).per_query, own.training_maps(own.bare(0)).read(np.arange(2))
    weights, record = of.folder / "weights.safetensors", of.record
    moved = load_file(weights)
    moved |= {key: one * 1.5 for key, one in moved.items() if one.ndim == 4}
    save_file(moved, weights)
    write_json(of.folder / "record.json", record | {"weights_sha256": file_sha256(weights)})
    assert not own.has_results(own.backbone_run(0))
    second = own.run("gem", heads=heads)
    assert second.id != first.id
    assert second.config.start.partition("-")[0] == first.config.start.partition("-")[0]
    assert not own.results(second).per_query.equals(before)
    assert not own.training_maps(own.bare(0)).read(np.arange(2)).equal(maps)


def test_heads_on_a_folder(heads_on: Opened, photographs: Path) -> None:
    torch.set_num_threads(2)
    study = heads_on(photographs)
    assert study.training.landmarks == 2
    table = study.table()
    assert study.trials().empty  # there are no rates to choose from
    assert torch.get_num_threads() == 2
    assert (len(table), set(table["setting"])) == (4, {"Classic"})
    for (_, seed), run in study.train().items():
        assert run.record["machine"]["threads"] == 1
        net, bare = run.network(), study.bare(seed)
        fresh = bare.network().backbone.state_dict()
        assert all(fresh[key].equal(one) for key, one in net.backbone.state_dict().items())
        scores = benchmark_scores(net, study.test, study.profile.image)[0]
        found = study.results(run).per_query["AP"]  # through the cached maps, in half precision
        expected = evaluate(study.test, scores)["AP"]
        assert np.allclose(found, expected, atol=0.35)
        assert found.mean() == pytest.approx(expected.mean(), abs=0.05)
    assert len({study.bare(seed).backbone_id for seed in (0, 1)}) == 2


@pytest.mark.parametrize("cut", ["layer3", "layer3.1.bn2"])  # rectified, linear
def test_the_last_stage_learns_with_the_head(heads_on: Opened, photographs: Path, cut: str) -> None:
    """The primary arms train it on maps before it; heads stay on the maps after it."""
    last = {"name": "resnet18", "cut": cut, "stage": ["layer4"]}
    values = {"backbone": {"name": "resnet18"}, "last_stage": last, "seeds": [0]}
    study = heads_on(photographs, **values, arm_training=FOLDER["heads"]["training"])
    (run,), (head,) = (study.train(["gem"], heads=heads).values() for heads in (False, True))
    net, fresh = run.network(), study.untrained("gem", 0, heads=False).network()
    assert all(map(torch.equal, net.backbone.parameters(), fresh.backbone.parameters()))
    assert not any(map(torch.equal, net.stage.parameters(), fresh.stage.parameters()))
    assert run.frozen and head.network().stage is None
    _, *expected = benchmark_scores(net, study.test, study.profile.image)
    found = study.descriptors(run)  # through the cached maps, in half precision
    assert all(np.allclose(*pair, atol=2e-3) for pair in zip(found, expected, strict=True))
    before = replace(study.profile.backbone, cut=cut)  # another network, of the same maps
    earlier = replace(study, profile=replace(study.profile, backbone=before))
    whole, short = study.untrained("gem", 0, heads=False), earlier.untrained("gem", 0)
    assert whole.backbone_id == short.backbone_id == run.backbone_id != head.backbone_id
    assert whole.weights_id != short.weights_id


def test_weights_are_named_by_their_content(
    heads_on: Opened, photographs: Path, backbone_weights: str, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(backbone_weights, tmp_path / "copy.pth"))
    files = backbone_weights, str(copy)
    one, two = (heads_on(photographs, file, seeds=[0]) for file in files)
    assert one.arm_config("gem", 0) == two.arm_config("gem", 0)
    assert one.backbone.weights.startswith("sha256:")
    kept, given = one.run("gem").weights(), torch.load(backbone_weights)
    assert all(kept[f"backbone.{key}"].equal(value) for key, value in given.items())
    copy.write_bytes(b"")
    fails(r"copy\.pth", two.untrained("gem").network)


def test_off_the_shelf(heads_on: Opened, photographs: Path, backbone_weights: str) -> None:
    fails("no pretrained backbone", heads_on(photographs).untrained_results, "gem")
    study = heads_on(photographs, backbone_weights, off_the_shelf=["gem", "spoc"], seeds=[0])
    table = study.off_the_shelf_table()
    assert list(table["arm"]) == ["gem", "spoc"]
    assert list(table["method"]) == list(summary(table)["method"]) == ["GeM", "SPoC"]
    net, found = study.untrained("gem").network(), study.untrained_results("gem").per_query["AP"]
    scores = benchmark_scores(net, study.test, study.profile.image)[0]
    assert found.mean() == pytest.approx(evaluate(study.test, scores)["AP"].mean(), abs=0.05)
    fails("dagf has an attention that must be trained first", study.untrained_results, "dagf")
    with pytest.MonkeyPatch.context() as patched:  # the name is another descriptor's now
        patched.setitem(VARIANTS, "gem", replace(VARIANTS["gem"], windows=(1, 2)))
        assert not study.has_results(study.untrained("gem"))


@pytest.mark.study
def test_the_bits_of_workers(own: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The two trials of a head are trained side by side."""
    before = [own.store.get(one).weights() for one in own.trials(["channel"], heads=True)["run"]]
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    other = replace(own, store=RunStore(tmp_path / "other"))
    for one, weights in zip(other.trials(["channel"], heads=True)["run"], before, strict=True):
        there = other.store.get(one).weights()
        assert all(weights[name].equal(value) for name, value in there.items())
