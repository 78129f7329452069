import numpy as np
import pytest
import torch
from torch import Tensor

from dagf.model.pooling import MAC, POOLINGS, GeM, SPoC


def maps(shape: tuple[int, ...] = (2, 4, 3, 5)) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().double()
    values[:, 1] = 0
    return values


def some_kept(batch: int = 2, height: int = 3, width: int = 5) -> Tensor:
    kept = torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(1)) < 0.4
    kept[0, 0, 0, 0] = kept[1, 0, 2, 3] = True
    return kept


def slow(name: str, features: Tensor, kept: Tensor | None, p: float = 3.0, eps: float = 1e-6) -> Tensor:
    """Cell by cell, as the formulas read."""
    out = torch.zeros(features.shape[:2], dtype=torch.float64)
    for b, c in np.ndindex(*out.shape):
        cells = [
            float(features[b, c, i, j])
            for i, j in np.ndindex(*features.shape[2:])
            if kept is None or bool(kept[b, 0, i, j])
        ]
        if name == "mac":
            out[b, c] = max(cells)
        elif name == "spoc":
            out[b, c] = sum(cells) / len(cells)
        else:
            out[b, c] = (sum(max(cell, eps) ** p for cell in cells) / len(cells)) ** (1 / p)
    return out


@pytest.mark.parametrize("kept", [None, some_kept()], ids=["all", "kept"])
@pytest.mark.parametrize("name", POOLINGS)
def test_against_the_slow_loop(name: str, kept: Tensor | None) -> None:
    torch.testing.assert_close(POOLINGS[name]().double()(maps(), kept), slow(name, maps(), kept))


@pytest.mark.parametrize("name", POOLINGS)
def test_all_kept_is_no_mask(name: str) -> None:
    pooling, every = POOLINGS[name]().double(), torch.ones(2, 1, 3, 5, dtype=torch.bool)
    torch.testing.assert_close(pooling(maps(), every), pooling(maps()))


@pytest.mark.parametrize("name", POOLINGS)
def test_what_is_not_kept_does_not_matter(name: str) -> None:
    pooling, kept = POOLINGS[name]().double(), some_kept()
    other = torch.where(kept, maps(), 9.0)
    torch.testing.assert_close(pooling(other, kept), pooling(maps(), kept))
    assert not torch.allclose(pooling(other), pooling(maps()))


def test_gem_lies_between_mean_and_maximum() -> None:
    features = maps() + 1e-3
    torch.testing.assert_close(GeM(1.0).double()(features), SPoC()(features))
    live = features[:, [0, 2, 3]]
    torch.testing.assert_close(GeM(300.0).double()(live), MAC()(live), rtol=0.01, atol=0)
    ladder = torch.stack([GeM(p).double()(features) for p in (1.0, 2.0, 3.0, 6.0, 12.0)])
    assert (ladder.diff(dim=0) >= -1e-12).all()
    assert (ladder[:, :, [0, 2, 3]] < MAC()(live)).all()


def test_gem_starts_at_three() -> None:
    assert GeM().p.item() == 3.0
    assert GeM().p.requires_grad
    assert GeM().eps == 1e-6


@pytest.mark.parametrize("kept", [None, some_kept()], ids=["all", "kept"])
def test_a_scale_goes_through_gem_with_its_clamp(kept: Tensor | None) -> None:
    """GeM_eps(w F) = w GeM_{eps/w}(F), also where the clamp acts (the dead channel)."""
    for weight in (0.25, 3.0):
        found = GeM(eps=1e-2).double()(weight * maps(), kept)
        torch.testing.assert_close(found, weight * GeM(eps=1e-2 / weight).double()(maps(), kept))
        assert not torch.allclose(found, weight * GeM(eps=1e-2).double()(maps(), kept))


@pytest.mark.parametrize("name", ["mac", "spoc"])
def test_a_scale_goes_through_the_others(name: str) -> None:
    weights = torch.tensor([0.5, 2.0, 3.0, 7.0]).double()
    pooled = POOLINGS[name]()(maps() * weights.view(1, -1, 1, 1))
    torch.testing.assert_close(pooled, weights * POOLINGS[name]()(maps()))


@pytest.mark.parametrize("kept", [None, some_kept()], ids=["all", "kept"])
def test_gradients(kept: Tensor | None) -> None:
    features = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(2)).double().add(0.1).requires_grad_()
    for name in ("mac", "spoc"):
        pooling = POOLINGS[name]()
        assert torch.autograd.gradcheck(lambda image, pooling=pooling: pooling(image, kept), [features])
    gem = GeM().double()

    def call(image: Tensor, p: Tensor) -> Tensor:
        return torch.func.functional_call(gem, {"p": p}, (image, kept))

    assert torch.autograd.gradcheck(call, [features, torch.tensor(2.7).double().requires_grad_()])


def test_single_precision_is_finite_on_dead_and_large_maps() -> None:
    features = torch.zeros(1, 2, 4, 4)
    features[0, 1] = 1000
    features.requires_grad_()
    gem = GeM()
    pooled = gem(features)
    pooled.sum().backward()
    torch.testing.assert_close(pooled, torch.tensor([[1e-6, 1000.0]]), rtol=1e-3, atol=0)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(gem.p.grad)
