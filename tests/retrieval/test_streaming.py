"""Streamed positions against the matrix of scores, and the memory that they take."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, Query
from dagf.errors import UserError
from dagf.retrieval.metrics import evaluate, evaluate_positions, positions
from dagf.retrieval.streaming import stream_positions

Array = NDArray[np.float32]
CORNERS = np.eye(
    5, dtype=np.float32
)  # their products are exactly 0 and 1, so that there are many ties


def benchmark_of(labels: list[dict[str, list[int]]], size: int, distractors: int) -> Benchmark:
    queries = tuple(
        Query("q", {name: np.array(rows, np.int64) for name, rows in one.items()}) for one in labels
    )
    return Benchmark("any", Path(), ("x",) * size, queries, (Path("y"),) * distractors)


@st.composite
def tied(draw: st.DrawFn) -> tuple[Benchmark, Array, Array]:
    """One to three queries, graded or classic, and descriptors with many equal scores."""
    names = draw(st.sampled_from([("easy", "hard", "junk"), ("ok", "junk")]))
    count, size, distractors = draw(
        st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(0, 9))
    )
    kinds = draw(arrays(np.int64, (count, size), elements=st.integers(0, len(names))))
    labels = [
        {name: np.flatnonzero(row == kind).tolist() for kind, name in enumerate(names)}
        for row in kinds
    ]
    rows, asked = (
        draw(arrays(np.int64, n, elements=st.integers(0, 4))) for n in (size + distractors, count)
    )
    return benchmark_of(labels, size, distractors), CORNERS[rows], CORNERS[asked]


@given(tied(), st.integers(1, 25))
def test_streamed_positions_are_those_of_the_matrix(
    drawn: tuple[Benchmark, Array, Array], block: int
) -> None:
    benchmark, database, queries = drawn
    expected = positions(benchmark, queries @ database.T)
    pd.testing.assert_frame_equal(stream_positions(benchmark, database, queries, block), expected)


def crowd(distractors: int) -> tuple[Benchmark, Array, Array]:
    """Two queries, of which one has labelled rows in both ends of the database, among random distractors."""
    labels = [{"easy": [0, 7], "hard": [3, 39], "junk": [5]}, {"easy": [1], "hard": [], "junk": []}]
    rows = np.random.default_rng(0).standard_normal((40 + distractors, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return benchmark_of(labels, 40, distractors), rows, rows[[0, 1]]


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("block", [7, 64, 10_000])
def test_a_memory_mapped_database_is_judged_as_the_matrix(
    tmp_path: Path, block: int, kind: type
) -> None:
    benchmark, database, queries = crowd(2000)
    np.save(tmp_path / "rows.npy", database.astype(kind))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    streamed = evaluate_positions(benchmark, stream_positions(benchmark, mapped, queries, block))
    expected = evaluate(benchmark, queries @ np.asarray(mapped, np.float32).T)
    pd.testing.assert_frame_equal(streamed, expected)


def test_memory_does_not_grow_with_the_distractors(tmp_path: Path) -> None:
    """Ten times the distractors, the same blocks; the matrix of scores alone would be ten times as large."""
    peaks = []
    for distractors in (20_000, 200_000):
        benchmark, database, queries = crowd(distractors)
        tracemalloc.start()
        stream_positions(benchmark, database, queries, 1024)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_queries_without_labels_and_no_queries() -> None:
    benchmark, database, queries = crowd(10)
    bare = replace(benchmark, queries=(Query("a", {}), benchmark.queries[0]))
    assert stream_positions(bare, database, queries)["query"].tolist() == [1] * 5
    none = replace(benchmark, queries=(Query("a", {}), Query("b", {})))
    assert len(stream_positions(none, database, queries)) == 0
    assert evaluate_positions(none, stream_positions(none, database, queries))["AP"].isna().all()


def test_descriptors_of_another_benchmark_or_broken_ones_are_refused() -> None:
    benchmark, database, queries = crowd(10)
    with pytest.raises(
        UserError, match="any has 2 queries and 50 database rows, but the scores are 2 x 49"
    ):
        stream_positions(benchmark, database[1:], queries)
    with pytest.raises(UserError, match="the database has 16 dimensions and the queries 5"):
        stream_positions(benchmark, database, CORNERS[:2])
    spoilt = database.copy()
    spoilt[45] = np.nan
    with pytest.raises(UserError, match="database: row 45 holds NaN or infinity"):
        stream_positions(benchmark, spoilt, queries, 8)
