"""Descriptors against one image at a time, and several scales."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.model.network import RetrievalNet
from dagf.model.trunks import TrunkSpec
from dagf.retrieval.batches import image_batches
from dagf.retrieval.inference import MultiScale, describe

from .networks import SPEC, alone


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_descriptors_do_not_depend_on_their_batch(files: list[Path], net: RetrievalNet, batch: int) -> None:
    net.train()  # describe itself goes to evaluation mode: batch norms would mix the images of a batch
    found = describe(net, image_batches(files, SPEC, batch=batch), len(files))
    assert found.dtype == np.float32
    assert found.shape == (len(files), 128)
    expected = np.stack([alone(net, path).numpy() for path in files])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-4) > 3  # they are not all alike


def test_describing_learns_nothing(files: list[Path]) -> None:
    net = RetrievalNet(TrunkSpec("small"), "gem").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    describe(net, image_batches(files, SPEC), len(files))
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
            torch.testing.assert_close(found, total / total.norm(dim=1, keepdim=True), rtol=0, atol=1e-6)
            assert torch.equal(MultiScale(encode)(images), fn.normalize(encode(images)))
            assert MultiScale(encode, (0.5,))(images[:, :, :1, :1]).shape == found.shape  # never less than a pixel
