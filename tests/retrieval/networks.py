"""How a network is asked in the tests of this folder: one image at a time, or counted."""

from pathlib import Path

import torch
from torch import Tensor, nn

from dagf.datasets.benchmark import Box
from dagf.datasets.images import ImageSpec, load_image, to_input

SPEC = ImageSpec(32)


def alone(net: nn.Module, path: Path, box: Box | None = None, spec: ImageSpec = SPEC) -> Tensor:
    """The slow way: the file by itself."""
    with torch.inference_mode():
        return net(to_input(load_image(path, spec, box))[None])[0]


class Counted(nn.Module):
    """A module that counts the images it was given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.inner(images)
