"""The run store: found by configuration or by the first digits; what is broken is named."""

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dagf.files import write_json
from dagf.study.runs import Run, RunStore, Untrained
from tests.fixtures import Code, Workshop, configured, fails


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to damage."""
    shutil.copytree(finished.folder, tmp_path / finished.id)
    return Run(tmp_path / finished.id)


def test_find_gives_finished_runs_only(workshop: Workshop) -> None:
    store, config = workshop.store, configured("gem", epochs=1)
    assert store.find(config) is None and store.all() == []
    run = workshop.train(config)
    assert store.find(config) == run and store.all() == [run]
    assert (run.id, run.folder) == (config.id, store.folder(config))
    (run.folder / "state.pt").touch()  # a kill after the record left it
    assert workshop.train(config) == run
    assert not (run.folder / "state.pt").exists()


def test_get_takes_the_first_digits(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for name in ("aa11", "aa22", "bb33"):
        write_json(tmp_path / name / "record.json", {})
    (tmp_path / "cc44").mkdir()  # not finished
    assert store.get("bb33").id == store.get("b").id == "bb33"
    assert store.get("aa1").id == "aa11"
    write_json(tmp_path / "kept" / "aa11" / "record.json", {})  # as `dagf backbones` leaves it
    assert RunStore(tmp_path, tmp_path / "kept").get("aa11").folder == tmp_path / "aa11"
    fails(r"found aa11, aa22$", store.get, "aa")
    for wrong in ("cc44", ""):
        said = f"run '{wrong}': expected one finished run in {store.root}, found none"
        fails(f"{re.escape(said)}$", store.get, wrong)


def test_another_arm_starts_from_its_backbone_alone(finished: Run) -> None:
    store, other = RunStore(finished.folder.parent), configured("netvlad", seed=3)
    net = Untrained(replace(other, start=finished.weights_id), store).network()
    kept, fresh = finished.network(), Untrained(other, store).network()
    assert not kept.training and not net.training
    weights = load_file(finished.folder / "weights.safetensors")
    assert all(weights[key].equal(value) for key, value in kept.state_dict().items())
    for one, source in ((net.backbone, kept.backbone), (net.head, fresh.head)):
        values = source.state_dict()
        assert all(values[key].equal(value) for key, value in one.state_dict().items())


def test_a_pretrained_backbone_keeps_its_batch_norms(finished: Run, tmp_path: Path) -> None:
    config = finished.config
    other = replace(config, backbone=replace(config.backbone, weights="sha256:0123"))
    there = tmp_path / other.id
    shutil.copytree(finished.folder, there)
    write_json(there / "config.json", asdict(other))
    write_json(there / "record.json", finished.record | {"run": other.id})
    assert not Run(there).network().train().backbone.training


@pytest.mark.parametrize("text", ["", "[]", '{"more": 1}'])
def test_a_broken_configuration_is_one_line(copy: Run, text: str) -> None:
    (copy.folder / "config.json").write_text(text)
    fails(re.escape(str(copy.folder / "config.json")), copy.network)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: save_file({"x": torch.ones(1)}, file)])
def test_weights_unlike_the_record_are_named(copy: Run, spoil: Callable[[Path], object]) -> None:
    spoil(copy.folder / "weights.safetensors")
    fails(r"weights\.safetensors is not what was trained: put it", copy.network)


def test_a_broken_checkpoint_is_named_and_runs_no_code(workshop: Workshop, tmp_path: Path) -> None:
    config, code, saved = configured(epochs=2, steps=1), Code(tmp_path / "fired"), io.BytesIO()
    workshop.interrupt(config, after=1)
    stopped = workshop.store.folder(config) / "state.pt"
    torch.save({"run": code}, saved)
    whole = stopped.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], saved.getvalue()):
        stopped.write_bytes(content)
        fails(r"state\.pt is broken: delete it, training starts", workshop.train, config)
    assert not code.file.exists()
    stopped.unlink()
    assert len(workshop.train(config).curves) == 2
