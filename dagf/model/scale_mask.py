"""The scale and mask scheme: several window filters over the attended map, and MAX-Mask on each of them.

The abstract says that multiple scale filters "scale the major components", so that their varying size in
the image matters less, and that a MAX-Mask filters out redundant or meaningless local features. That the
filters are windows over the feature map, and the mask that of Hoang et al., is our reading.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.errors import choose

WINDOW_KINDS: dict[str, Callable[..., Tensor]] = {"max": fn.max_pool2d, "average": fn.avg_pool2d}


class ScaleFilters(nn.Module):
    """Window filters k x k over the map, stride 1, no padding, maximum or average: one map for each window.

    A window larger than the map is cut to the map's size, so that the smallest images still get through.
    `UserError` for an unknown kind.
    """

    def __init__(self, windows: tuple[int, ...] = (1, 2, 3), kind: str = "max") -> None:
        super().__init__()
        self.windows = windows
        self.filter = WINDOW_KINDS[choose("window kind", kind, WINDOW_KINDS)]

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> for each window k a map (B, C, H-k+1, W-k+1)."""
        height, width = features.shape[2:]
        return [
            features if k == 1 else self.filter(features, (min(k, height), min(k, width)), stride=1)
            for k in self.windows
        ]


class MaxMask(nn.Module):
    """Keep the cells at which at least one channel has its maximum (Hoang et al., ACM MM 2017).

    No threshold and no parameter; constant with respect to gradients. *All* tied cells are kept: with max
    windows nearly every maximum is a plateau, and the first in scan order would depend on orientation.
    Channels that are zero everywhere have no say; where all are, every cell is kept.
    """

    def forward(self, features: Tensor) -> Tensor:
        """A non-negative map (B, C, H, W) -> the kept cells, boolean (B, 1, H, W)."""
        features = features.detach()
        peak = features.amax((2, 3), keepdim=True)
        kept = ((features == peak) & (peak > 0)).any(1, keepdim=True)
        return kept | (peak == 0).all(1, keepdim=True)


class SumMask(nn.Module):
    """Keep the cells whose total activation S = sum_c F_c reaches the median of S (Hoang et al., ACM MM 2017).

    At least half of the cells stay; where more than half are dead the median is 0, and all do.
    """

    def forward(self, features: Tensor) -> Tensor:
        """A non-negative map (B, C, H, W) -> the kept cells, boolean (B, 1, H, W)."""
        total = features.detach().sum(1, keepdim=True)
        return total >= total.flatten(1).quantile(0.5, dim=1).view(-1, 1, 1, 1)


class RandomMask(nn.Module):
    """Keep as many cells as the MAX-Mask would, but any: what is left of its effect is due to their number.

    The null of the ablation. The cells come from torch's global generator, anew in every pass, so a descriptor
    is repeated only under the same seed and batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.max_mask = MaxMask()

    def forward(self, features: Tensor) -> Tensor:
        """A non-negative map (B, C, H, W) -> the kept cells, boolean (B, 1, H, W)."""
        model = self.max_mask(features)
        rank = (
            torch.rand(model.shape, device=model.device).flatten(1).argsort(1)
        )  # a random order of the cells
        return (rank < model.flatten(1).sum(1, keepdim=True)).view(model.shape)


class Everything(nn.Module):
    """The mask that keeps every cell: the scheme without its MAX-Mask."""

    def forward(self, features: Tensor) -> None:
        """A map -> None, which poolings take as "every cell"."""


MASKS: dict[str, type[nn.Module]] = {
    "none": Everything,
    "max": MaxMask,
    "sum": SumMask,
    "random": RandomMask,
}


class Scaled(NamedTuple):
    """What the scheme gives: a unit descriptor (B, D) and the kept cells of each window (None: all)."""

    descriptor: Tensor
    kept: list[Tensor | None]


class ScaleAndMask(nn.Module):
    """Each scale is masked, pooled and L2-normalised; the sum over scales, L2-normalised, is the descriptor.

    The norm of each scale comes before the sum: otherwise the number of kept cells would weight the scales.
    With the single window 1 and the mask 'none' it is plain pooling, the form that the baselines take.
    `UserError` for an unknown kind of window or mask.
    """

    def __init__(
        self,
        pooling: nn.Module,
        windows: tuple[int, ...] = (1, 2, 3),
        kind: str = "max",
        mask: str = "max",
    ) -> None:
        super().__init__()
        self.filters = ScaleFilters(windows, kind)
        self.mask = MASKS[choose("mask", mask, MASKS)]()
        self.pooling = pooling

    def forward(self, features: Tensor) -> Scaled:
        """A non-negative map (B, C, H, W) -> `Scaled`."""
        scales = self.filters(features)
        kept = [self.mask(scale) for scale in scales]
        pooled = [
            fn.normalize(self.pooling(scale, cells))
            for scale, cells in zip(scales, kept, strict=True)
        ]
        return Scaled(fn.normalize(torch.stack(pooled).sum(0)), kept)
