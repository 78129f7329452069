"""A run as ONNX: equal to its network for any batch and size, or refused in one line."""

import copy
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

import dagf
from dagf.collections import export
from dagf.collections.export import smallest_side
from dagf.datasets.images import to_input
from dagf.files import file_sha256, write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet, Variant
from dagf.model.variants import variant
from dagf.study.runs import Run, RunStore
from tests.commands import fine, refused
from tests.fixtures import configured
from tests.model.modules import stirred


def run_of(root: Path, made_of: Variant) -> Run:
    """A run of the small backbone that was never trained; no module of it is the identity."""
    config = replace(configured(), variant=made_of)
    store = RunStore(root / "data" / "runs")
    folder = store.folder(config)
    with store.claim(config):
        torch.manual_seed(0)
        net = stirred(RetrievalNet(BackboneSpec(), made_of))
        save_file(net.state_dict(), folder / "weights.safetensors")
        sum_ = file_sha256(folder / "weights.safetensors")
        write_json(folder / "record.json", {"run": config.id, "weights_sha256": sum_})
    return Run(folder)


@pytest.fixture(scope="module")
def written(home: Path) -> tuple[Run, Path, str]:
    """A run of DAGF, its ONNX file, and what the command said."""
    run, path = run_of(home, variant("dagf")), home / "out" / "dagf.onnx"
    return run, path, fine("export", "--run", run.id[:6], path)


def test_a_file_equals_its_network_and_says_what_it_is(written: tuple[Run, Path, str]) -> None:
    """As one finds it who has the file alone: normalise by its metadata, ask onnxruntime."""
    (run, path, said), sides = written, "images (batch, 3, height, width) from 32 pixels a side on"
    assert said.startswith(f"{path}: {sides} -> descriptors (batch, 128)")
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # one file, weights and all
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert (about["run"], about["variant"], about["dagf"]) == (run.id, "DAGF", dagf.__version__)
    assert json.loads(about["image"]) == asdict(run.config.image)
    values = [np.array(json.loads(about[key]), np.float32) for key in ("mean", "std")]
    mean, std = (value.reshape(3, 1, 1) for value in values)
    net = run.network()
    for shape in ((1, 3, 40, 33), (4, 3, 32, 100), (2, 3, 96, 64)):
        pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
        given = (pixels.astype(np.float32) / 255 - mean) / std
        (found,) = session.run(["descriptors"], {"images": given})
        with torch.inference_mode():
            expected = net(to_input(torch.from_numpy(pixels))).numpy()
        np.testing.assert_allclose(found, expected, atol=export.WITH_MASK)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    text = path.read_bytes()
    assert b"site-packages" not in text
    assert str(Path(dagf.__file__).parents[1]).encode() not in text


def test_what_no_graph_can_hold_is_named(home: Path, tmp_path: Path) -> None:
    for made_of, why in [
        (variant("rmac"), "the regions of its pooling"),
        (Variant("random", mask="random"), "its mask keeps other cells"),
    ]:
        run = run_of(home, made_of)
        line = refused("export", "--run", run.id, tmp_path / "model.onnx")
        assert f"run {run.id} ({made_of.title}) cannot be exported: {why}" in line
        assert not any(tmp_path.iterdir())


def test_a_difference_leaves_what_was_there(
    written: tuple[Run, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a graph with another exponent, and of one that gives no number."""
    (run, _, _), graph = written, export._program
    (before := tmp_path / "model.onnx").write_text("the earlier one")

    def wrong(net: RetrievalNet, *how: Any, step: float) -> torch.onnx.ONNXProgram:
        other = copy.deepcopy(net)
        other.head.scale_and_mask.pooling.p.data += step
        return graph(other, *how)

    for step in (0.2, float("nan")):
        monkeypatch.setattr(export, "_program", partial(wrong, step=step))
        line = refused("export", "--run", run.id, before)
        assert "as ONNX its descriptors differ by" in line
        assert f"{before} was not written" in line
        assert [file.read_text() for file in tmp_path.iterdir()] == ["the earlier one"]


def test_images_are_large_enough_for_the_largest_window() -> None:
    net = RetrievalNet(BackboneSpec(), variant("gem")).eval()  # stride 8
    assert smallest_side(net, 1) == smallest_side(net, 4) == 32
    assert smallest_side(net, 9) == 65
    spec = BackboneSpec("resnet18", "layer3", stage=("layer4",))
    deep = RetrievalNet(spec, variant("gem")).eval()
    assert smallest_side(deep, 3) == 65  # stride 32, of what the head reads
