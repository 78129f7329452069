"""The scale and mask scheme: window filters of several sizes over the map, MAX-Mask on each.

The abstract says that multiple scale filters "scale the major components", so that their varying
size in the image matters less, and that a MAX-Mask filters out redundant or meaningless local
features. That the filters are windows over the feature map, and the mask that of Hoang et al., is
our reading.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.model.pooling import Pooling


def max_windows(features: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Return `max_pool2d` of maps, which on CPUs is many times as fast on maps channels last.

    In the layout of the maps that are given: what is summed later has the same last digits.
    """
    given = features.is_contiguous(memory_format=torch.channels_last)
    found = fn.max_pool2d(features.contiguous(memory_format=torch.channels_last), size, stride)
    return found if given else found.contiguous()


WINDOW_KINDS: dict[str, Callable[..., Tensor]] = {"max": max_windows, "average": fn.avg_pool2d}


class ScaleFilters(nn.Module):
    """Window filters k x k over the map, stride 1, no padding, maximum or average: a map for each.

    A window larger than the map is cut to the map's size, so that the smallest images get through.
    """

    def __init__(self, windows: tuple[int, ...], kind: str) -> None:
        super().__init__()
        self.windows = windows
        self.filter = WINDOW_KINDS[kind]

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> for each window k a map (B, C, H-k+1, W-k+1)."""
        height, width = features.shape[2:]
        return [
            features if k == 1 else self.filter(features, (min(k, height), min(k, width)), stride=1)
            for k in self.windows
        ]


class Mask(nn.Module):
    """A non-negative map (B, C, H, W) -> the kept cells, boolean (B, 1, H, W), None for every cell.

    repeatable: whether the same map always keeps the same cells.
    """

    repeatable = True


class MaxMask(Mask):
    """Keep the cells at which at least one channel has its maximum (Hoang et al., ACM MM 2017).

    No threshold and no parameter; constant with respect to gradients. *All* tied cells are kept:
    with max windows nearly every maximum is a plateau, and the first in scan order would depend on
    orientation. Channels that are zero everywhere do not count; where all are, every cell is kept.
    """

    def forward(self, features: Tensor) -> Tensor:
        features = features.detach()
        peak = features.amax((2, 3), keepdim=True)
        kept = (features == peak.masked_fill(peak <= 0, torch.inf)).any(1, keepdim=True)
        return kept | (peak == 0).all(1, keepdim=True)


class SumMask(Mask):
    """Keep the cells whose total activation S = sum_c F_c reaches its median (Hoang et al., 2017).

    At least half of the cells stay; where more than half are dead the median is 0, and all do.
    """

    def forward(self, features: Tensor) -> Tensor:
        total = features.detach().sum(1, keepdim=True)
        return total >= total.flatten(1).quantile(0.5, dim=1).view(-1, 1, 1, 1)


class RandomMask(Mask):
    """Keep as many cells as the MAX-Mask would, drawn at random: the null of the ablation.

    What is left of the MAX-Mask's effect is due to the number of cells. They come from torch's
    global generator, anew in every pass, so a descriptor repeats only under the same seed and
    batch.
    """

    repeatable = False

    def forward(self, features: Tensor) -> Tensor:
        model = MaxMask()(features)
        place = torch.rand(model.shape, device=model.device).flatten(1).argsort(1)  # of each cell
        return (place < model.flatten(1).sum(1, keepdim=True)).view(model.shape)


class NoMask(Mask):
    """Keep every cell: the scheme without its MAX-Mask."""

    def forward(self, features: Tensor) -> None:
        return None


MASKS: dict[str, type[Mask]] = {
    "none": NoMask, "max": MaxMask, "sum": SumMask, "random": RandomMask,
}  # fmt: skip


class ScaleAndMask(nn.Module):
    """Mask, pool and L2-normalise each scale; their sum, L2-normalised, is the descriptor.

    The norm of each scale comes before the sum: otherwise the number of kept cells would weight the
    scales. With the single window 1 and the mask 'none' it is plain pooling, as in the baselines.
    """

    def __init__(self, pooling: Pooling, windows: tuple[int, ...], kind: str, mask: str) -> None:
        super().__init__()
        self.filters = ScaleFilters(windows, kind)
        self.mask = MASKS[mask]()
        self.pooling = pooling

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """A non-negative map -> unit descriptors (B, D), and for each window the kept cells."""
        scales = self.filters(features)
        kept = [self.mask(scale) for scale in scales]
        pooled = [
            fn.normalize(self.pooling(scale, cells))
            for scale, cells in zip(scales, kept, strict=True)
        ]
        return fn.normalize(torch.stack(pooled).sum(0)), kept
