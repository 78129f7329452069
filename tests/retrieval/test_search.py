"""Exact search against a sort of each query's scores."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.distributed import Group
from dagf.retrieval.search import search

from .neighbourhoods import Array, blocks_of, unit


def some(count: int, seed: int = 0) -> Array:
    return unit(np.random.default_rng(seed).standard_normal((count, 8)))


def corners(count: int, seed: int) -> Array:
    """Unit vectors along an axis: their products are exactly 0 and 1, with many ties."""
    return np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, count)]


def by_sorting(database: Array, queries: Array, k: int) -> NDArray[np.int64]:
    """The k best rows of each query, one after another; of equal rows the lower one."""
    out = []
    for query in queries:
        scores = [float(query @ row) for row in database]
        order = sorted(range(len(scores)), key=lambda row, scores=scores: (-scores[row], row))
        out.append(order[:k])
    return np.array(out, np.int64).reshape(len(queries), min(k, len(database)))


@given(st.integers(1, 60), st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
def test_search_is_a_sort_with_lower_rows_first(count: int, k: int, block: int, seed: int) -> None:
    """Scores between 0 and 1, too: what equals the worst kept one must not push it out."""
    database = corners(count, seed)
    halves = unit(database + np.roll(database, 1, axis=0))
    both, queries = np.concatenate([database, halves]), corners(3, seed + 1)
    with blocks_of(block):
        scores, rows = search(both, queries, k)
    assert rows.tolist() == by_sorting(both, queries, k).tolist()
    assert np.array_equal(scores, np.take_along_axis(queries @ both.T, rows, 1))


def test_half_precision_on_disk_is_searched_as_it_is(tmp_path: Path) -> None:
    database, queries = some(300).astype(np.float16), some(4, 1)
    np.save(tmp_path / "rows.npy", database)
    with blocks_of(64):
        scores, rows = search(np.load(tmp_path / "rows.npy", mmap_mode="c"), queries, 7)
    assert np.array_equal(rows, by_sorting(database.astype(np.float32), queries, 7))
    assert scores.dtype == np.float32


class Pretended(Group):
    """One of several processes; `gather` gives what all of them found, each by itself."""

    def gather(self, value: object) -> list[object]:
        return PARTS[self.size]


PARTS: dict[int, list[object]] = {}


@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_that_search_together_find_what_one_finds(size: int) -> None:
    database, queries = corners(23, 3), corners(4, 4)
    ends = np.linspace(0, len(database), size + 1).astype(int)
    found = [search(database[a:b], queries, 6) for a, b in itertools.pairwise(ends)]
    PARTS[size] = [(scores, rows + a) for (scores, rows), a in zip(found, ends, strict=False)]
    for rank in range(size):
        scores, rows = search(database, queries, 6, Pretended(rank, size))
        expected = search(database, queries, 6)
        assert np.array_equal(rows, expected[1]) and np.array_equal(scores, expected[0])
