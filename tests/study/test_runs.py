"""The run store: found by configuration or by the first digits; what is broken is named."""

import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dagf.errors import UserError
from dagf.files import write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.study import training
from dagf.study.runs import Run, RunStore
from tests.fixtures import Workshop, configured


def pretended(store: RunStore, *names: str) -> None:
    for name in names:
        write_json(store.root / name / "record.json", {})


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to damage."""
    shutil.copytree(finished.folder, tmp_path / finished.id)
    return Run(tmp_path / finished.id)


def test_find_gives_finished_runs_only(finished: Run) -> None:
    store = RunStore(finished.folder.parent)
    assert store.find(configured()) == finished
    assert store.find(configured(seed=5)) is None
    assert store.all() == [finished]
    assert store.folder(configured()) == finished.folder
    assert finished.id == configured().id


def test_what_a_kill_after_the_record_left_is_cleared_away(workshop: Workshop) -> None:
    run = workshop.train(configured("gem", epochs=1))
    (run.folder / "state.pt").touch()
    assert workshop.train(configured("gem", epochs=1)) == run
    assert not (run.folder / "state.pt").exists()


def test_get_takes_the_first_digits(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    pretended(store, "aa11", "aa22", "bb33")
    (tmp_path / "cc44").mkdir()  # not finished
    assert store.get("bb33").id == store.get("b").id == "bb33"
    assert store.get("aa1").id == "aa11"
    with pytest.raises(UserError, match=r"found aa11, aa22$"):
        store.get("aa")


@pytest.mark.parametrize("wrong", ["cc44", "zz", "", "*", "../"])
def test_any_other_name_is_one_line(tmp_path: Path, wrong: str) -> None:
    store = RunStore(tmp_path / "runs")
    pretended(store, "aa11")
    (store.root / "cc44").mkdir()
    said = re.escape(f"run '{wrong}': expected one finished run in {store.root}, found none")
    with pytest.raises(UserError, match=f"{said}$"):
        store.get(wrong)


def test_an_empty_store_has_no_runs(tmp_path: Path) -> None:
    assert RunStore(tmp_path / "nowhere").all() == []
    assert RunStore(tmp_path / "nowhere").find(configured()) is None


def test_the_network_comes_back(finished: Run) -> None:
    net = finished.network()
    assert not net.training
    other = RetrievalNet(BackboneSpec(), configured().variant).eval()
    other.load_state_dict(load_file(finished.folder / "weights.safetensors"))
    images = torch.randn(2, 3, 32, 40)
    with torch.inference_mode():
        assert torch.equal(net(images), other(images))
        assert torch.equal(net(images), finished.network()(images))


def test_another_network_gets_its_backbone_alone(finished: Run) -> None:
    net = RetrievalNet(BackboneSpec(), configured().variant)
    head = {key: value.clone() for key, value in net.head.state_dict().items()}
    finished.load_backbone(net)
    kept = finished.network().backbone.state_dict()
    assert all(kept[key].equal(value) for key, value in net.backbone.state_dict().items())
    assert all(head[key].equal(value) for key, value in net.head.state_dict().items())


def test_a_pretrained_backbone_keeps_its_batch_norms_though_its_file_is_gone(
    finished: Run, tmp_path: Path
) -> None:
    config = finished.config
    other = replace(config, backbone=replace(config.backbone, weights="sha256:0123"))
    there = tmp_path / other.id
    shutil.copytree(finished.folder, there)
    write_json(there / "config.json", asdict(other))
    write_json(there / "record.json", finished.record | {"run": other.id})
    net = Run(there).network()
    assert net.keep_batch_norm
    assert not net.train().backbone.training


@pytest.mark.parametrize("file", ["config.json", "record.json"])
def test_a_file_of_another_run_is_named(copy: Run, workshop: Workshop, file: str) -> None:
    other = workshop.train(configured(epochs=1, steps=1, seed=1))
    shutil.copy(other.folder / file, copy.folder)
    with pytest.raises(UserError, match=rf"{file} is .* run.*: delete its folder and train again"):
        copy.network()


@pytest.mark.parametrize("spoil", ["gone", "cut", "another network", "a pickle"])
def test_weights_that_are_not_those_of_the_record_are_named(copy: Run, spoil: str) -> None:
    weights = copy.folder / "weights.safetensors"
    whole = weights.read_bytes()
    if spoil == "gone":
        weights.unlink()
    elif spoil == "cut":
        weights.write_bytes(whole[: len(whole) // 2])
    elif spoil == "another network":
        save_file({"x": torch.zeros(1)}, weights)
    else:
        torch.save({"x": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match=re.escape(str(weights))) as caught:
        copy.network()
    assert "\n" not in str(caught.value)


def test_missing_curves_are_named(copy: Run) -> None:
    assert list(copy.curves) == ["epoch", "loss", "validation_mAP", "rate"]
    (copy.folder / "curves.csv").unlink()
    with pytest.raises(UserError, match=r"cannot read .*curves\.csv: delete its folder"):
        _ = copy.curves


@pytest.mark.parametrize("text", ["", "{", "[]", '{"variant": {}}', '{"more": 1}'])
def test_a_broken_configuration_is_one_line(copy: Run, text: str) -> None:
    (copy.folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(str(copy.folder / "config.json"))):
        copy.network()


@pytest.fixture
def stopped(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a training that was stopped before its end."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training._Loop, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            workshop.train(configured(epochs=2, steps=1))
    return workshop.store.folder(configured(epochs=2, steps=1)) / "state.pt"


def test_a_checkpoint_of_another_run_is_named(workshop: Workshop, stopped: Path) -> None:
    second = configured(epochs=2, steps=1, seed=1)
    state = workshop.store.folder(second) / "state.pt"
    state.parent.mkdir()
    shutil.copy(stopped, state)
    own = stopped.parent.name
    with pytest.raises(UserError, match=re.escape(f"{state} is of another run, {own}: delete it")):
        workshop.train(second)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_broken_checkpoint_is_named(
    workshop: Workshop, stopped: Path, content: bytes | None
) -> None:
    whole = stopped.read_bytes()
    stopped.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=r"state\.pt is broken: delete it, training starts again"):
        workshop.train(configured(epochs=2, steps=1))
    stopped.unlink()
    assert len(workshop.train(configured(epochs=2, steps=1)).curves) == 2


def test_a_checkpoint_runs_no_code(workshop: Workshop, stopped: Path, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "fired",)

    torch.save({"run": Code()}, stopped)
    with pytest.raises(UserError, match=r"state\.pt is broken"):
        workshop.train(configured(epochs=2, steps=1))
    assert not (tmp_path / "fired").exists()
