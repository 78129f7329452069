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

from dagf.common import choose

WINDOW_KINDS: dict[str, Callable[..., Tensor]] = {"max": fn.max_pool2d, "average": fn.avg_pool2d}


class ScaleFilters(nn.Module):
    """Window filters k x k over the map, stride 1, no padding, maximum or average: one map for each window.

    A window larger than the map is cut to the map's size, so that the smallest images still get through.
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


class Everything(nn.Module):
    """The mask that keeps every cell: the scheme without its MAX-Mask."""

    def forward(self, features: Tensor) -> None:
        """A map -> None, which poolings take as "every cell"."""


MASKS: dict[str, type[nn.Module]] = {"none": Everything, "max": MaxMask}


class Scaled(NamedTuple):
    """What the scheme gives: a unit descriptor (B, C) and the kept cells of each window (None: all)."""

    descriptor: Tensor
    kept: list[Tensor | None]


class ScaleAndMask(nn.Module):
    """Each scale is masked, pooled and L2-normalised; the sum over scales, L2-normalised, is the descriptor.

    The norm of each scale comes before the sum: otherwise the number of kept cells would weight the scales.
    With the single window 1 and the mask 'none' it is plain pooling, the form that the baselines take.
    """

    def __init__(
        self, pooling: nn.Module, windows: tuple[int, ...] = (1, 2, 3), kind: str = "max", mask: str = "max"
    ) -> None:
        super().__init__()
        self.filters = ScaleFilters(windows, kind)
        self.mask = MASKS[choose("mask", mask, MASKS)]()
        self.pooling = pooling

    def forward(self, features: Tensor) -> Scaled:
        """A non-negative map (B, C, H, W) -> `Scaled`."""
        scales = self.filters(features)
        kept = [self.mask(scale) for scale in scales]
        pooled = [fn.normalize(self.pooling(scale, cells)) for scale, cells in zip(scales, kept, strict=True)]
        return Scaled(fn.normalize(torch.stack(pooled).sum(0)), kept)
