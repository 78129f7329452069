import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dagf.model.attention import ACTIVATIONS, READINGS, ChannelAttention, SpatialAttention
from dagf.model.pooling import GeM
from dagf.model.scale_mask import ScaleAndMask
from tests.model.modules import gradients_are_right, moved, some_map

Array = NDArray[np.float64]
LEARNED = [name for name, reading in READINGS.items() if reading.learned]
PARAMETER_FREE = [name for name in READINGS if name not in LEARNED]
PAIRS = [
    (reading, name)
    for reading in READINGS
    for name in ACTIVATIONS
    if name != "none" or reading in PARAMETER_FREE
]


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
        exponents = np.array(
            [np.exp(rows[a] @ rows[b] / np.exp(p["log_temperature"])) for b in range(channels)]
        )
        relation[a] = exponents / exponents.sum()
    return scores_of(relation @ global_average(features) / math.sqrt(channels), features, p["bias"])


def gate_scores(features: Array, p: dict[str, Array]) -> Array:
    hidden = np.maximum(p["squeeze.weight"] @ global_average(features), 0)
    s = 1 / (1 + np.exp(-p["excite.weight"] @ hidden))
    return scores_of(p["readout"] * s, features, p["bias"])


def scores_of(vector: Array, features: Array, bias: Array) -> Array:
    _, height, width = features.shape
    return np.array(
        [[vector @ features[:, i, j] + bias for j in range(width)] for i in range(height)]
    )


def norm_weights(features: Array, _: dict[str, Array]) -> Array:
    _, height, width = features.shape
    return np.array(
        [
            [math.sqrt(sum(x * x for x in features[:, i, j]) + 1e-10) for j in range(width)]
            for i in range(height)
        ]
    )


def crow_weights(features: Array, _: dict[str, Array]) -> Array:
    total = np.zeros(features.shape[1:])
    for plane in features:
        total += plane
    length = math.sqrt(sum(float(s) ** 2 for s in total.flat))
    return np.array([[math.sqrt(s / length) if s else 0.0 for s in row] for row in total])


ORACLES = {
    "evaluator": evaluator_scores,
    "gram": gram_scores,
    "gate": gate_scores,
    "norm": norm_weights,
    "crow": crow_weights,
}


def weights_of(scores: Array, activation: str) -> Array:
    if activation == "none":
        return scores
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-scores))
    if activation == "softplus":
        return np.log1p(np.exp(scores))
    return np.exp(scores) / np.exp(scores).mean()


@pytest.mark.parametrize(("reading", "activation"), PAIRS)
def test_the_weights_are_those_of_the_formula(reading: str, activation: str) -> None:
    features = some_map(2, 16, 3, 4)
    module = moved(SpatialAttention(16, reading, activation))
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
@pytest.mark.parametrize("activation", ["sigmoid", "softplus", "softmax"])
def test_a_fresh_network_equals_one_without_attention(reading: str, activation: str) -> None:
    features = some_map(2, 16, 6, 5) + 0.01  # away from GeM's clamp
    attention = SpatialAttention(16, reading, activation).double()(features)
    assert torch.equal(attention, attention[:1, :, :1, :1].expand_as(attention))
    head = ScaleAndMask(GeM().double())
    plain, attended = head(features), head(features * attention)
    torch.testing.assert_close(attended[0], plain[0], rtol=0, atol=1e-12)
    assert all(map(torch.equal, attended[1], plain[1]))


@pytest.mark.parametrize("reading", LEARNED)
def test_a_dead_cell_gets_the_bias_not_zero(reading: str) -> None:
    module = moved(SpatialAttention(16, reading))
    expected = torch.sigmoid(module.evaluate.bias)
    torch.testing.assert_close(module(some_map(2, 16, 3, 4))[:, 0, 1, 2], expected.expand(2))


@pytest.mark.parametrize("reading", PARAMETER_FREE)
def test_a_dead_map_has_finite_weights_and_gradients(reading: str) -> None:
    features = torch.zeros(2, 3, 1, 4, requires_grad=True)
    attended = features * SpatialAttention(3, reading, "none")(features)
    attended.sum().backward()
    assert attended.abs().max() == 0
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize(("reading", "activation"), PAIRS)
def test_dead_channels_and_cells_give_no_broken_gradient(reading: str, activation: str) -> None:
    features = some_map(2, 16, 3, 4).float().requires_grad_()
    module = moved(SpatialAttention(16, reading, activation)).float()
    module(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in module.parameters()
    )


def test_channel_weights_start_at_one_and_stay_positive() -> None:
    module, features = ChannelAttention(16).double(), some_map(2, 16, 3, 4)
    torch.testing.assert_close(module.weights, torch.ones(16).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(module(features), features, rtol=1e-6, atol=0)
    with torch.no_grad():
        module.theta.copy_(torch.linspace(-40, 40, 16))
    assert (module.weights > 0).all()
    expected = [math.log1p(math.exp(theta)) for theta in module.theta.tolist()]
    for channel, weight in enumerate(expected):
        torch.testing.assert_close(module(features)[:, channel], weight * features[:, channel])


@pytest.mark.parametrize(("reading", "activation"), PAIRS)
def test_gradients(reading: str, activation: str) -> None:
    assert gradients_are_right(moved(SpatialAttention(5, reading, activation)), (2, 5, 2, 3))


def test_gradients_of_the_channel_vector() -> None:
    assert gradients_are_right(moved(ChannelAttention(5)), (2, 5, 2, 3))
