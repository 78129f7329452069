import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dagf.common import UserError
from dagf.model.attention import ACTIVATIONS, READINGS, ChannelAttention, SpatialAttention
from dagf.model.pooling import GeM
from dagf.model.scale_mask import ScaleAndMask

Array = NDArray[np.float64]


def some_map(batch: int = 2, channels: int = 16, height: int = 3, width: int = 4, seed: int = 0) -> Tensor:
    """A rectified map in float64, with a dead channel and a dead cell."""
    values = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed)).relu()
    values[0, 1] = 0
    values[:, :, 1, 2] = 0
    return values.double()


def stirred(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module in float64 with every parameter moved off its start."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    return module.double()


def parameters(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def global_average(features: Array) -> Array:
    channels, height, width = features.shape
    total = np.zeros(channels)
    for i in range(height):
        for j in range(width):
            total += features[:, i, j]
    return total / (height * width)


def evaluator_scores(features: Array, p: dict[str, Array]) -> Array:
    g = global_average(features)
    q = p["relate.weight"] @ np.tanh(p["squeeze.weight"] @ g + p["squeeze.bias"])
    return scores_of(q / math.sqrt(len(g)), features, p["bias"])


def gram_scores(features: Array, p: dict[str, Array]) -> Array:
    channels = len(features)
    rows = [row.flatten() / (np.linalg.norm(row) or 1.0) for row in features]
    relation = np.empty((channels, channels))
    for a in range(channels):
        exponents = np.array([np.exp(rows[a] @ rows[b] / np.exp(p["log_temperature"])) for b in range(channels)])
        relation[a] = exponents / exponents.sum()
    return scores_of(relation @ global_average(features) / math.sqrt(channels), features, p["bias"])


def gate_scores(features: Array, p: dict[str, Array]) -> Array:
    hidden = np.maximum(p["squeeze.weight"] @ global_average(features), 0)
    s = 1 / (1 + np.exp(-p["excite.weight"] @ hidden))
    return scores_of(p["readout"] * s, features, p["bias"])


def scores_of(vector: Array, features: Array, bias: Array) -> Array:
    _, height, width = features.shape
    return np.array([[vector @ features[:, i, j] + bias for j in range(width)] for i in range(height)])


ORACLES = {"evaluator": evaluator_scores, "gram": gram_scores, "gate": gate_scores}


def weights_of(scores: Array, activation: str) -> Array:
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-scores))
    if activation == "softplus":
        return np.log1p(np.exp(scores))
    return np.exp(scores) / np.exp(scores).mean()


def test_every_reading_has_its_formula_here() -> None:
    assert set(ORACLES) == set(READINGS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reading", READINGS)
def test_the_weights_are_those_of_the_formula(reading: str, activation: str) -> None:
    features = some_map()
    module = stirred(SpatialAttention(16, reading, activation))
    found = module(features)
    assert found.shape == (2, 1, 3, 4)
    for image, weights in zip(features.numpy(), found.detach().numpy(), strict=True):
        expected = weights_of(ORACLES[reading](image, parameters(module.evaluate)), activation)
        np.testing.assert_allclose(weights[0], expected, rtol=1e-10)


def test_the_bottleneck_is_an_eighth() -> None:
    for reading in ("evaluator", "gate"):
        assert SpatialAttention(64, reading).evaluate.squeeze.out_features == 8
        assert SpatialAttention(3, reading).evaluate.squeeze.out_features == 1


@pytest.mark.parametrize("reading", ["evaluator", "gate"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fresh_network_equals_one_without_attention(reading: str, activation: str) -> None:
    features = some_map(height=6, width=5) + 0.01  # away from GeM's clamp
    attention = SpatialAttention(16, reading, activation).double()(features)
    assert torch.equal(attention, attention[:1, :, :1, :1].expand_as(attention))
    head = ScaleAndMask(GeM().double())
    plain, attended = head(features), head(features * attention)
    torch.testing.assert_close(attended.descriptor, plain.descriptor, rtol=0, atol=1e-12)
    assert all(torch.equal(one, other) for one, other in zip(attended.kept, plain.kept, strict=True))


@pytest.mark.parametrize("reading", READINGS)
def test_a_dead_cell_gets_the_bias_not_zero(reading: str) -> None:
    module = stirred(SpatialAttention(16, reading))
    expected = torch.sigmoid(module.evaluate.bias)
    torch.testing.assert_close(module(some_map())[:, 0, 1, 2], expected.expand(2))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_positions_matter_only_through_their_content(reading: str, activation: str) -> None:
    features = some_map()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    moved = features.flatten(2)[:, :, order].view_as(features)
    module = stirred(SpatialAttention(16, reading, activation))
    found, expected = module(moved).flatten(2), module(features).flatten(2)[:, :, order]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.std() > 1e-3


@pytest.mark.parametrize("reading", READINGS)
def test_images_of_a_batch_do_not_see_each_other(reading: str) -> None:
    features, module = some_map(batch=3), stirred(SpatialAttention(16, reading))
    torch.testing.assert_close(module(features)[1:2], module(features[1:2]), rtol=1e-12, atol=1e-12)


def test_softmax_weights_have_mean_one_whatever_the_scores() -> None:
    scores = 50 * torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    weights = ACTIVATIONS["softmax"](scores)
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(3).double())
    assert (weights >= 0).all()
    assert weights.flatten(1).argmax(1).tolist() == scores.flatten(1).argmax(1).tolist()


def checked(module: nn.Module, features: Tensor) -> bool:
    """Whether the analytic gradients with respect to the map and every parameter are the numeric ones."""
    named = dict(module.named_parameters())

    def call(image: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(named, values, strict=True)), (image,))

    inputs = [features.requires_grad_(), *(value.detach().clone().requires_grad_() for value in named.values())]
    return torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reading", READINGS)
def test_gradients(reading: str, activation: str) -> None:
    features = torch.rand(2, 5, 2, 3, generator=torch.Generator().manual_seed(0)).double() + 0.1
    assert checked(stirred(SpatialAttention(5, reading, activation)), features)


def test_gradients_of_the_channel_vector() -> None:
    features = torch.rand(2, 5, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    assert checked(stirred(ChannelAttention(5)), features)


@pytest.mark.parametrize("reading", READINGS)
def test_a_dead_channel_gives_no_broken_gradient(reading: str) -> None:
    features = some_map().float().requires_grad_()
    module = stirred(SpatialAttention(16, reading)).float()
    module(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())


def test_channel_weights_start_at_one_and_stay_positive() -> None:
    module, features = ChannelAttention(16).double(), some_map()
    torch.testing.assert_close(module.weights, torch.ones(16).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(module(features), features, rtol=1e-6, atol=0)
    with torch.no_grad():
        module.theta.copy_(torch.linspace(-40, 40, 16))
    assert (module.weights > 0).all()
    expected = [math.log1p(math.exp(theta)) for theta in module.theta.tolist()]
    for channel, weight in enumerate(expected):
        torch.testing.assert_close(module(features)[:, channel], weight * features[:, channel])


def test_misspelt_names_are_suggested() -> None:
    with pytest.raises(UserError, match="did you mean 'evaluator'"):
        SpatialAttention(8, "evaluater")
    with pytest.raises(UserError, match="did you mean 'softplus'"):
        SpatialAttention(8, "gram", "soft-plus")
