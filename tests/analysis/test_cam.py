"""Explanations: what is shown is what the network computed; Grad-CAM by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_grad_cam import EigenCAM
from torch import nn
from torch.nn import functional as fn

from dagf.analysis.cam import CamTarget, SettledEigenCAM, cams, contributions, look
from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import load_image, to_input
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.study.runs import Run

SPEC = ImageSpec(32)


@pytest.fixture(scope="module")
def net(finished: Run) -> RetrievalNet:
    return finished.network()


def test_look_is_what_the_network_computed(net: RetrievalNet, photographs: Path) -> None:
    shot = photographs / "jpg" / "4-0.jpg"
    seen = look(net, shot, SPEC)
    with torch.inference_mode():
        inside = net.inspect(to_input(load_image(shot, SPEC))[None])
    assert np.array_equal(seen.pixels, load_image(shot, SPEC).permute(1, 2, 0).numpy())
    assert np.allclose(seen.descriptor, inside.descriptor[0], atol=1e-6)
    planes = ((seen.attention, inside.attention), (seen.effective, inside.effective_weight))
    for shown, plane in planes:
        whole = fn.interpolate(plane, size=(32, 32), mode="bilinear", align_corners=False)[0, 0]
        assert np.allclose(shown, whole, atol=1e-6)
    for kept, cells, share in zip(seen.kept, inside.kept, seen.kept_fraction, strict=True):
        assert np.array_equal(kept, cells[0, 0])
        assert share == pytest.approx(kept.mean())


def test_look_at_a_crop_and_without_attention(photographs: Path) -> None:
    plain = RetrievalNet(BackboneSpec(), variant("gem")).eval()
    seen = look(plain, photographs / "jpg" / "4-0.jpg", SPEC, (4, 0, 28, 20))
    assert seen.pixels.shape == (20, 24, 3)
    assert seen.attention is None
    assert seen.kept == [None]
    assert seen.kept_fraction == [1.0]


ADDING_UP = ["gem", "crow", "rmac", "windows", "mask", "scale-mask", "scale-mask-spoc", "dagf"]


@pytest.mark.parametrize("arm", ADDING_UP)
def test_the_cells_of_a_picture_add_up_to_its_cosine(arm: str, photographs: Path) -> None:
    torch.manual_seed(3)
    net = RetrievalNet(BackboneSpec(), variant(arm)).eval()
    one, other = (look(net, photographs / "jpg" / name, SPEC) for name in ("4-0.jpg", "5-1.jpg"))
    cells = contributions(net, one, other.descriptor)
    assert cells.shape == one.attended.shape[2:]
    assert cells.sum() == pytest.approx(float(one.descriptor @ other.descriptor), abs=1e-3)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("arm", ["spoc", "mac"])
def test_the_cells_of_a_picture_by_hand(arm: str, photographs: Path) -> None:
    """The mean gives each cell its part of a channel, the maximum all of it to the largest."""
    net = RetrievalNet(BackboneSpec(), variant(arm)).eval()
    one, other = (look(net, photographs / "jpg" / name, SPEC) for name in ("4-0.jpg", "5-1.jpg"))
    features = one.attended[0].numpy()
    expected = np.zeros(features.shape[1:])
    for plane, mine, theirs in zip(features, one.descriptor, other.descriptor, strict=True):
        share = plane if arm == "spoc" else (plane == plane.max()).astype(float)
        expected += share / max(share.sum(), 1e-12) * mine * theirs
    cells = contributions(net, one, other.descriptor)
    assert cells.shape == expected.shape
    assert np.allclose(cells, expected, atol=1e-5)


def test_netvlad_tells_nothing_of_cells(photographs: Path) -> None:
    net = RetrievalNet(BackboneSpec(), variant("netvlad")).eval()
    one, other = (look(net, photographs / "jpg" / name, SPEC) for name in ("4-0.jpg", "4-1.jpg"))
    assert contributions(net, one, other.descriptor) is None


def test_cams_of_a_batch_by_hand(
    net: RetrievalNet, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the whole network gives them, though they start from its map."""
    files = [photographs / "jpg" / name for name in ("4-0.jpg", "5-1.jpg")]
    one, other = (look(net, file, SPEC) for file in files)
    targets = [CamTarget(one.descriptor, other.descriptor)]
    targets.append(CamTarget(other.descriptor, one.descriptor))
    assert targets[0](torch.from_numpy(one.descriptor)).item() == pytest.approx(
        1 - float(one.descriptor @ other.descriptor), abs=1e-5
    )
    features = torch.cat([one.features, other.features])
    with torch.no_grad():
        found = cams(net, features, targets)
    assert capsys.readouterr() == ("", "")
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    batch = to_input(torch.stack([load_image(file, SPEC) for file in files]))
    features = net.backbone(batch).detach().requires_grad_()
    scores = [target(row) for target, row in zip(targets, net.head(features), strict=True)]
    (gradient,) = torch.autograd.grad(torch.stack(scores).sum(), features)
    grad = torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1))
    layer = (gradient.clamp(min=0) * features).sum(1)
    for name, planes in (("Grad-CAM", grad), ("LayerCAM", layer)):
        lifted = (planes - planes.amin((1, 2), keepdim=True)).detach()
        expected = lifted / lifted.amax((1, 2), keepdim=True)
        assert np.allclose(found[name], expected, atol=1e-3), name


def test_eigen_cam_is_bright_where_activations_are_strong() -> None:
    """The package alone shows the dark half of some images; which, depends on its SVD."""
    bright = torch.zeros(1, 6, 6)
    bright[0, 2:4, 1:3] = 1
    features = torch.cat([bright * strength for strength in (2.0, 1.0, 0.5)])[None] + 0.1
    batch = torch.cat([features, features.flip(1), 3 - features[:, [1, 0, 2]], features**2])
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(108, 2))
    shown = {}
    for method in (EigenCAM, SettledEigenCAM):
        with method(model=network, target_layers=[network[0]]) as cam:
            shown[method] = cam(input_tensor=batch, targets=[])
    norm = batch.norm(dim=1).numpy()
    for plain, settled, strength in zip(shown[EigenCAM], shown[SettledEigenCAM], norm, strict=True):
        assert settled[strength == strength.max()].min() > 0.99
        assert settled[strength == strength.min()].max() == 0
        assert np.allclose(plain, settled, atol=1e-5) or np.allclose(plain, 1 - settled, atol=1e-5)
