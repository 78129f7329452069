import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dagf.model.pooling import MAC, POOLINGS, GeM, NetVLAD, Pooling, SPoC, rmac_regions
from tests.model.modules import some_map

MAPS = some_map(2, 4, 3, 5)
KEPT = torch.rand(2, 1, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.4
KEPT[0, 0, 0, 0] = KEPT[1, 0, 2, 3] = True


def made(name: str, channels: int = 4) -> Pooling:
    """The pooling in float64, the same at every call; centres and assignment moved apart."""
    torch.manual_seed(3)
    pooling = POOLINGS[name](channels).double()
    if isinstance(pooling, NetVLAD):
        with torch.no_grad():
            pooling.assignment.copy_(3 * torch.randn(pooling.assignment.shape))
    return pooling


def slow(name: str, features: Tensor, kept: Tensor | None) -> Tensor:
    """Image by image, as the formulas read."""
    oracle = {
        "mac": lambda image, where: image[:, where].max(1),
        "spoc": lambda image, where: image[:, where].mean(1),
        "gem": lambda image, where: (np.maximum(image[:, where], 1e-6) ** 3).mean(1) ** (1 / 3),
        "rmac": slow_rmac,
        "crow": slow_crow,
        "netvlad": slow_netvlad,
    }[name]
    everywhere = np.ones(features.shape[2:], dtype=bool)
    cells = [everywhere] * len(features) if kept is None else list(kept[:, 0].numpy())
    pairs = zip(features.numpy(), cells, strict=True)
    return torch.from_numpy(np.stack([oracle(image, where) for image, where in pairs]))


def slow_rmac(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    height, width = image.shape[1:]
    total, image = np.zeros(len(image)), image * kept
    regions = [(0, 0, max(height, width)), *rmac_regions(height, width)]  # first the whole map
    for top, left, side in regions:
        vector = image[:, top : top + side, left : left + side].max((1, 2))
        total += vector / (np.linalg.norm(vector) or 1)
    return total


def slow_crow(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    cells = image[:, kept]
    total = cells.sum(0)
    weights = np.sqrt(total / math.sqrt((total**2).sum()))
    nonzero, out = (cells > 0).mean(1), np.zeros(len(image))
    for c in np.flatnonzero(nonzero):
        out[c] = weights @ cells[c] * math.log(nonzero.sum() / nonzero[c])
    return out


def slow_netvlad(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    pooling = made("netvlad")
    centres, assignment = pooling.centres.detach().numpy(), pooling.assignment.detach().numpy()
    residuals = np.zeros_like(centres)
    for i, j in np.argwhere(kept):
        x = image[:, i, j] / (np.linalg.norm(image[:, i, j]) or 1)
        exponents = [math.exp(w @ x) for w in assignment]
        for k, centre in enumerate(centres):
            residuals[k] += exponents[k] / sum(exponents) * (x - centre)
    return np.concatenate([row / (np.linalg.norm(row) or 1) for row in residuals])


@pytest.mark.parametrize("kept", [None, KEPT], ids=["all", "kept"])
@pytest.mark.parametrize("name", POOLINGS)
def test_against_the_slow_loop(name: str, kept: Tensor | None) -> None:
    torch.testing.assert_close(made(name)(MAPS, kept), slow(name, MAPS, kept))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (9, 2), (7, 7)])
@pytest.mark.parametrize("name", POOLINGS)
def test_maps_of_any_size(name: str, size: tuple[int, int]) -> None:
    features, pooling = some_map(2, 4, *size) + 0.1, made(name)
    assert pooling(features).shape == (2, 4 * pooling.multiple)
    torch.testing.assert_close(pooling(features), slow(name, features, None))


def test_gem_lies_between_mean_and_maximum() -> None:
    features = MAPS + 1e-3
    torch.testing.assert_close(GeM(p=1.0).double()(features), SPoC()(features))
    live = features[:, [0, 2, 3]]
    torch.testing.assert_close(GeM(p=300.0).double()(live), MAC()(live), rtol=0.01, atol=0)
    ladder = torch.stack([GeM(p=p).double()(features) for p in (1.0, 2.0, 3.0, 6.0, 12.0)])
    assert (ladder.diff(dim=0) >= -1e-12).all()
    assert (ladder[:, :, [0, 2, 3]] < MAC()(live)).all()


def test_single_precision_is_finite_on_dead_and_large_maps() -> None:
    features = torch.zeros(1, 2, 4, 4)
    features[0, 1] = 1000
    features.requires_grad_()
    gem = GeM()
    pooled = gem(features)
    pooled.sum().backward()
    torch.testing.assert_close(pooled, torch.tensor([[1e-6, 1000.0]]), rtol=1e-3, atol=0)
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(gem.p.grad)


@pytest.mark.parametrize(
    ("height", "width", "counts"),
    [
        (12, 12, {12: 1, 8: 4, 6: 9}),
        (4, 4, {4: 1, 2: 4 + 9}),  # floor(8 / 3) = floor(8 / 4) = 2
        (12, 16, {12: 2, 8: 2 * 3, 6: 3 * 4}),  # two of 12 overlap by 2/3, three by more: m = 2
        (16, 12, {12: 2, 8: 3 * 2, 6: 4 * 3}),
        # shifts of 14, 7, 4.67, 3.5 against 6: overlaps 1 - shift / 6, m = 5
        (6, 20, {6: 5, 4: 2 * 6, 3: 3 * 7}),
        (1, 1, {1: 1}),  # the windows of levels 2 and 3 have no cell
        (2, 3, {2: 2, 1: 2 * 3 + 3 * 4}),
    ],
)
def test_the_regions_by_hand(height: int, width: int, counts: dict[int, int]) -> None:
    sides = [side for _, _, side in rmac_regions(height, width)]
    assert {side: sides.count(side) for side in sides} == counts


def test_where_the_regions_lie_by_hand() -> None:
    """On 2 x 5 windows of 2 overlap by 1 - 3 / 2 (m - 1): -0.5, 0.25, 0.5, 0.625; so m = 4."""
    assert list(rmac_regions(2, 5)) == [
        *[(0, left, 2) for left in (0, 1, 2, 3)],
        *[(top, left, 1) for top in (0, 1) for left in (0, 1, 2, 3, 4)],
        *[(top, left, 1) for top in (0, 0, 1) for left in (0, 0, 1, 2, 3, 4)],
    ]


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_regions_of_any_map(height: int, width: int) -> None:
    found = np.array(list(rmac_regions(height, width)))
    top, left, side = found.T
    assert found.min() >= 0 and found[0, 2] == min(height, width)
    assert (np.max(top + side), np.max(left + side)) == (height, width)
    turned = [(left, top, side) for top, left, side in rmac_regions(width, height)]
    assert sorted(turned) == sorted(map(tuple, found.tolist()))


def test_netvlad_starts_assigned_to_the_nearest_centre() -> None:
    torch.manual_seed(0)
    pooling = NetVLAD(32)
    torch.testing.assert_close(pooling.centres.norm(dim=1), torch.ones(16))
    torch.testing.assert_close(pooling.assignment, 100 * pooling.centres)
    assert (pooling.centres >= 0).all()
    at_centre = pooling.centres[2].detach().view(1, 32, 1, 1)
    cell = pooling.assignment @ at_centre.flatten()
    assert cell.softmax(0)[2] > 0.999
    other = (at_centre + 0.02).flatten()
    residual = other / other.norm() - pooling.centres[2]
    expected = residual / residual.norm()
    torch.testing.assert_close(pooling(at_centre + 0.02)[0, 64:96], expected, rtol=0, atol=1e-4)
