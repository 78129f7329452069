"""Whitening against numpy, the toolbox line by line, and what it must do to covariances."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.retrieval.search import search
from dagf.retrieval.whitening import Whitened, Whitening, learned_whitening
from dagf.retrieval.whitening import principal_components as components
from tests.fixtures import fails

Array = NDArray[np.float64]
EVERY = np.arange(40).reshape(20, 2)  # 20 matching pairs of 40 rows


def mixed(count: int = 60, size: int = 6, seed: int = 0) -> Array:
    """Descriptors with correlated channels of different spread, away from the origin."""
    chance = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(chance.standard_normal((size, size)))
    spread = chance.standard_normal((count, size)) * np.geomspace(1, 0.1, size)
    return spread @ turn + chance.standard_normal(size)


def turned(whitening: Whitening, descriptors: Array) -> Array:
    """What the whitening makes of descriptors before their length is normalised."""
    return (descriptors - whitening.mean) @ whitening.projection.T


def by_pca(descriptors: Array, dimensions: int | None = None, power: float = 0.5) -> Whitening:
    """As many directions as vary, unless fewer are asked for."""
    count, size = descriptors.shape
    return components(descriptors).whitening(dimensions or min(count - 1, size), power)


def gram(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    return unit @ unit.T


def up_to_sign(found: Array, expected: Array) -> None:
    signs = np.sign((found * expected).sum(1, keepdims=True))
    np.testing.assert_allclose(found, signs * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [7, 4])  # more than dimensions, and fewer
@pytest.mark.parametrize(("dimensions", "power"), [(None, 0.5), (3, 0.0), (2, 0.25), (1, 0.5)])
def test_pca_whitening_is_numpys(count: int, dimensions: int | None, power: float) -> None:
    """So a full whitening makes the covariance the identity."""
    values, kept = mixed(count, 5), dimensions or min(count - 1, 5)
    _, spread, directions = np.linalg.svd(values - values.mean(0), full_matrices=False)
    found = by_pca(values, dimensions, power)
    np.testing.assert_allclose(found.mean, values.mean(0))
    scales = (spread[:kept] ** 2 / (count - 1)) ** -power
    up_to_sign(found.projection, scales[:, None] * directions[:kept])
    white = turned(by_pca(values, dimensions), values)
    np.testing.assert_allclose(white.T @ white / (count - 1), np.eye(kept), atol=1e-9)


def test_learned_whitening_is_the_toolboxs() -> None:
    """cnnimageretrieval's whitenlearn, line by line, with columns as descriptors."""
    values, pairs = mixed(9, 3), np.array([[0, 1], [2, 1], [0, 3], [5, 4], [7, 6]])
    columns, queries, positives = values.T, pairs[:, 0], pairs[:, 1]
    mean = columns[:, queries].mean(axis=1, keepdims=True)
    apart = columns[:, queries] - columns[:, positives]
    first = np.linalg.inv(np.linalg.cholesky(apart @ apart.T / apart.shape[1]))
    rest = first @ (columns - mean)
    eigenvalues, eigenvectors = np.linalg.eig(rest @ rest.T)
    expected = eigenvectors[:, eigenvalues.argsort()[::-1]].T @ first
    found = learned_whitening(values, pairs)
    np.testing.assert_allclose(found.mean, mean[:, 0])
    up_to_sign(found.projection, expected)


def learned(descriptors: Array, dimensions: int | None = None) -> Whitening:
    """Its first rows are a shorter whitening."""
    found = learned_whitening(descriptors, EVERY)
    return Whitening(found.mean, found.projection[:dimensions])


Make = Callable[..., Whitening]
both = pytest.mark.parametrize("make", [by_pca, learned])


@both
def test_whitened_descriptors_are_unit_rows(make: Make) -> None:
    found = make(mixed(), 4)(mixed(30, seed=1).astype(np.float32))
    assert found.dtype == np.float32
    assert found.shape == (30, 4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    mean = make(mixed()).mean
    assert make(mixed())(mean[None]).tolist() == [[0] * 6]  # which has no direction


@both
def test_a_dead_channel_does_no_harm(make: Make) -> None:
    values = mixed()
    dead = np.hstack([values, np.zeros((60, 1))])
    np.testing.assert_allclose(gram(make(dead)(dead)), gram(make(values)(values)), atol=1e-4)


@both
def test_rows_are_whitened_when_they_are_asked_for(make: Make) -> None:
    values, whiten = mixed().astype(np.float16), make(mixed(), 4)
    rows, whole = Whitened(values, whiten), whiten(values)
    assert rows.shape == whole.shape == (60, 4)
    assert len(rows) == 60
    assert np.array_equal(rows[7:20], whole[7:20])
    assert np.array_equal(rows[np.array([3, 59, 3])], whole[[3, 59, 3]])
    _, found = search(rows, whole[:5], 3)
    assert np.array_equal(found, search(whole, whole[:5], 3)[1])


@both
@given(first=st.integers(0, 59), second=st.integers(0, 59))
def test_what_of_a_descriptor_leads_to_another(make: Make, first: int, second: int) -> None:
    """By hand: the whitened cosine is g (x - m), the other's own whitened direction turned back."""
    values, whiten = mixed(), make(mixed(seed=1), 4)
    x, y = (turned(whiten, values[[row]])[0] for row in (first, second))
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    found = whiten.toward(values[first], values[second])
    assert found.shape == (6,)
    assert found @ (values[first] - whiten.mean) == pytest.approx(expected, abs=1e-5)


def test_too_little_to_learn_from_is_refused() -> None:
    for make in by_pca, learned:
        fails("all descriptors are equal: the network has", make, np.tile(mixed(1), (60, 1)))
    says = "5 matching pairs cannot whiten 6 dimensions: give at"
    fails(says, learned_whitening, mixed(), EVERY[:5])
