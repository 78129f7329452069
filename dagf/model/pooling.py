"""Pooling: a map (B, C, H, W) and, optionally, the cells to keep (B, 1, H, W) -> a vector (B, C), not normalised."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class MAC(nn.Module):
    """Maximum activation of each channel (Tolias et al., ICLR 2016). A MAX-Mask leaves it as it is."""

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); `kept` is a boolean (B, 1, H, W), None for every cell."""
        if kept is not None:
            features = features.masked_fill(~kept, 0.0)  # the maps are non-negative
        return features.amax((2, 3))


class SPoC(nn.Module):
    """Mean activation of each channel (Babenko & Lempitsky, ICCV 2015; without its centre prior)."""

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); with `kept` the mean over the kept cells only."""
        return _mean(features, kept)


class GeM(nn.Module):
    """Generalised mean (mean max(F, eps)^p)^{1/p}, p learned from 3 (Radenovic et al., TPAMI 2019, eq. 2)."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); with `kept` the mean is over the kept cells only."""
        powers = features.clamp(min=self.eps).pow(self.p)
        return _mean(powers, kept).pow(1.0 / self.p)


def _mean(features: Tensor, kept: Tensor | None) -> Tensor:
    if kept is None:
        return features.mean((2, 3))
    weights = kept.to(features.dtype)
    return torch.einsum("bchw,bhw->bc", features, weights.squeeze(1)) / weights.sum((2, 3))


POOLINGS: dict[str, Callable[[], nn.Module]] = {"mac": MAC, "spoc": SPoC, "gem": GeM}
