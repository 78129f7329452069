"""FAISS indexes against the exact search."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.errors import UserError
from dagf.retrieval.ann import FEW, SEEN, Index, IndexSpec, build_index, index_spec
from dagf.retrieval.search import search

Array = NDArray[np.float32]
SMALL = IndexSpec(lists=16, probes=4, parts=8)


def clustered(count: int, dimensions: int = 8, seed: int = 0) -> Array:
    """Unit rows around count / 10 centres: neighbours that are worth finding."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((max(1, count // 10), dimensions))
    rows = centres[np.arange(count) % len(centres)] + 0.4 * chance.standard_normal(
        (count, dimensions)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recall(found: NDArray[np.int64], expected: NDArray[np.int64]) -> float:
    return float(
        np.mean(
            [
                len(set(a) & set(b)) / len(b)
                for a, b in zip(found.tolist(), expected.tolist(), strict=True)
            ]
        )
    )


@pytest.fixture(scope="module")
def rows() -> Array:
    return clustered(4000)


@pytest.fixture(scope="module")
def index(rows: Array) -> Index:
    return build_index(rows, SMALL)


def test_a_flat_index_is_the_exact_search(rows: Array) -> None:
    flat = build_index(rows[:500])
    assert len(flat) == 500
    scores, found = flat.search(rows[:20], 10)
    expected = search(rows[:500], rows[:20], 10)
    assert np.array_equal(found, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)


def test_ivf_pq_finds_most_neighbours_and_exact_scores_find_more(rows: Array, index: Index) -> None:
    queries = rows[::80]
    expected = search(rows, queries, 10)
    coarse = index.search(queries, 10)
    scored = index.search(queries, 10, rows, shortlist=100)
    assert 0.3 < recall(coarse[1], expected[1]) < recall(scored[1], expected[1])
    assert recall(scored[1], expected[1]) > 0.9
    for query, found, scores in zip(queries, scored[1], scored[0], strict=True):
        np.testing.assert_allclose(scores, [float(row @ query) for row in rows[found]], atol=1e-6)
        assert np.all(np.diff(scores) <= 0)


def test_reading_every_list_and_scoring_every_row_is_exact(rows: Array) -> None:
    made = build_index(rows, IndexSpec(lists=16, probes=16, parts=8))
    found = made.search(rows[:30], 5, rows, shortlist=4000)[1]
    assert np.array_equal(found, search(rows, rows[:30], 5)[1])


def test_built_twice_it_answers_the_same(rows: Array, index: Index) -> None:
    assert np.array_equal(
        build_index(rows, SMALL).search(rows[:50], 10)[1], index.search(rows[:50], 10)[1]
    )


def test_saved_and_mapped_it_answers_the_same(tmp_path: Path, rows: Array, index: Index) -> None:
    index.save(tmp_path / "rows.faiss")
    loaded = Index.load(tmp_path / "rows.faiss")
    assert len(loaded) == len(rows)
    for one, other in zip(
        loaded.search(rows[:50], 10, rows), index.search(rows[:50], 10, rows), strict=True
    ):
        assert np.array_equal(one, other)


def test_what_is_not_found_is_minus_one(rows: Array) -> None:
    """A list holds about 4,000 / 16 rows, so that one of them cannot give 3,000."""
    one_list = build_index(rows, IndexSpec(lists=16, probes=1, parts=8))
    for database in (None, rows):
        scores, found = one_list.search(rows[:3], 3000, database)
        short = found < 0
        assert (
            short.any() and np.isneginf(scores[short]).all() and np.isfinite(scores[~short]).all()
        )
        assert all(np.all(line[:-1] <= line[1:]) for line in short)  # at the end


@given(st.integers(1, 10**9), st.sampled_from([32, 128, 200, 256, 512, 1280, 2048, 7]))
def test_defaults_are_what_faiss_can_build(count: int, dimensions: int) -> None:
    spec = index_spec(count, dimensions)
    assert (spec.lists == 0) == (count <= FEW)
    if spec.lists:
        assert 1 <= spec.parts <= min(128, dimensions)
        assert 1 <= spec.probes <= spec.lists
        assert 2 * count**0.5 < spec.lists < 8 * count**0.5
        assert SEEN * spec.lists < 3 * count or count < 5 * FEW  # there are rows to learn from


@pytest.mark.parametrize("content", [b"", b"no index", None], ids=["empty", "other", "missing"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "rows.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.faiss .*build the index again"):
        Index.load(path)


def test_bad_input_is_refused(rows: Array, index: Index) -> None:
    with pytest.raises(UserError, match="the index has 8 dimensions and the queries 5"):
        index.search(np.eye(5, dtype=np.float32), 3)
    with pytest.raises(UserError, match="queries: row 0 has length 2"):
        index.search(2 * rows[:1], 3)
    with pytest.raises(UserError, match="9 rows are too few for 16 lists"):
        build_index(rows[:9], SMALL)
    spoilt = rows.copy()
    spoilt[1234] = np.nan
    with pytest.raises(UserError, match="database: row 1234 holds NaN"):
        build_index(spoilt)


@pytest.mark.parametrize(
    ("row", "value", "fault"),
    [(1234, np.nan, "holds NaN"), (0, np.inf, "holds NaN"), (1233, 2, "has length 2")],
)
def test_no_row_is_learned_from_before_it_is_checked(
    rows: Array, row: int, value: float, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among those that the lists are learned from (every third here), or not."""
    spoilt = rows[: 3 * SEEN * 16].copy()
    spoilt[row] *= value
    monkeypatch.setattr(
        faiss.IndexPreTransform, "train", lambda *_: pytest.fail("FAISS has seen it")
    )
    with pytest.raises(UserError, match=f"database: row {row} {fault}"):
        build_index(spoilt, SMALL)
