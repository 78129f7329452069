import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dagf.model.attention import ACTIVATIONS, READINGS, ChannelAttention, SpatialAttention
from dagf.model.pooling import GeM
from dagf.model.scale_mask import ScaleAndMask
from tests.model.modules import numbers, some_map, stirred

Array = NDArray[np.float64]
LEARNED = [name for name, reading in READINGS.items() if reading.learned]
PAIRS = [pair for pair in product(READINGS, ACTIVATIONS) if pair not in product(LEARNED, ["none"])]


def evaluator_scores(features: Array, p: dict[str, Array]) -> Array:
    g = features.mean((1, 2))
    q = p["relate.weight"] @ np.tanh(p["squeeze.weight"] @ g + p["squeeze.bias"])
    return np.einsum("c,cij->ij", q, features) / math.sqrt(len(g)) + p["bias"]


def gram_scores(features: Array, p: dict[str, Array]) -> Array:
    rows = [row.flatten() / (np.linalg.norm(row) or 1.0) for row in features]
    warmth = np.exp(p["log_temperature"])
    relation = np.array([[np.exp(a @ b / warmth) for b in rows] for a in rows])
    relation /= relation.sum(1, keepdims=True)
    v = relation @ features.mean((1, 2))
    return np.einsum("c,cij->ij", v, features) / math.sqrt(len(v)) + p["bias"]


def gate_scores(features: Array, p: dict[str, Array]) -> Array:
    hidden = np.maximum(p["squeeze.weight"] @ features.mean((1, 2)), 0)
    s = 1 / (1 + np.exp(-p["excite.weight"] @ hidden))
    return np.einsum("c,cij->ij", p["readout"], s[:, None, None] * features) + p["bias"]


def norm_weights(features: Array, _: dict[str, Array]) -> Array:
    return np.sqrt((features**2).sum(0) + 1e-10)


def crow_weights(features: Array, _: dict[str, Array]) -> Array:
    total = features.sum(0)
    return np.sqrt(total / np.sqrt((total**2).sum()))


ORACLES = {
    "evaluator": evaluator_scores,
    "drawn": evaluator_scores,
    "gram": gram_scores,
    "gate": gate_scores,
    "norm": norm_weights,
    "crow": crow_weights,
}


def weights_of(scores: Array, activation: str) -> Array:
    if activation == "none":
        return scores
    if activation in ("sigmoid", "sharp"):
        return 1 / (1 + np.exp(-scores * {"sigmoid": 1, "sharp": 8}[activation]))
    if activation == "softplus":
        return np.log1p(np.exp(scores))
    return np.exp(scores) / np.exp(scores).mean()


@pytest.mark.parametrize(("reading", "activation"), PAIRS)
def test_the_weights_are_those_of_the_formula(reading: str, activation: str) -> None:
    features = some_map(2, 16, 3, 4)
    module = stirred(SpatialAttention(16, reading, activation)).double()
    found = module(features)
    assert found.shape == (2, 1, 3, 4)
    for image, weights in zip(features.numpy(), found.detach().numpy(), strict=True):
        expected = weights_of(ORACLES[reading](image, numbers(module.evaluate)), activation)
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
    head = ScaleAndMask(GeM().double(), (1, 2, 3), "max", "max")
    plain, attended = head(features), head(features * attention)
    torch.testing.assert_close(attended[0], plain[0], rtol=0, atol=1e-12)
    assert all(map(torch.equal, attended[1], plain[1]))


def test_a_drawn_evaluator_tells_cells_apart_at_once() -> None:
    attention = SpatialAttention(16, "drawn").double()(some_map(2, 16, 6, 5) + 0.01)
    assert len(attention.unique()) == attention.numel()


@pytest.mark.parametrize("alive", [0, 1])
@pytest.mark.parametrize(("reading", "activation"), PAIRS)
def test_dead_channels_cells_and_maps_are_fine(reading: str, activation: str, alive: int) -> None:
    features = (alive * some_map(2, 16, 3, 4).float()).requires_grad_()
    module = stirred(SpatialAttention(16, reading, activation))
    weights = module(features)
    weights.sum().backward()
    dead = features.detach().sum(1) == 0
    if reading in LEARNED and activation == "sigmoid":  # the bias, not zero
        expected = torch.sigmoid(module.evaluate.bias).expand(int(dead.sum()))
        torch.testing.assert_close(weights[:, 0][dead], expected)
    for value in (features, *module.parameters()):
        assert value.grad is not None and value.grad.isfinite().all()


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
