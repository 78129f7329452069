"""What a network makes of batches: descriptors, at one scale or several."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.common import progress
from dagf.retrieval.batches import Batch
from dagf.retrieval.search import Descriptors


class MultiScale(nn.Module):
    """A network at several image scales: the mean of the unit descriptors, normalised again.

    scales: factors of the image's sides, e.g. (1, 2**-0.5, 0.5) of cnnimageretrieval. All scales are made
    from one decoded image.
    """

    def __init__(self, network: nn.Module, scales: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.network = network
        self.scales = scales

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit descriptors (B, D)."""
        return fn.normalize(torch.stack([self.network(_scaled(images, scale)) for scale in self.scales]).mean(0))


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return fn.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def describe(encode: nn.Module, batches: Iterable[Batch], count: int, what: str = "extracting") -> Descriptors:
    """Descriptors (count, D), float32, of the batches of `image_batches` or `FeatureMaps`.

    encode: images or maps (B, ., H, W) -> unit descriptors (B, D), run on the device of its parameters, in
    evaluation mode and without gradients.
    """
    encode.eval()
    device = next((parameter.device for parameter in encode.parameters()), torch.device("cpu"))
    out: NDArray[np.float32] | None = None
    with torch.inference_mode():
        for rows, images in progress(batches, what, unit="batch"):
            found = encode(images.to(device, memory_format=torch.channels_last)).float().cpu().numpy()
            out = np.empty((count, found.shape[1]), np.float32) if out is None else out
            out[rows] = found
    return np.empty((0, 0), np.float32) if out is None else out
