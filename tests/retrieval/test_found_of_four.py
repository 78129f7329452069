"""N-S of UKBench, against a loop down the list; and databases smaller than every cut."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.benchmark import Benchmark, Query
from dagf.retrieval.metrics import evaluate, found_of_four, means, positive_ranks


def fours(groups: int) -> Benchmark:
    """UKBench with some groups: every photograph is a query, its four are right."""
    files = tuple(f"ukbench{number:05d}.jpg" for number in range(4 * groups))
    queries = tuple(Query(file, {"ok": np.arange(4) + n // 4 * 4}) for n, file in enumerate(files))
    return Benchmark("ukbench", Path(), files, queries)


def slow_found(scores: list[int], group: int) -> int:
    """The first four of the list, wrong ones first among equals."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row // 4 == group))
    return sum(row // 4 == group for row in order[:4])


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.integers(0, 5), min_size=4 * n, max_size=4 * n)
    ),
    st.integers(0, 3),
)
def test_found_of_four_is_the_loops(scores: list[int], group: int) -> None:
    group %= len(scores) // 4
    ranks = positive_ranks(np.array(scores, float), np.arange(4) + 4 * group, np.empty(0, np.int64))
    assert found_of_four(ranks) == slow_found(scores, group)


@given(st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_mean_is_shown_for_groups_of_four_and_counts_up_to_four(
    groups: int, random: Random
) -> None:
    made = fours(groups)
    scores = [[random.randint(0, 9) for _ in made.database] for _ in made.queries]
    table = means(evaluate(made, np.array(scores, float)))
    expected = np.mean([slow_found(row, query // 4) for query, row in enumerate(scores)])
    assert table["N-S"]["query", "Classic"] == pytest.approx(expected)
    perfect = np.equal.outer(np.arange(4 * groups) // 4, np.arange(4 * groups) // 4).astype(float)
    assert means(evaluate(made, perfect))["N-S"].tolist() == [4]


def test_other_benchmarks_have_no_such_column() -> None:
    made = fours(2)
    three = Query(made.database[0], {"ok": np.array([0, 1, 2]), "junk": np.array([3])})
    without = Query("elsewhere.jpg", {"ok": np.arange(4)})
    for odd in (three, without):
        other = Benchmark("x", Path(), made.database, (made.queries[0], odd))
        assert not other.fours
        assert "N-S" not in means(evaluate(other, np.zeros((2, 8))))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_database_smaller_than_k(size: int) -> None:
    """P@10 of a perfect ranking of fewer than ten images is 1, and of the worst one what the list holds."""
    made = Benchmark(
        "x",
        Path(),
        tuple("abcd"[:size]),
        (Query("q", {"ok": np.array([0]), "junk": np.array([], np.int64)}),),
    )
    best = means(evaluate(made, -np.arange(size, dtype=float)[None]))
    worst = means(evaluate(made, np.arange(size, dtype=float)[None]))
    assert best[["mP@1", "mP@5", "mP@10"]].to_numpy().tolist() == [[100, 100, 100]]
    assert worst["mP@10"].tolist() == [pytest.approx(100 / size)]
