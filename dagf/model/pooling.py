"""Pooling: a map (B, C, H, W) and the cells to keep (B, 1, H, W) -> a vector, not normalised."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.model.attention import crow_weight


class Pooling(nn.Module):
    """What the poolings have in common.

    multiple: the vector has `multiple` * C numbers. learned: whether it has parameters. additive:
    whether it grows in proportion to the map, so that the contributions of its cells add up.
    any_size: whether one graph of operations serves maps of any size, as an export needs.
    """

    multiple = 1
    learned = False
    additive = True
    any_size = True

    @classmethod
    def for_channels(cls, channels: int) -> Self:
        """Return the pooling of a map of that many channels."""
        return cls()


class MAC(Pooling):
    """Maximum of each channel (Tolias et al., ICLR 2016). A MAX-Mask leaves it as it is."""

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); `kept` is a boolean (B, 1, H, W), None for every cell."""
        return _only(features, kept).amax((2, 3))


class SPoC(Pooling):
    """Mean of each channel (Babenko & Lempitsky, ICCV 2015; without its centre prior)."""

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); with `kept` the mean over the kept cells only."""
        return _mean(features, kept)


class GeM(Pooling):
    """Generalised mean (mean max(F, eps)^p)^{1/p}, p learned from 3.

    Radenovic et al., TPAMI 2019, eq. 2.
    """

    learned = True

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); with `kept` the mean is over the kept cells only."""
        powers = features.clamp(min=self.eps).pow(self.p)
        return _mean(powers, kept).pow(1.0 / self.p)


class RMAC(Pooling):
    """Regional maxima: the sum of the L2-normalised MAC of the map and of each of its regions.

    Tolias et al., ICLR 2016. The regions are those of `rmac_regions`. The published pipeline
    whitens each regional vector before the sum; here whitening comes after the descriptor, as for
    every other method.
    """

    additive = False
    any_size = False

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); cells that are not kept count as 0."""
        features = _only(features, kept)
        height, width = features.shape[2:]
        maxima = [features.amax((2, 3))]
        for top, left, side in rmac_regions(height, width, self.levels):
            maxima.append(features[:, :, top : top + side, left : left + side].amax((2, 3)))
        return fn.normalize(torch.stack(maxima), dim=2).sum(0)


def rmac_regions(height: int, width: int, levels: int = 3) -> Iterator[tuple[int, int, int]]:
    """Yield R-MAC's square regions (top, left, side) on a map of that size, level by level.

    With w = min(H, W), level l has windows of side floor(2w / (l + 1)), l along the short side and
    l + m - 1 along the long one, evenly spaced; m in {2..7} is the number of w x w windows along
    the long side whose neighbours overlap by nearest to 40 % (the smallest such m). Square maps
    have l x l. Windows of side 0 are left out.
    """
    short, long = sorted((height, width))
    overlaps = {m: 1 - Fraction(long - short, short * (m - 1)) for m in range(2, 8)}
    steps = min(overlaps, key=lambda m: abs(overlaps[m] - Fraction(2, 5)))
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            return
        rows, columns = (
            level + steps - 1 if length > short else level for length in (height, width)
        )
        for top in _evenly(height - side, rows):
            for left in _evenly(width - side, columns):
                yield top, left, side


def _evenly(last: int, count: int) -> list[int]:
    """Return `count` whole numbers from 0 to `last`, evenly spaced and rounded down."""
    return [index * last // max(1, count - 1) for index in range(count)]


class CroW(Pooling):
    """Cross-dimensional weighting: a sum weighted by cell and by channel.

        v_c = log(sum_k nz_k / nz_c) sum_ij a_ij F_cij

    Kalantidis et al., ECCV Workshops 2016. nz_c is the share of cells at which channel c is not 0,
    a the spatial weight of `dagf.model.attention.crow_weight`. A channel that is 0 everywhere gets
    0.
    """

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C); cells that are not kept count as 0, in both weights."""
        features = _only(features, kept)
        pooled = (crow_weight(features) * features).sum((2, 3))
        share = (features > 0).to(features.dtype).mean((2, 3))
        return pooled * torch.where(share > 0, torch.log(share.sum(1, keepdim=True) / share), 0.0)


class NetVLAD(Pooling):
    """Residuals to K learned centres, each cell soft-assigned (Arandjelovic et al., CVPR 2016).

        x = f_ij / |f_ij|,    a_k(x) = softmax_k <w_k, x>
        V_k = sum_ij a_k(x) (x - c_k),    v = (V_k / |V_k|)_k

    w_k starts at alpha c_k and is learned apart from c_k. The paper takes the centres from a
    k-means over the training features; a constructor has none, so they start as random directions
    of rectified features.
    """

    learned = True
    additive = False

    def __init__(self, channels: int, clusters: int = 16, alpha: float = 100.0) -> None:
        super().__init__()
        self.multiple = clusters
        self.centres = nn.Parameter(fn.normalize(torch.randn(clusters, channels).relu()))
        self.assignment = nn.Parameter(alpha * self.centres.detach())

    @classmethod
    def for_channels(cls, channels: int) -> Self:
        """Return the pooling of a map of that many channels."""
        return cls(channels)

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, K * C), centre by centre; with `kept` summed over the kept cells."""
        cells = fn.normalize(features.flatten(2), dim=1)
        shares = torch.softmax(self.assignment @ cells, dim=1)
        if kept is not None:
            shares = shares * kept.flatten(2)
        residuals = shares @ cells.transpose(1, 2) - shares.sum(2, keepdim=True) * self.centres
        return fn.normalize(residuals, dim=2).flatten(1)


def _only(features: Tensor, kept: Tensor | None) -> Tensor:
    """Return the map with 0 wherever it is not kept: maps are non-negative, so 0 means nothing."""
    return features if kept is None else features.masked_fill(~kept, 0.0)


def _mean(features: Tensor, kept: Tensor | None) -> Tensor:
    if kept is None:
        return features.mean((2, 3))
    weights = kept.to(features.dtype)
    return torch.einsum("bchw,bhw->bc", features, weights.squeeze(1)) / weights.sum((2, 3))


POOLINGS: dict[str, type[Pooling]] = {
    "mac": MAC,
    "spoc": SPoC,
    "gem": GeM,
    "rmac": RMAC,
    "crow": CroW,
    "netvlad": NetVLAD,
}
