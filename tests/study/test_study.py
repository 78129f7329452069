"""The study: what is trained, shared and kept, on Toytown and on a folder of photographs."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dagf.analysis.contrasts import summary
from dagf.datasets.images import ImageSpec, load_image, to_input
from dagf.errors import UserError
from dagf.files import file_sha256, read_json, write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate
from dagf.study import parallel
from dagf.study.config import RunConfig
from dagf.study.runs import RunStore
from dagf.study.study import open_study
from tests.fixtures import FOLDER, PROFILE

pytestmark = pytest.mark.usefixtures("one_process")


def test_arms_share_the_backbone_of_their_seed(
    project: Path, profile: Callable[..., str], trained: list[RunConfig]
) -> None:
    study = open_study(profile())
    table = study.table()
    backbones, arms = trained[:2], trained[2:]
    assert [config.start for config in backbones] == ["", ""]
    assert [config.variant.title for config in backbones] == ["SPoC", "SPoC"]
    assert len(arms) == 4
    assert {(config.seed, config.start) for config in arms} == {
        (config.seed, study.bare(config.seed).backbone_id) for config in backbones
    }
    rows = {(row["arm"], row["seed"]) for row in table.to_dict("records")}
    assert rows == {(arm, seed) for arm in ("spoc", "dagf") for seed in (0, 1)}
    assert set(table["setting"]) <= {"Easy", "Medium", "Hard"}
    assert table["mAP"].between(0, 100).all()
    assert len({run.id for run in study.train().values()}) == 4
    trained.clear()
    assert study.table().equals(table)
    assert trained == []


def test_another_pyramid_is_evaluated_again_but_not_trained(
    project: Path, profile: Callable[..., str], trained: list[RunConfig]
) -> None:
    study = open_study(profile(arms=["spoc"], seeds=[0]))
    run = study.run("spoc")
    trained.clear()
    other = open_study(profile(arms=["spoc"], seeds=[0], scales=[1.0, 0.7071]))
    assert other.run("spoc") == run
    assert trained == []
    results = [one.results(run).positions for one in (study, other)]
    assert not results[0].equals(results[1])


SQUEEZE = {"name": "squeezenet1_1", "cut": "features.7"}


@pytest.mark.parametrize("backbone", [{"name": "small"}, SQUEEZE])
def test_heads_on_a_frozen_backbone_and_a_folder(
    project: Path, profile: Callable[..., str], photographs: Path, backbone: Mapping[str, str]
) -> None:
    torch.set_num_threads(2)
    study = open_study(profile(**FOLDER, backbone=dict(backbone)), str(photographs))
    assert study.training is not None
    assert study.training.landmarks == 2
    table = study.table()
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
        images = [load_image(file, ImageSpec(32, "squash")) for file in study.training.files]
        with torch.inference_mode():
            maps = torch.relu(net.backbone(to_input(torch.stack(images))))
        learned_from = study.training_maps(bare).batch(np.arange(len(images)))
        assert torch.allclose(learned_from, maps, rtol=2e-3, atol=2e-3)
    assert len({study.bare(seed).backbone_id for seed in (0, 1)}) == 2


def test_only_what_changed_is_trained_again(
    project: Path,
    profile: Callable[..., str],
    trained: list[RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"seeds": [0]}
    first = open_study(profile(**small)).train()
    trained.clear()
    monkeypatch.setitem(VARIANTS, "dagf", replace(VARIANTS["dagf"], windows=(1, 2)))
    second = open_study(profile(**small)).train()
    assert [config.variant.windows for config in trained] == [(1, 2)]
    assert second["spoc", 0] == first["spoc", 0]
    assert second["dagf", 0] != first["dagf", 0]
    trained.clear()
    monkeypatch.setitem(VARIANTS, "dagf", replace(VARIANTS["dagf"], title="another title"))
    open_study(profile(**small, about="other words", arms=["dagf"])).train()
    assert trained == []
    longer = {"epochs": 1, "steps": 2, "landmarks": 3, "views": 2}
    open_study(profile(**small, arm_training=longer)).train()
    assert len(trained) == 2  # the arms, not the backbone


FROZEN = {"arm_training": None, "heads": {"training": PROFILE["arm_training"]}}


@pytest.mark.parametrize("changes", [{}, FROZEN], ids=["end to end", "heads"])
def test_a_backbone_that_is_gone_is_trained_again_before_its_arms(
    project: Path, profile: Callable[..., str], trained: list[RunConfig], changes: dict[str, Any]
) -> None:
    study = open_study(profile(arms=["gem"], seeds=[0], **changes))
    first, backbone = study.run("gem"), study.backbone_config(0)
    assert backbone is not None
    weights = load_file(first.folder / "weights.safetensors")
    for config in (backbone, first.config):
        shutil.rmtree(study.store.folder(config))
    again = study.run("gem")
    assert trained == 2 * [backbone, first.config]
    assert all(again.weights()[key].equal(one) for key, one in weights.items())


@pytest.mark.parametrize("changes", [{}, FROZEN], ids=["end to end", "heads"])
def test_nothing_is_taken_for_that_of_a_backbone_with_other_weights(
    project: Path, profile: Callable[..., str], changes: dict[str, Any]
) -> None:
    """Another machine trains the same backbone to other weights: arms, maps and results are new."""
    study = open_study(profile(arms=["gem"], seeds=[0], **changes))
    first, backbone = study.run("gem"), study.backbone_config(0)
    assert backbone is not None
    before, maps = (
        study.results(first).per_query,
        study.training_maps(study.bare(0)).batch(np.arange(2)),
    )
    folder = study.store.folder(backbone)
    weights, record = folder / "weights.safetensors", read_json(folder / "record.json")
    moved = load_file(weights)
    moved |= {key: one * 1.5 for key, one in moved.items() if one.ndim == 4}
    save_file(moved, weights)
    write_json(folder / "record.json", record | {"weights_sha256": file_sha256(weights)})
    second = study.run("gem")
    assert second.id != first.id
    assert second.config.start.partition("-")[0] == first.config.start.partition("-")[0]
    assert not study.results(second).per_query.equals(before)
    assert not study.training_maps(study.bare(0)).batch(np.arange(2)).equal(maps)


def test_results_are_those_of_the_weights(project: Path, profile: Callable[..., str]) -> None:
    """Trained again to other weights, a run is evaluated again."""
    study = open_study(profile(arms=["gem"], seeds=[0]))
    run = study.run("gem")
    study.results(run)
    assert study.has_results(run)
    record = run.record
    write_json(run.folder / "record.json", record | {"weights_sha256": "0" * 64})
    assert not study.has_results(run)


def test_weights_are_named_by_their_content(
    project: Path, profile: Callable[..., str], photographs: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    backbone = RetrievalNet(BackboneSpec(), variant("spoc")).backbone
    for name in ("one.pth", "two.pth"):
        torch.save(backbone.state_dict(), tmp_path / name)
    (tmp_path / "two.pth").write_bytes((tmp_path / "one.pth").read_bytes())
    name = profile(**FOLDER, seeds=[0])
    one, two = (
        open_study(name, str(photographs), weights=str(tmp_path / file))
        for file in ("one.pth", "two.pth")
    )
    assert one.arm_config("gem", 0) == two.arm_config("gem", 0)
    assert one.backbone.weights.startswith("sha256:")
    kept = load_file(one.run("gem").folder / "weights.safetensors")
    assert all(kept[f"backbone.{key}"].equal(value) for key, value in backbone.state_dict().items())
    (tmp_path / "two.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"two\.pth"):
        two.untrained("gem").network()


def test_off_the_shelf(
    project: Path,
    profile: Callable[..., str],
    photographs: Path,
    backbone_weights: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = profile(**FOLDER, off_the_shelf=["gem", "spoc"], seeds=[0])
    with pytest.raises(UserError, match="no pretrained backbone"):
        open_study(name, str(photographs)).untrained_results("gem")
    study = open_study(name, str(photographs), weights=backbone_weights)
    table = study.off_the_shelf_table()
    assert list(table["arm"]) == ["gem", "spoc"]
    assert list(summary(table)["method"]) == ["GeM", "SPoC"]
    net, found = study.untrained("gem").network(), study.untrained_results("gem").per_query["AP"]
    scores = benchmark_scores(net, study.test, study.profile.image)[0]
    assert found.mean() == pytest.approx(evaluate(study.test, scores)["AP"].mean(), abs=0.05)
    with pytest.raises(UserError, match="dagf has an attention that must be trained first"):
        study.untrained_results("dagf")
    monkeypatch.setitem(VARIANTS, "gem", replace(VARIANTS["gem"], windows=(1, 2)))
    assert not study.has_results(study.untrained("gem"))  # the name is another descriptor's now


@pytest.mark.study
def test_worker_processes_give_the_same_bits(
    project: Path,
    profile: Callable[..., str],
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    study = open_study(profile(**FOLDER, seeds=[0]), str(photographs))
    here = {
        key: load_file(run.folder / "weights.safetensors") for key, run in study.train().items()
    }
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    other = replace(study, store=RunStore(tmp_path / "other"), cache=tmp_path / "cache")
    for key, run in other.train().items():
        there = load_file(run.folder / "weights.safetensors")
        assert all(here[key][name].equal(value) for name, value in there.items())
