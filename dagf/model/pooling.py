"""Pooling: a map (B, C, H, W) and the cells to keep (B, 1, H, W) -> a vector, not normalised."""

from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.model.attention import crow_weight


class Pooling(nn.Module):
    """A pooling of maps of C channels, with `kept` over the kept cells only (None: every cell).

    multiple: the vector has `multiple` * C numbers. learned: whether it has parameters. additive:
    whether `proportional` grows in proportion to the map, so that the contributions of its cells
    add up. any_size: whether one graph of operations serves maps of any size, as an export needs.
    """

    multiple = 1
    learned = False
    additive = True
    any_size = True

    def __init__(self, channels: int = 0) -> None:
        super().__init__()

    def proportional(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the same vector, with what it divides by held constant under differentiation."""
        vector: Tensor = self(features, kept)
        return vector


class MAC(Pooling):
    """Maximum of each channel (Tolias et al., ICLR 2016). A MAX-Mask leaves it as it is."""

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        return _only(features, kept).amax((2, 3))


class SPoC(Pooling):
    """Mean of each channel (Babenko & Lempitsky, ICCV 2015; without its centre prior)."""

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        return _mean(features, kept)


class GeM(Pooling):
    """Generalised mean (mean max(F, eps)^p)^{1/p}, p learned (Radenovic et al., 2019, eq. 2)."""

    learned = True

    def __init__(self, channels: int = 0, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        powers = features.clamp(min=self.eps).pow(self.p)
        return _mean(powers, kept).pow(1.0 / self.p)


class RMAC(Pooling):
    """Regional maxima: the sum of the L2-normalised MAC of the map and of each of its regions.

    Tolias et al., ICLR 2016. The regions are those of `rmac_regions`; cells that are not kept count
    as 0. The published pipeline whitens each regional vector before the sum; here whitening comes
    after the descriptor, as for every other method.
    """

    any_size = False

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        return fn.normalize(self._maxima(features, kept), dim=2).sum(0)

    def proportional(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        maxima = self._maxima(features, kept)
        return (maxima / maxima.detach().norm(dim=2, keepdim=True).clamp(min=1e-12)).sum(0)

    def _maxima(self, features: Tensor, kept: Tensor | None) -> Tensor:
        """Return the MAC of the map and of each of its regions, (1 + regions, B, C)."""
        features = _only(features, kept)
        height, width = features.shape[2:]
        maxima = [features.amax((2, 3))]
        for top, left, side in rmac_regions(height, width):
            maxima.append(features[:, :, top : top + side, left : left + side].amax((2, 3)))
        return torch.stack(maxima)


def rmac_regions(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield R-MAC's square regions (top, left, side) on a map of that size, on three levels.

    With w = min(H, W), level l has windows of side floor(2w / (l + 1)), l along the short side and
    l + m - 1 along the long one, evenly spaced; m in {2..7} is the number of w x w windows along
    the long side whose neighbours overlap by nearest to 40 % (the smallest such m). Square maps
    have l x l. Windows of side 0 are left out.
    """
    short, long = sorted((height, width))
    overlaps = {m: 1 - Fraction(long - short, short * (m - 1)) for m in range(2, 8)}
    steps = min(overlaps, key=lambda m: abs(overlaps[m] - Fraction(2, 5)))
    for level in (1, 2, 3):
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
    0; cells that are not kept count as 0 in both weights.
    """

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        features = _only(features, kept)
        pooled = (crow_weight(features) * features).sum((2, 3))
        share = (features > 0).to(features.dtype).mean((2, 3))
        return pooled * torch.where(share > 0, torch.log(share.sum(1, keepdim=True) / share), 0.0)


class NetVLAD(Pooling):
    """Residuals to 16 learned centres, each cell soft-assigned (Arandjelovic et al., CVPR 2016).

        x = f_ij / |f_ij|,    a_k(x) = softmax_k <w_k, x>
        V_k = sum_ij a_k(x) (x - c_k),    v = (V_k / |V_k|)_k

    w_k starts at 100 c_k and is learned apart from c_k. The paper takes the centres from a
    k-means over the training features; a constructor has none, so they start as random directions
    of rectified features.
    """

    multiple = 16
    learned = True
    additive = False

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.centres = nn.Parameter(fn.normalize(torch.randn(self.multiple, channels).relu()))
        self.assignment = nn.Parameter(100.0 * self.centres.detach())

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
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
