"""The run store: found by configuration or by the first digits of the name; what is broken is named."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dagf.errors import UserError
from dagf.files import read_json, write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.study import training
from dagf.study.config import to_json
from dagf.study.runs import Run, RunStore, read_weights
from tests.fixtures import Workshop, configured


def pretended(store: RunStore, *names: str) -> None:
    for name in names:
        write_json(store.root / name / "record.json", {})


def test_find_gives_finished_runs_only(finished: Run) -> None:
    store = RunStore(finished.folder.parent)
    assert store.find(configured()) == finished
    assert store.find(configured(seed=5)) is None
    assert store.all() == [finished]
    assert store.folder(configured()) == finished.folder
    assert finished.id == configured().id


def test_find_does_what_a_kill_after_the_record_left_undone(finished: Run, tmp_path: Path) -> None:
    """The checkpoint goes, and the record gets the hash of its weights again; a whole run stays as it is."""
    folder = tmp_path / finished.id
    shutil.copytree(finished.folder, folder)
    store, record = RunStore(tmp_path), read_json(folder / "record.json")
    (folder / "state.safetensors").write_bytes(b"left behind")
    write_json(
        folder / "record.json",
        {key: value for key, value in record.items() if key != "weights_sha256"},
    )
    assert store.find(configured()) == Run(folder)
    assert not (folder / "state.safetensors").exists()
    assert Run(folder).record == record


def test_get_takes_the_first_digits(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    pretended(store, "aa11", "aa22", "bb33")
    (tmp_path / "cc44").mkdir()  # not finished
    assert store.get("bb33").id == store.get("b").id == "bb33"
    assert store.get("aa1").id == "aa11"
    with pytest.raises(UserError, match=r"found aa11, aa22$"):
        store.get("aa")


@pytest.mark.parametrize("wrong", ["cc44", "zz", "", "*", "[", "../", "/", "aa11/x"])
def test_any_other_name_is_one_line(tmp_path: Path, wrong: str) -> None:
    store = RunStore(tmp_path / "runs")
    pretended(store, "aa11")
    (store.root / "cc44").mkdir()
    with pytest.raises(
        UserError, match=re.escape(f"run '{wrong}': expected one finished run in")
    ) as caught:
        store.get(wrong)
    assert str(caught.value).endswith("found none")


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


def test_a_pretrained_backbone_keeps_its_batch_norms_though_its_file_is_gone(
    finished: Run, tmp_path: Path
) -> None:
    config = finished.config
    other = replace(config, backbone=replace(config.backbone, weights="sha256:0123"))
    there = tmp_path / other.id
    shutil.copytree(finished.folder, there)
    write_json(there / "config.json", to_json(other))
    write_json(there / "record.json", finished.record | {"run": other.id})
    net = Run(there).network()
    assert Run(there).config.backbone != config.backbone
    assert net.keep_batch_norm
    assert not net.train().backbone.training


@pytest.mark.parametrize("files", [["config.json"], ["record.json", "weights.safetensors"], "all"])
def test_files_of_another_run_are_named(
    finished: Run, workshop: Workshop, files: Sequence[str]
) -> None:
    shutil.copytree(finished.folder, workshop.store.folder(configured()))
    run, other = (
        Run(workshop.store.folder(configured())),
        workshop.train(configured(epochs=1, steps=1, seed=1)),
    )
    for file in (
        other.folder.iterdir() if files == "all" else [other.folder / name for name in files]
    ):
        shutil.copy(file, run.folder)
    with pytest.raises(
        UserError, match=rf"{run.id}/\w+\.json is of another run, '{other.id}': delete"
    ) as caught:
        run.network()
    assert "\n" not in str(caught.value)


def test_a_configuration_of_an_earlier_version_may_have_another_id(
    finished: Run, tmp_path: Path
) -> None:
    there = tmp_path / "0123456789ab"
    shutil.copytree(finished.folder, there)
    values = read_json(there / "config.json")
    del values["frozen"]  # a field that it did not have
    write_json(there / "config.json", values)
    write_json(
        there / "record.json", {key: one for key, one in finished.record.items() if key != "run"}
    )
    assert Run(there).network()


def test_a_checkpoint_of_another_run_is_named(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    first, second = (configured(epochs=2, steps=1, seed=seed) for seed in (0, 1))
    with monkeypatch.context() as patched:
        patched.setattr(training._Loop, "_finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            workshop.train(first)
    state = workshop.store.folder(second) / "state.safetensors"
    state.parent.mkdir()
    shutil.copy(workshop.store.folder(first) / state.name, state)
    with pytest.raises(
        UserError, match=re.escape(f"{state} is of another run, '{first.id}': delete it")
    ):
        workshop.train(second)
    assert workshop.train(first).id == first.id  # its own is gone on from


@pytest.mark.parametrize(
    "content", [None, b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      cut", "half", "other"]
)
def test_broken_weights_are_one_line(
    finished: Run, tmp_path: Path, content: bytes | str | None
) -> None:
    there = tmp_path / finished.id
    shutil.copytree(finished.folder, there)
    weights = there / "weights.safetensors"
    whole = weights.read_bytes()
    if content is None:
        weights.unlink()
    elif content == "other":  # whole, but of another network
        save_file({"x": torch.zeros(1)}, weights)
    else:
        weights.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(UserError, match=re.escape(str(weights))) as caught:
        Run(there).network()
    assert "\n" not in str(caught.value)
    if content != "other":
        with pytest.raises(UserError):
            read_weights(weights)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"variant": {}}', '{"more": 1}'])
def test_a_broken_configuration_is_one_line(finished: Run, tmp_path: Path, text: str) -> None:
    there = tmp_path / finished.id
    shutil.copytree(finished.folder, there)
    (there / "config.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(str(there / "config.json"))):
        Run(there).network()
