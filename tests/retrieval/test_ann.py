"""FAISS indexes against the exact search."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.analysis.scale import recall
from dagf.retrieval import ann
from dagf.retrieval.ann import FEW, SEEN, Index, build_index, index_factory
from dagf.retrieval.search import search

from .tools import Array, clustered


@pytest.fixture(scope="module")
def rows() -> Array:
    return clustered(4000, 400, 8, 0.4)


def small(rows: Array, probed: int = 4) -> Index:
    """An index of 16 lists, of which a query reads one in `probed`, and eight parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ann, "index_factory", lambda count, dimensions: "PCAR8,IVF16,PQ8x4fs")
        patch.setattr(ann, "PROBED", probed)
        return build_index(rows)


@pytest.fixture(scope="module")
def index(rows: Array) -> Index:
    return small(rows)


def test_exact_scores_find_more(rows: Array, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "SHORTLIST", 100)
    queries = rows[::80]
    expected = search(rows, queries, 10)
    coarse, scored = index.search(queries, 10), index.search(queries, 10, rows)
    assert 30 < recall(coarse[1], expected[1]) < recall(scored[1], expected[1])
    assert recall(scored[1], expected[1]) > 90


def test_reading_and_scoring_all_is_exact(rows: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "SHORTLIST", 4000)
    for index in small(rows, probed=1), build_index(rows):  # of few rows it is flat
        (scores, found), exact = index.search(rows[:30], 5, rows), search(rows, rows[:30], 5)
        assert np.array_equal(found, exact[1])
        np.testing.assert_allclose(scores, exact[0], atol=1e-6)


def test_saved_and_mapped_it_answers_the_same(tmp_path: Path, rows: Array, index: Index) -> None:
    index.save(tmp_path / "rows.faiss")
    loaded = Index.load(tmp_path / "rows.faiss")
    assert loaded.faiss.ntotal == len(rows)
    found, expected = (one.search(rows[:50], 10, rows) for one in (loaded, index))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_is_not_found_is_minus_one(rows: Array) -> None:
    """A list holds about 4,000 / 16 rows, so that one of them cannot give 3,000."""
    one_list = small(rows, probed=16)
    for database in (None, rows):
        scores, found = one_list.search(rows[:3], 3000, database)
        short = found < 0
        assert short.any()
        assert np.isneginf(scores[short]).all() and np.isfinite(scores[~short]).all()
        assert all(np.all(line[:-1] <= line[1:]) for line in short)  # at the end


@given(st.integers(1, 10**9), st.sampled_from([32, 128, 200, 256, 512, 1280, 2048, 7]))
def test_defaults_are_what_faiss_can_build(count: int, dimensions: int) -> None:
    factory = index_factory(count, dimensions)
    assert (factory == "Flat") == (count <= FEW)
    if count > FEW:
        components, lists, parts = factory.split(",")
        assert 1 <= int(components.removeprefix("PCAR")) <= min(128, dimensions)
        assert parts == f"PQ{components.removeprefix('PCAR')}x4fs"
        number = int(lists.removeprefix("IVF"))
        assert 2 * count**0.5 < number < 8 * count**0.5
        assert SEEN * number < 3 * count or count < 5 * FEW  # there are rows to learn from
