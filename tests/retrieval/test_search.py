import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.distributed import Group
from dagf.errors import UserError
from dagf.retrieval.search import check_descriptors, search, search_together, similarities

Array = NDArray[np.float32]


def unit(count: int, dimensions: int = 8, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).standard_normal((count, dimensions))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def corners(count: int, seed: int) -> Array:
    """Unit vectors along an axis: their products are exactly 0 and 1, so that there are many ties."""
    return np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, count)]


def by_sorting(database: Array, queries: Array, k: int) -> NDArray[np.int64]:
    """The k best rows of each query, one query and one row after another; of equal rows the lower one."""
    out = []
    for query in queries:
        scores = [float(query @ row) for row in database]
        out.append(
            sorted(range(len(scores)), key=lambda row, scores=scores: (-scores[row], row))[:k]
        )
    return np.array(out, np.int64).reshape(len(queries), min(k, len(database)))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
def test_search_is_a_sort_with_ties_to_the_lower_row(
    count: int, k: int, chunk: int, seed: int
) -> None:
    database, queries = corners(count, seed), corners(3, seed + 1)
    scores, rows = search(database, queries, k, chunk)
    assert rows.tolist() == by_sorting(database, queries, k).tolist()
    assert np.array_equal(scores, np.take_along_axis(queries @ database.T, rows, 1))


@pytest.mark.parametrize("chunk", [1, 7, 100, 499, 500, 65536])
def test_chunks_do_not_matter(chunk: int) -> None:
    database, queries = unit(500), unit(9, seed=1)
    scores, rows = search(database, queries, 20, chunk)
    assert rows.dtype == np.int64
    assert np.array_equal(rows, by_sorting(database, queries, 20))
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ database.T, rows, 1), atol=1e-6)


def test_a_database_smaller_than_k_gives_all_its_rows() -> None:
    scores, rows = search(unit(3), unit(2, seed=1), 10)
    assert scores.shape == (2, 3)
    assert np.sort(rows, 1).tolist() == [[0, 1, 2]] * 2


def test_a_row_finds_itself() -> None:
    database = unit(200)
    scores, rows = search(database, database, 1)
    assert rows[:, 0].tolist() == list(range(200))
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_similarities_are_cosines() -> None:
    database, queries = unit(5), unit(3, seed=1)
    expected = [
        [sum(float(a) * float(b) for a, b in zip(q, row, strict=True)) for row in database]
        for q in queries
    ]
    np.testing.assert_allclose(similarities(database, queries), expected, atol=1e-6)


def spoilt(row: int, value: float) -> Array:
    values = unit(50)
    values[row] *= value
    return values


@pytest.mark.parametrize("chunk", [8, 65536])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_rows_are_named(value: float, chunk: int) -> None:
    with pytest.raises(UserError, match="database: row 37 holds NaN or infinity"):
        search(spoilt(37, value), unit(2), 5, chunk)
    with pytest.raises(UserError, match="queries: row 3 holds NaN or infinity"):
        search(unit(50), spoilt(3, value), 5, chunk)


@pytest.mark.parametrize("chunk", [8, 65536])
def test_rows_of_another_length_are_named(chunk: int) -> None:
    with pytest.raises(UserError, match=r"database: row 37 has length 0\.500; L2-normalise"):
        search(spoilt(37, 0.5), unit(2), 5, chunk)
    with pytest.raises(UserError, match=r"queries: row 3 has length 0\.000; L2-normalise"):
        search(unit(50), spoilt(3, 0), 5, chunk)


def test_other_dimensions_are_another_model() -> None:
    for compare in (similarities, lambda database, queries: search(database, queries, 5)):
        with pytest.raises(
            UserError, match="8 dimensions and the queries 4: they come from different models"
        ):
            compare(unit(5), unit(5, 4))


def test_what_half_precision_does_to_a_length_is_let_pass() -> None:
    check_descriptors(unit(50, 512).astype(np.float16).astype(np.float32))
    check_descriptors(np.empty((0, 8), np.float32))


# --- blocks, half precision, several processes ------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 9), st.integers(0, 99))
def test_many_small_blocks_with_ties_are_a_sort(count: int, k: int, block: int, seed: int) -> None:
    """Scores between 0 and 1, too: what equals the worst kept one must not push it out."""
    database = corners(count, seed)
    halves = database + np.roll(database, 1, axis=0)
    halves = (halves / np.linalg.norm(halves, axis=1, keepdims=True)).astype(np.float32)
    both = np.concatenate([database, halves])
    queries = corners(3, seed + 1)
    assert search(both, queries, k, block)[1].tolist() == by_sorting(both, queries, k).tolist()


def test_half_precision_on_disk_is_searched_as_it_is(tmp_path: Path) -> None:
    database = unit(300).astype(np.float16)
    np.save(tmp_path / "rows.npy", database)
    scores, rows = search(np.load(tmp_path / "rows.npy", mmap_mode="r"), unit(4, seed=1), 7, 64)
    assert np.array_equal(rows, by_sorting(database.astype(np.float32), unit(4, seed=1), 7))
    assert scores.dtype == np.float32


class Pretended(Group):
    """One of several processes; `gather` gives what all of them found, each by itself."""

    def gather(self, value: object) -> list[object]:
        return PARTS[self.size]


PARTS: dict[int, list[object]] = {}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_processes_that_search_together_find_what_one_finds(size: int) -> None:
    database, queries = corners(23, 3), corners(4, 4)
    ends = np.linspace(0, len(database), size + 1).astype(int)
    found = [search(database[a:b], queries, 6) for a, b in itertools.pairwise(ends)]
    PARTS[size] = [(scores, rows + a) for (scores, rows), a in zip(found, ends, strict=False)]
    for rank in range(size):
        scores, rows = search_together(database, queries, 6, Pretended(rank, size))
        expected = search(database, queries, 6)
        assert np.array_equal(rows, expected[1]) and np.array_equal(scores, expected[0])
