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

from dagf.errors import UserError
from dagf.files import write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.study.runs import Run, RunStore, Untrained
from tests.fixtures import Workshop, configured


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to damage."""
    shutil.copytree(finished.folder, tmp_path / finished.id)
    return Run(tmp_path / finished.id)


def test_find_gives_finished_runs_only(finished: Run) -> None:
    store = RunStore(finished.folder.parent)
    assert store.find(configured()) == finished
    assert store.find(configured(seed=5)) is None
    assert RunStore(store.root / "nowhere").all() == []
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
    for name in ("aa11", "aa22", "bb33"):
        write_json(tmp_path / name / "record.json", {})
    (tmp_path / "cc44").mkdir()  # not finished
    assert store.get("bb33").id == store.get("b").id == "bb33"
    assert store.get("aa1").id == "aa11"
    with pytest.raises(UserError, match=r"found aa11, aa22$"):
        store.get("aa")
    for wrong in ("cc44", "zz", "", "*", "../"):
        said = f"run '{wrong}': expected one finished run in {store.root}, found none"
        with pytest.raises(UserError, match=f"{re.escape(said)}$"):
            store.get(wrong)


def test_the_network_comes_back(finished: Run) -> None:
    net = finished.network()
    assert not net.training
    other = RetrievalNet(BackboneSpec(), configured().variant).eval()
    other.load_state_dict(load_file(finished.folder / "weights.safetensors"))
    images = torch.randn(2, 3, 32, 40)
    with torch.inference_mode():
        assert torch.equal(net(images), other(images))
        assert torch.equal(net(images), finished.network()(images))


def test_another_arm_starts_from_its_backbone_alone(finished: Run) -> None:
    store, other = RunStore(finished.folder.parent), configured("netvlad")
    about = other.variant, other.backbone, 3
    net = Untrained(*about, finished.weights_id, store).network()
    kept, fresh = finished.network(), Untrained(*about, "", store).network()
    for one, source in ((net.backbone, kept.backbone), (net.head, fresh.head)):
        values = source.state_dict()
        assert all(values[key].equal(value) for key, value in one.state_dict().items())


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


def test_a_configuration_of_another_run_is_named(copy: Run, workshop: Workshop) -> None:
    other = workshop.train(configured(epochs=1, steps=1, seed=1))
    shutil.copy(other.folder / "config.json", copy.folder)
    said = rf"config\.json is of another run, {other.id}: delete its folder and train again"
    with pytest.raises(UserError, match=said):
        copy.network()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"variant": {}}', '{"more": 1}'])
def test_a_broken_configuration_is_one_line(copy: Run, text: str) -> None:
    (copy.folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(str(copy.folder / "config.json"))):
        copy.network()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: save_file({"x": torch.ones(1)}, file)])
def test_weights_that_are_not_those_of_the_record_are_named(
    copy: Run, spoil: Callable[[Path], object]
) -> None:
    spoil(copy.folder / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors is not what was trained: put it"):
        copy.network()


CONFIG = configured(epochs=2, steps=1)


@pytest.fixture
def stopped(workshop: Workshop) -> Path:
    """The checkpoint of a training that was stopped before its end."""
    workshop.interrupt(CONFIG, after=1)
    return workshop.store.folder(CONFIG) / "state.pt"


def test_a_checkpoint_of_another_run_is_named(workshop: Workshop, stopped: Path) -> None:
    second = replace(CONFIG, seed=1)
    state = workshop.store.folder(second) / "state.pt"
    state.parent.mkdir()
    shutil.copy(stopped, state)
    own = stopped.parent.name
    with pytest.raises(UserError, match=re.escape(f"{state} is of another run, {own}: delete it")):
        workshop.train(second)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("fired"),)


def test_a_broken_checkpoint_is_named_and_runs_no_code(
    workshop: Workshop, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, code = stopped.read_bytes(), io.BytesIO()
    torch.save({"run": Code()}, code)
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2], code.getvalue()):
        stopped.write_bytes(content)
        with pytest.raises(UserError, match=r"state\.pt is broken: delete it, training starts"):
            workshop.train(CONFIG)
    assert not Path("fired").exists()
    stopped.unlink()
    assert len(workshop.train(CONFIG).curves) == 2
