"""Exact search against a sort of each query's scores."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.retrieval.search import best, search

from .tools import Array, blocks_of, cosines, falling, unit


def corners(count: int, seed: int) -> Array:
    """Unit vectors along an axis: their products are exactly 0 and 1, with many ties."""
    return np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, count)]


@given(st.integers(1, 60), st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
def test_search_is_a_sort_with_lower_rows_first(count: int, k: int, block: int, seed: int) -> None:
    """Scores between 0 and 1, too: what equals the worst kept one must not push it out."""
    database = corners(count, seed)
    halves = unit(database + np.roll(database, 1, axis=0))
    both, queries = np.concatenate([database, halves]), corners(3, seed + 1)
    with blocks_of(block):
        scores, rows = search(both, queries, k)
    assert rows.tolist() == [falling(one)[:k] for one in cosines(queries, both)]
    assert np.array_equal(scores, np.take_along_axis(queries @ both.T, rows, 1))


@pytest.mark.parametrize("ends", [(0, 23), (0, 11, 23), (0, 2, 2, 20, 23)])
def test_the_best_of_parts_are_the_best_of_all(ends: tuple[int, ...]) -> None:
    database, queries = corners(23, 3), corners(4, 4)
    parts = [search(database, queries, 6, *part) for part in pairwise(ends)]
    scores, rows = (np.hstack(part) for part in zip(*parts, strict=True))
    expected = search(database, queries, 6)
    for one, other in zip(best(scores, rows, 6), expected, strict=True):
        assert np.array_equal(one, other)
