import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.nn import functional as fn

from dagf.model import scale_mask
from dagf.model.pooling import POOLINGS, GeM, SPoC
from tests.model.modules import images

# small whole numbers, so that ties, dead channels and dead maps occur
tied = arrays(
    np.float32, st.tuples(*[st.integers(1, n) for n in (2, 4, 4, 5)]), elements=st.integers(0, 3)
)
masked = scale_mask.MaxMask()
kinds, masks = (st.sampled_from(sorted(one)) for one in (scale_mask.WINDOW_KINDS, scale_mask.MASKS))


def slow_mask(features: Tensor) -> Tensor:
    """Channel by channel: every cell at which a live channel has its maximum."""
    kept = torch.zeros(len(features), 1, *features.shape[2:], dtype=torch.bool)
    for image, cells in zip(features, kept, strict=True):
        for plane in image:
            if plane.max() > 0:
                cells |= plane == plane.max()
        if not cells.any():
            cells |= True
    return kept


@given(tied)
def test_the_mask_against_the_slow_loop(values: np.ndarray) -> None:
    features = torch.from_numpy(values)
    found = masked(features)
    assert found.dtype == torch.bool
    assert torch.equal(found, slow_mask(features))


def test_values_pass_the_mask_gradients_of_its_choice_do_not() -> None:
    features = images(2, 4, 6, 6).relu().requires_grad_()
    kept = masked(features)
    assert not kept.requires_grad
    SPoC()(features, kept).sum().backward()
    expected = (kept / kept.sum((2, 3), keepdim=True)).expand_as(features)
    torch.testing.assert_close(features.grad, expected)


@given(tied)
def test_the_sum_mask_against_the_slow_loop(values: np.ndarray) -> None:
    for image, kept in zip(values, scale_mask.SumMask()(torch.from_numpy(values)), strict=True):
        total = image.sum(0)
        assert np.array_equal(kept[0], total >= np.median(total))


@given(tied, st.integers(0, 9))
def test_the_random_mask_keeps_as_many_as_the_max_mask(values: np.ndarray, seed: int) -> None:
    features = torch.from_numpy(values)
    torch.manual_seed(seed)
    found = scale_mask.RandomMask()(features)
    assert found.dtype == torch.bool
    assert found.shape == masked(features).shape
    assert torch.equal(found.sum((1, 2, 3)), masked(features).sum((1, 2, 3)))
    torch.manual_seed(seed)
    assert torch.equal(scale_mask.RandomMask()(features), found)


def test_the_random_mask_prefers_no_cell() -> None:
    features = torch.zeros(4000, 2, 2, 3)
    features[:, 0, 0, 0] = features[:, 1, 1, 2] = 1  # two of six cells
    torch.manual_seed(0)
    share = scale_mask.RandomMask()(features).float().mean(0)
    torch.testing.assert_close(share, torch.full((1, 2, 3), 1 / 3), rtol=0, atol=0.03)  # 4 sigma


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_max_windows_are_max_pooling_to_the_last_digit(layout: torch.memory_format) -> None:
    """The map, its layout and the gradients, with plateaus of zeros."""
    torch.manual_seed(0)
    maps = torch.relu(torch.randn(3, 5, 7, 6)).to(memory_format=layout)
    one, other = (maps.clone().requires_grad_() for _ in range(2))
    found, expected = scale_mask.max_windows(one, (3, 2), 1), fn.max_pool2d(other, (3, 2), 1)
    assert found.equal(expected) and found.stride() == expected.stride()
    weights = torch.randn_like(found)
    for pooled in found, expected:
        (pooled * weights).sum().backward()
    assert one.grad.equal(other.grad)


@pytest.mark.parametrize("kind", scale_mask.WINDOW_KINDS)
@pytest.mark.parametrize("size", [(5, 7), (2, 6), (6, 1), (1, 1)])
def test_windows_against_the_slow_loop(kind: str, size: tuple[int, int]) -> None:
    features, windows = images(2, 3, *size).relu(), (1, 2, 3, 4)
    height, width = size
    for k, found in zip(windows, scale_mask.ScaleFilters(windows, kind)(features), strict=True):
        down, across = min(k, height), min(k, width)
        expected = torch.empty(2, 3, height - down + 1, width - across + 1)
        for i, j in np.ndindex(*expected.shape[2:]):
            cells = features[:, :, i : i + down, j : j + across].flatten(2)
            pooled = cells.max(2).values if kind == "max" else cells.sum(2) / (down * across)
            expected[:, :, i, j] = pooled
        torch.testing.assert_close(found, expected)
    assert torch.equal(scale_mask.ScaleFilters((1,), kind)(features)[0], features)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", scale_mask.WINDOW_KINDS)
@pytest.mark.parametrize(("windows", "mask"), [((1,), "none"), ((1, 2, 3), "max")])
def test_each_scale_is_normalised_before_the_sum(
    pooling: str, kind: str, windows: tuple[int, ...], mask: str
) -> None:
    features, made = images(2, 6, 7, 5).relu(), POOLINGS[pooling](6)
    found, kept_cells = scale_mask.ScaleAndMask(made, windows, kind, mask)(features)
    total, scales = torch.zeros(2, 6 * made.multiple), scale_mask.ScaleFilters(windows, kind)
    for scale, kept in zip(scales(features), kept_cells, strict=True):
        expected = slow_mask(scale) if mask == "max" else None
        assert kept is expected or torch.equal(kept, expected)
        for image in range(2):
            cells = None if kept is None else kept[image : image + 1]
            vector = made(scale[image : image + 1], cells)[0]
            total[image] += vector / vector.norm()
    torch.testing.assert_close(found, total / total.norm(dim=1, keepdim=True))


@given(tied, kinds, masks)
def test_unit_length_whatever_the_map(values: np.ndarray, kind: str, mask: str) -> None:
    found, _ = scale_mask.ScaleAndMask(GeM(), (1, 2, 3), kind, mask)(torch.from_numpy(values))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(values)))
