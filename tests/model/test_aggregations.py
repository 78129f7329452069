"""What is particular to the pooling of other papers; that they are what their formulas say is in test_pooling."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dagf.model.pooling import RMAC, CroW, NetVLAD, rmac_regions

from .test_pooling import made, maps, slow_regions

# --- R-MAC --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "counts"),
    [
        (12, 12, {12: 1, 8: 4, 6: 9}),
        (4, 4, {4: 1, 2: 4 + 9}),  # floor(8 / 3) = floor(8 / 4) = 2
        (
            12,
            16,
            {12: 2, 8: 2 * 3, 6: 3 * 4},
        ),  # two windows of 12 overlap by 2/3, three by more: m = 2
        (16, 12, {12: 2, 8: 3 * 2, 6: 4 * 3}),
        (
            6,
            20,
            {6: 5, 4: 2 * 6, 3: 3 * 7},
        ),  # shifts of 14, 7, 4.67, 3.5 against 6: overlaps 1 - shift / 6, m = 5
        (1, 1, {1: 1}),  # the windows of levels 2 and 3 have no cell
        (2, 3, {2: 2, 1: 2 * 3 + 3 * 4}),
    ],
)
def test_the_regions_by_hand(height: int, width: int, counts: dict[int, int]) -> None:
    sides = [side for _, _, side in rmac_regions(height, width)]
    assert {side: sides.count(side) for side in sides} == counts


def test_the_places_of_the_regions_by_hand() -> None:
    assert list(rmac_regions(3, 3)) == [
        *[(0, 0, 3)],
        *[(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)],
        *[(top, left, 1) for top in range(3) for left in range(3)],
    ]


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_regions_of_any_map(height: int, width: int) -> None:
    found = list(rmac_regions(height, width))
    assert [(top, left, top + side, left + side) for top, left, side in found] == slow_regions(
        height, width
    )
    assert all(0 <= top <= height - side and 0 <= left <= width - side for top, left, side in found)
    assert found[0][2] == min(height, width)
    assert max(top + side for top, _, side in found) == height
    assert max(left + side for _, left, side in found) == width


def test_a_constant_map_has_as_many_unit_vectors_as_regions() -> None:
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6)
    torch.testing.assert_close(RMAC()(features), (1 + 1 + 4 + 9) * torch.tensor([[0.6, 0.8]]))


# --- CroW and NetVLAD ---------------------------------------------------------------------------------------------


def test_crow_favours_rare_channels() -> None:
    features = torch.zeros(1, 3, 2, 2)
    features[0, 0] = 1  # everywhere: log(1.25 / 1)
    features[0, 1, 0, 0] = 1  # at one of four cells: log(1.25 / 0.25); the third nowhere
    total = torch.tensor([[2.0, 1], [1, 1]])
    weight = (total / total.norm()).sqrt()
    expected = [math.log(1.25) * float(weight.sum()), math.log(5) * float(weight[0, 0]), 0.0]
    torch.testing.assert_close(CroW()(features), torch.tensor([expected]))


def test_netvlad_starts_assigned_to_the_nearest_centre() -> None:
    torch.manual_seed(0)
    pooling = NetVLAD(32, clusters=5)
    torch.testing.assert_close(pooling.centres.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(pooling.assignment, 100 * pooling.centres)
    assert (pooling.centres >= 0).all()
    assert (pooling.multiple, pooling(maps((2, 32, 3, 5)).float()).shape) == (5, (2, 160))
    at_centre = pooling.centres[2].detach().view(1, 32, 1, 1)
    cell = pooling.assignment @ at_centre.flatten()
    assert cell.softmax(0)[2] > 0.999
    other = (at_centre + 0.02).flatten()
    residual = other / other.norm() - pooling.centres[2]
    torch.testing.assert_close(
        pooling(at_centre + 0.02)[0, 64:96], residual / residual.norm(), rtol=0, atol=1e-4
    )


@given(st.integers(1, 6))
def test_each_centre_of_netvlad_counts_alike(cells: int) -> None:
    vector = made("netvlad", 24)(maps((3, 24, cells, 2)))
    lengths = vector.view(3, 16, 24).norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
