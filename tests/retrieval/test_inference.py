"""Descriptors against one image at a time, several scales, and networks whose batch norms are folded in."""

import copy
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.datasets.batches import image_batches
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.inference import MultiScale, extract, fold_batch_norms, for_inference

from .networks import SPEC, alone

N = TypeVar("N", bound=nn.Module)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_descriptors_do_not_depend_on_their_batch(
    files: list[Path], net: RetrievalNet, batch: int
) -> None:
    net.train()  # describe itself goes to evaluation mode: batch norms would mix the images of a batch
    found = extract(net, image_batches(files, SPEC, batch=batch), len(files))
    assert found.dtype == np.float32
    assert found.shape == (len(files), 128)
    expected = np.stack([alone(net, path).numpy() for path in files])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-4) > 3  # they are not all alike


def test_describing_learns_nothing(files: list[Path]) -> None:
    net = RetrievalNet(BackboneSpec("small"), variant("gem")).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    extract(net, image_batches(files, SPEC), len(files))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


class Pixels(nn.Module):
    """A descriptor that shows the scale it was given: the unit vector of the mean colour and the height."""

    def forward(self, images: Tensor) -> Tensor:
        height = images.new_full((len(images), 1), images.shape[2] / 10)
        return fn.normalize(torch.cat([images.mean((2, 3)), height], 1))


def test_several_scales_are_averaged(net: RetrievalNet) -> None:
    images = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    scales = (1.0, 2**-0.5, 0.5)
    with torch.inference_mode():
        for encode in (net, Pixels()):
            total = torch.zeros(())
            for size in [(48, 40), (34, 28), (24, 20)]:
                scaled = fn.interpolate(images, size, mode="bilinear", antialias=True)
                total = total + encode(scaled)
            found = MultiScale(encode, scales)(images)
            torch.testing.assert_close(
                found, total / total.norm(dim=1, keepdim=True), rtol=0, atol=1e-6
            )
            assert torch.equal(MultiScale(encode)(images), fn.normalize(encode(images)))
            assert (
                MultiScale(encode, (0.5,))(images[:, :, :1, :1]).shape == found.shape
            )  # never less than a pixel


# --- networks for inference ---------------------------------------------------------------------------------------


def lively(net: N) -> nn.Module:
    """The network with batch norms as training leaves them: they know what they have seen, and change it."""
    torch.manual_seed(1)
    net.train()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 64, 64))
    return net


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize("backbone", ["small", "resnet18", "mobilenet_v2"])
def test_folded_batch_norms_give_the_same_descriptors(backbone: str) -> None:
    net = lively(RetrievalNet(BackboneSpec(backbone), variant("dagf")))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = for_inference(net)
    assert norms(net) > 0 == norms(fast)
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = net.eval()(images)
        torch.testing.assert_close(fast(images), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(for_inference(fast)(images), expected, rtol=0, atol=1e-5)
        several = MultiScale(net, (1.0, 0.5))
        torch.testing.assert_close(
            for_inference(several)(images), several(images), rtol=0, atol=1e-5
        )
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


class Odd(nn.Module):
    """Norms that stay: before a convolution, after one that is read or used twice, or used twice themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.used, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.zeroth, self.first, self.second, self.shared = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        read = self.read(self.zeroth(images))
        once = self.first(read) + read
        twice = self.second(self.used(self.used(once)))
        return self.shared(self.last(self.shared(twice)))


def test_what_may_not_be_folded_stays() -> None:
    odd = lively(Odd()).eval()
    folded = fold_batch_norms(copy.deepcopy(odd))
    assert norms(folded) == 4
    images = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(folded(images), odd(images))


def test_in_half_precision_the_head_is_whole() -> None:
    net = lively(RetrievalNet(BackboneSpec("small"), variant("dagf"))).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fast = for_inference(net, half=True)
    with torch.inference_mode():
        assert fast.backbone(images).dtype == torch.bfloat16
        found, expected = fast(images), net(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert 0 < (found - expected).norm(dim=1).max() < 0.03


def test_other_encoders_are_copied_as_they_are() -> None:
    torch.testing.assert_close(
        for_inference(Pixels())(torch.ones(1, 3, 2, 2)), Pixels()(torch.ones(1, 3, 2, 2))
    )
