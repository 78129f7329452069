"""`import dagf`: what it gives, how fast, and that it is what the modules give."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import dagf
from dagf.datasets.decode import ImageSpec
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from tests.fixtures import mobilenet

HELP = "from dagf.cli import main; main(['train', '--help'], standalone_mode=False)"


def test_every_public_name_is_there_and_documented() -> None:
    assert set(dagf.__all__) <= set(dir(dagf))
    for name in set(dagf.__all__) - {"__version__", "VARIANTS"}:
        assert getattr(dagf, name).__doc__, name
    assert dagf.VARIANTS["dagf"] is dagf.variant("dagf")
    assert dagf.average_precision(np.array([0, 2])) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        dagf.lod  # noqa: B018
    assert import_module("dagf.paths") is dagf.paths  # modules are found beside the names


@pytest.mark.parametrize("code", ["import dagf", HELP])
def test_nothing_slow_is_imported_before_it_is_used(code: str) -> None:
    code += "; import sys; print({'torch', 'numpy', 'pandas', 'cv2'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("set()\n")


def test_a_model_stays_where_it_is(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy goes to the GPU: what one reads oneself is on the CPU."""
    model = dagf.api.Model(RetrievalNet(BackboneSpec("small"), variant("gem")), ImageSpec(24))
    monkeypatch.setattr(dagf.api, "on_device", lambda net: net.to("meta"))
    monkeypatch.setattr(dagf.api, "extract", lambda net, *_: next(net.parameters()).device.type)
    assert dagf.embed(model, [*photographs.rglob("*.jpg")][:1]) == "meta"
    assert next(model.network.parameters()).device.type == "cpu"


def test_a_backbone_with_weights_of_a_file(photographs: Path, tmp_path: Path) -> None:
    weights = mobilenet(tmp_path / "mobilenet.pth", 5)
    files = sorted(photographs.rglob("*.jpg"))[:6]
    model = dagf.load("mobilenet_v2", weights, head="dagf-spoc", size=24)
    database = dagf.embed(model, files)
    assert (database.shape, database.dtype) == ((6, 1280), np.float32)
    with torch.inference_mode():
        for file, row in zip(files, database, strict=True):
            assert max(model.read(file).shape) == 24
            seen = model.network.inspect(model.read(file))
            np.testing.assert_allclose(seen.descriptor[0], row, atol=1e-4)
            assert seen.attention is not None
    scores, rows = dagf.search(database, dagf.embed(model, map(str, files[2:4])), k=2)
    assert rows[:, 0].tolist() == [2, 3]
    np.testing.assert_allclose(scores[:, 0], 1, rtol=1e-5)
