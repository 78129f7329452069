"""Explanations: what is shown is what the network computed; Grad-CAM by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import EigenCAM
from torch import nn
from torch.nn import functional as fn

from dagf.analysis.cam import CamTarget, SettledEigenCAM, cams, contributions, grad_cam, look
from dagf.datasets.images import ImageSpec, load_image, to_input
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.whitening import pca_whitening
from dagf.study.runs import Run

SPEC = ImageSpec(32)


@pytest.fixture(scope="module")
def net(finished: Run) -> RetrievalNet:
    return finished.network()


@pytest.fixture
def shot(photographs: Path) -> Path:
    return photographs / "jpg" / "4-0.jpg"


def test_look_is_what_the_network_computed(net: RetrievalNet, shot: Path) -> None:
    seen = look(net, shot, SPEC)
    with torch.inference_mode():
        inside = net.inspect(to_input(load_image(shot, SPEC))[None])
    assert np.array_equal(seen.pixels, load_image(shot, SPEC).permute(1, 2, 0).numpy())
    assert np.allclose(seen.descriptor, inside.descriptor[0], atol=1e-6)
    assert np.linalg.norm(seen.descriptor) == pytest.approx(1, abs=1e-5)
    for shown, plane in (
        (seen.attention, inside.attention),
        (seen.effective, inside.effective_weight),
    ):
        assert shown is not None
        assert plane is not None
        assert shown.shape == (32, 32)
        whole = fn.interpolate(plane, size=(32, 32), mode="bilinear", align_corners=False)[0, 0]
        assert np.allclose(shown, whole, atol=1e-6)
    for shown_cells, cells, share in zip(seen.kept, inside.kept, seen.kept_fraction, strict=True):
        assert shown_cells is not None
        assert cells is not None
        assert np.array_equal(shown_cells, cells[0, 0])
        assert share == pytest.approx(shown_cells.mean())


def test_look_at_a_crop_and_without_attention(photographs: Path) -> None:
    plain = RetrievalNet(BackboneSpec(), variant("gem")).eval()
    seen = look(plain, photographs / "jpg" / "4-0.jpg", SPEC, (4, 0, 28, 20))
    assert seen.pixels.shape == (20, 24, 3)
    assert seen.attention is None
    assert seen.kept == [None]
    assert seen.kept_fraction == [1.0]


ADDING_UP = [
    "mac",
    "spoc",
    "gem",
    "crow",
    "windows",
    "mask",
    "scale-mask",
    "scale-mask-spoc",
    "dagf",
]


@pytest.mark.parametrize("arm", ADDING_UP)
def test_the_cells_of_a_picture_add_up_to_its_cosine(arm: str, photographs: Path) -> None:
    torch.manual_seed(3)
    net = RetrievalNet(BackboneSpec(), variant(arm)).eval()
    one, other = (look(net, photographs / "jpg" / name, SPEC) for name in ("4-0.jpg", "5-1.jpg"))
    cells = contributions(net, one, other.descriptor)
    assert cells is not None
    assert cells.shape == one.attended.shape[2:]
    assert cells.sum() == pytest.approx(float(one.descriptor @ other.descriptor), abs=1e-3)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_cells_also_explain_a_whitened_cosine(photographs: Path) -> None:
    net = RetrievalNet(BackboneSpec(), variant("dagf")).eval()
    files = sorted((photographs / "jpg").iterdir())[:12]
    looks = [look(net, file, SPEC) for file in files]
    rows = np.stack([one.descriptor for one in looks])
    whiten = pca_whitening(rows, power=0.25)
    toward = whiten.toward(rows[0], rows[5])
    cells = contributions(net, looks[0], toward)
    assert cells is not None
    one, other = whiten(rows[[0, 5]])
    assert cells.sum() - toward @ whiten.mean == pytest.approx(float(one @ other), abs=1e-3)


@pytest.mark.parametrize("arm", ["spoc", "mac"])
def test_the_cells_of_a_picture_by_hand(arm: str, photographs: Path) -> None:
    """The mean gives each cell its part of a channel, the maximum all of it to the largest."""
    net = RetrievalNet(BackboneSpec(), variant(arm)).eval()
    one, other = (look(net, photographs / "jpg" / name, SPEC) for name in ("4-0.jpg", "5-1.jpg"))
    features = one.attended[0].numpy()
    expected = np.zeros(features.shape[1:])
    for plane, mine, theirs in zip(features, one.descriptor, other.descriptor, strict=True):
        part = (
            plane / max(plane.sum(), 1e-12)
            if arm == "spoc"
            else (plane == plane.max()) / (plane == plane.max()).sum()
        )
        expected += np.nan_to_num(part) * mine * theirs
    cells = contributions(net, one, other.descriptor)
    assert cells is not None
    assert np.allclose(cells, expected, atol=1e-5)


@pytest.mark.parametrize("arm", ["rmac", "netvlad"])
def test_a_pooling_that_normalises_its_parts_tells_nothing_of_cells(
    arm: str, photographs: Path
) -> None:
    net = RetrievalNet(BackboneSpec(), variant(arm)).eval()
    one, other = (look(net, photographs / "jpg" / name, SPEC) for name in ("4-0.jpg", "4-1.jpg"))
    assert contributions(net, one, other.descriptor) is None


def test_contrast_is_the_difference_of_cosines() -> None:
    positive, negative, asked = (
        np.float32([1, 0, 0]),
        np.float32([0, 0.6, 0.8]),
        torch.tensor([0.6, 0.8, 0.0]),
    )
    assert CamTarget(positive, negative)(asked).item() == pytest.approx(0.6 - 0.48)


def test_grad_cam_by_hand(net: RetrievalNet, photographs: Path, shot: Path) -> None:
    others = [
        look(net, photographs / "jpg" / name, SPEC).descriptor for name in ("4-1.jpg", "5-1.jpg")
    ]
    target = CamTarget(*others)
    found = grad_cam(net, shot, SPEC, target)
    feature_map = net.backbone(to_input(load_image(shot, SPEC))[None]).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(target(net.head(feature_map)[0]), feature_map)
    weights = gradient.mean((2, 3), keepdim=True)
    plane = torch.relu((weights * feature_map).sum(1))[0].detach().numpy()
    small = (plane - plane.min()) / (plane - plane.min()).max()
    expected = cv2.resize(small, (32, 32))
    expected = (expected - expected.min()) / (expected - expected.min()).max()
    assert found.shape == (32, 32)
    assert found.max() > 0.99
    assert np.allclose(found, expected, atol=1e-3)
    assert np.array_equal(found, grad_cam(net, shot, SPEC, target))
    assert all(
        parameter.grad is None or torch.isfinite(parameter.grad).all()
        for parameter in net.parameters()
    )


def test_cams_of_a_batch_are_those_of_the_whole_network(
    net: RetrievalNet, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [photographs / "jpg" / name for name in ("4-0.jpg", "5-1.jpg")]
    seen = [look(net, file, SPEC).descriptor for file in files]
    targets = [CamTarget(seen[0], seen[1]), CamTarget(seen[1], seen[0])]
    with torch.no_grad():
        features = net.inspect(
            to_input(torch.stack([load_image(file, SPEC) for file in files]))
        ).features
        found = cams(net, features, targets)
    assert capsys.readouterr() == ("", "")
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    features = features.requires_grad_()
    scores = [
        target(descriptor) for target, descriptor in zip(targets, net.head(features), strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.stack(scores).sum(), features)
    layer = (gradient.clamp(min=0) * features).sum(1).detach()
    layer = layer - layer.amin((1, 2), keepdim=True)
    assert np.allclose(found["LayerCAM"], layer / layer.amax((1, 2), keepdim=True), atol=1e-3)
    for plane, file, target in zip(found["Grad-CAM"], files, targets, strict=True):
        whole = cv2.resize(plane, (32, 32))
        whole = (whole - whole.min()) / (whole - whole.min()).max()
        assert np.allclose(whole, grad_cam(net, file, SPEC, target), atol=1e-3)


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
