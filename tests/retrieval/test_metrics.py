"""Measures against slow loops, by hand, and on the published ground truth; streamed or not."""

import random
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dagf.datasets.benchmark import MEDIUM, Benchmark, Query, from_ground_truth
from dagf.retrieval import metrics
from tests.fixtures import fails

from .tools import Array, blocks_of, unit

Rows = NDArray[np.int64]
KINDS = ("easy", "hard", "junk")
# The Revisited protocol's own table: setting -> positive labels, junk labels.
RULES = {
    "Easy": (("easy",), ("junk", "hard")),
    "Medium": (("easy", "hard"), ("junk",)),
    "Hard": (("hard",), ("junk", "easy")),
}
MEASURES = ["AP", "P@1", "P@5", "P@10"]


def rows(*numbers: int) -> Rows:
    return np.array(numbers, np.int64)


def ranked_kinds(scores: Sequence[float], positives: set[int], junk: set[int]) -> list[bool]:
    """Whether each of the ranked list is a positive; no junk, negatives first at equal scores."""
    order = np.lexsort(([row in positives for row in range(len(scores))], -np.array(scores)))
    return [row in positives for row in order.tolist() if row not in junk]


def compute_ap(kinds: list[bool]) -> float:
    """Oxford's compute_ap.cpp, line by line, of a list without junk."""
    old_recall, old_precision, ap = 0.0, 1.0, 0.0
    found, total = 0, sum(kinds)
    for j, positive in enumerate(kinds):
        found += positive
        recall = found / total
        precision = found / (j + 1.0)
        ap += (recall - old_recall) * ((old_precision + precision) / 2.0)
        old_recall, old_precision = recall, precision
    return ap


def slow_precision_at(kinds: list[bool], k: int) -> float:
    """revisitop's compute_map: the cut is the last positive's place where that is before k."""
    places = [place for place, positive in enumerate(kinds, 1) if positive]
    cut = min(places[-1], k)
    return sum(kinds[:cut]) / cut


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[float], set[int], set[int]]:
    """Scores with many ties (whole numbers) and each row's label; at least one positive."""
    labels = draw(st.lists(st.sampled_from("+-j"), min_size=1, max_size=30))
    labels.append("+")
    scores = [float(draw(st.integers(-3, 3))) for _ in labels]
    sets = [{row for row, label in enumerate(labels) if label == kind} for kind in "+j"]
    return scores, sets[0], sets[1]


@given(rankings(), st.integers(1, 12))
def test_average_precision_is_oxfords_and_precision_the_protocols(
    ranking: tuple[list[float], set[int], set[int]], k: int
) -> None:
    scores, positives, junk = np.array(ranking[0]), sorted(ranking[1]), sorted(ranking[2])
    negatives = np.delete(scores, [*positives, *junk])
    ranks = metrics.ranks_of(metrics.negatives_above(scores[positives], negatives))
    kinds = ranked_kinds(*ranking)
    assert ranks.tolist() == np.flatnonzero(kinds).tolist()
    assert abs(metrics.average_precision(ranks) - compute_ap(kinds)) < 1e-12
    assert metrics.precision_at(ranks, k) == slow_precision_at(kinds, k)


QUERIES = (
    Query("a", {"easy": rows(0), "hard": rows(1), "junk": rows(2)}),
    Query("b", {"easy": rows(), "hard": rows(3), "junk": rows()}, query_set="other"),
    Query("c", {"easy": rows(1), "hard": rows(), "junk": rows(0, 4)}),
)
TINY = Benchmark("tiny", Path("images"), tuple("abcde"), QUERIES, (Path("x"),))
SCORES = np.array(
    [
        [0.5, 0.7, 0.9, 0.6, 0.1, 0.0],  # junk 2 is first; hard 1, negative 3, easy 0
        [0.9, 0.8, 0.7, 0.7, 0.1, 0.7],  # hard 3 ties with 2 and with the distractor
        [0.9, 0.5, 0.1, 0.1, 0.8, 0.6],  # the distractor stands before easy 1
    ],
    np.float32,
)


def test_the_three_settings_by_hand() -> None:
    per_query = metrics.evaluate(TINY, SCORES).set_index(["setting", "query"])
    first = 0 / 1 + 1 / 2  # one negative stands before the only positive
    expected = {
        "Easy": [first / 2, np.nan, first / 2],  # 3, 0: hard 1 is junk here
        "Medium": [(1 + 1) / 4 + (1 / 2 + 2 / 3) / 4, (0 / 4 + 1 / 5) / 2, first / 2],
        "Hard": [1.0, (0 / 4 + 1 / 5) / 2, np.nan],  # 1, 3: easy 0 is junk here
    }
    for setting, values in expected.items():
        assert per_query["AP"][setting].tolist() == pytest.approx(values, nan_ok=True)
    at_one = [0, np.nan, 0, 1, 0, 0, 1, 0, np.nan]
    assert per_query["P@1"].tolist() == pytest.approx(at_one, nan_ok=True)
    assert per_query["P@10"]["Medium", 1] == 1 / 5
    assert per_query["positives"].tolist() == [1, 0, 1, 2, 1, 1, 1, 1, 0]
    assert per_query["file"]["Hard", 2] == "c"
    clusters = per_query["cluster"]["Easy"]
    assert clusters[0] == clusters[2] != clusters[1]  # a and c share image 1


def test_means_leave_out_queries_without_positives() -> None:
    per_query = metrics.evaluate(TINY, SCORES)
    table = metrics.means(per_query)
    assert list(table["queries"].items()) == [  # in the order of the ground truth
        (("query", "Easy"), 2),
        (("query", "Medium"), 2),
        (("other", "Medium"), 1),
        (("query", "Hard"), 1),
        (("other", "Hard"), 1),
    ]
    assert table["mAP"]["query", "Easy"] == pytest.approx(25)
    assert table["mAP"]["other", "Hard"] == pytest.approx(10)
    assert table["mP@1"]["query", "Medium"] == pytest.approx(50)
    medium = metrics.mean_average_precision(per_query, "Medium")
    assert medium == pytest.approx(50 * (19 / 24 + 1 / 4))
    assert metrics.mean_average_precision(per_query, "Medium", "other") == pytest.approx(10)
    says = "no query of 'other' has a positive under Easy: no mAP"
    fails(says, metrics.mean_average_precision, per_query, "Easy", "other")


@pytest.mark.parametrize("shape", [(3, 5), (2, 6), (6, 3)])
def test_scores_of_another_benchmark_are_refused(shape: tuple[int, int]) -> None:
    wrong = "tiny has 3 queries and 6 database rows, but the scores are"
    fails(wrong, metrics.positions, TINY, np.zeros(shape))
    queries, database = (np.ones((count, 2), np.float32) for count in shape)
    fails(wrong, metrics.stream_positions, TINY, database, queries)


def test_positions_by_hand() -> None:
    """Negatives: 3, 4 and the distractor; 0, 1, 2, 4 and it; 2, 3 and it."""
    assert metrics.positions(TINY, SCORES).to_dict("list") == {
        "query": [0, 0, 0, 1, 2, 2, 2],
        "row": [0, 1, 2, 3, 1, 0, 4],
        "label": ["easy", "hard", "junk", "hard", "easy", "junk", "junk"],
        "above": [1, 0, 0, 4, 1, 0, 0],
    }
    assert metrics.ranks_of(rows(4, 0)).tolist() == [0, 5]


def test_a_query_without_labels_has_no_positions() -> None:
    bare = replace(TINY, queries=(Query("d", {}), Query("e", {"easy": rows()}), TINY.queries[0]))
    assert metrics.positions(bare, SCORES)["query"].tolist() == [2, 2, 2]
    per_query = metrics.evaluate(bare, SCORES, [MEDIUM])  # nothing of another query's is its own
    assert per_query["positives"].tolist() == [0, 0, 2]
    assert per_query["AP"].isna().tolist() == [True, True, False]
    none = replace(TINY, queries=bare.queries[:2])
    assert metrics.evaluate(none, SCORES[:2])["AP"].isna().all()


@given(
    arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=st.integers(0, 3)),
    arrays(np.int64, 16, elements=st.integers(0, 2)),
    st.integers(1, 25),
)
def test_streamed_positions_are_those_of_the_matrix(kinds: Rows, axes: Rows, block: int) -> None:
    """Descriptors on the axes, in half precision: products are exactly 0 and 1, with many ties."""
    labels = [{name: np.flatnonzero(row == one) for one, name in enumerate(KINDS)} for row in kinds]
    asked = tuple(Query("q", one) for one in labels)
    count, size = kinds.shape
    benchmark = Benchmark("any", Path(), ("x",) * size, asked, (Path("y"),) * (16 - size))
    database, queries = (np.eye(3, dtype=np.float32)[some] for some in (axes, np.arange(count)))
    with blocks_of(block):
        found = metrics.stream_positions(benchmark, database.astype(np.float16), queries)
    pd.testing.assert_frame_equal(found, metrics.positions(benchmark, queries @ database.T))


def crowd(distractors: int) -> tuple[Benchmark, Array, Array]:
    """Two queries, one with labelled rows at both ends of the database; random distractors."""
    labels = {"easy": rows(0, 7), "hard": rows(3, 39), "junk": rows(5)}, {"easy": rows(1)}
    database = unit(np.random.default_rng(0).standard_normal((40 + distractors, 16)))
    queries, more = tuple(Query("q", one) for one in labels), (Path("y"),) * distractors
    return Benchmark("any", Path(), ("x",) * 40, queries, more), database, database[[0, 1]]


def test_memory_does_not_grow_with_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the queries; the matrix of scores would be ten times as large."""
    monkeypatch.setattr(metrics, "AT_ONCE", 1_000_000)
    benchmark, database, queries = crowd(50_000)
    peaks = []
    for times in (10, 100):
        several = replace(benchmark, queries=benchmark.queries * times)
        tracemalloc.start()
        metrics.stream_positions(several, database, np.tile(queries, (times, 1)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_descriptors_are_refused_in_whatever_block_they_are(value: float) -> None:
    benchmark, database, queries = crowd(10)
    database[45] = value
    with blocks_of(8):
        fails("hold NaN or infinity", metrics.stream_positions, benchmark, database, queries)


def fours(groups: int) -> Benchmark:
    """UKBench with some groups: every photograph is a query, its four are right."""
    files = tuple(f"ukbench{number:05d}.jpg" for number in range(4 * groups))
    queries = tuple(Query(file, {"ok": np.arange(4) + n // 4 * 4}) for n, file in enumerate(files))
    return Benchmark("ukbench", Path(), files, queries)


@settings(max_examples=20)
@given(st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_mean_over_groups_of_four_counts_up_to_four(groups: int, chance: random.Random) -> None:
    made = fours(groups)
    scores = [[float(chance.randint(0, 9)) for _ in made.database] for _ in made.queries]
    per_query = metrics.evaluate(made, np.array(scores))
    own = [{*range(query // 4 * 4, query // 4 * 4 + 4)} for query in range(4 * groups)]
    expected = [sum(ranked_kinds(*one, set())[:4]) for one in zip(scores, own, strict=True)]
    assert per_query["N-S"].tolist() == expected
    assert metrics.means(per_query)["N-S"]["query", "Classic"] == pytest.approx(np.mean(expected))
    perfect = np.eye(groups).repeat(4, 0).repeat(4, 1)
    assert metrics.means(metrics.evaluate(made, perfect))["N-S"].tolist() == [4]


def test_other_benchmarks_have_no_such_column() -> None:
    made = fours(2)
    three = Query(made.database[0], {"ok": np.array([0, 1, 2]), "junk": np.array([3])})
    without = Query("elsewhere.jpg", {"ok": np.arange(4)})
    for odd in (three, without):
        other = Benchmark("x", Path(), made.database, (made.queries[0], odd))
        assert not other.fours
        assert "N-S" not in metrics.means(metrics.evaluate(other, np.zeros((2, 8))))


def measured_slowly(scores: Sequence[float], labels: Mapping[str, Any]) -> dict[str, list[float]]:
    """A query's `MEASURES` under each setting; NaN where it has no positive."""
    found = dict.fromkeys(RULES, [np.nan] * len(MEASURES))
    for setting, rule in RULES.items():
        positives, junk = ({int(row) for name in names for row in labels[name]} for names in rule)
        if positives:
            kinds = ranked_kinds(scores, positives, junk)
            cuts = (slow_precision_at(kinds, k) for k in (1, 5, 10))
            found[setting] = [compute_ap(kinds), *cuts]
    return found


@pytest.mark.parametrize(("name", "lift"), [("roxford5k", 0.5), ("rparis6k", 1)])  # tied, good
def test_rankings_of_the_published_sets(name: str, lift: float, shared_data: Path) -> None:
    file = shared_data / "ground_truth" / f"gnd_{name}.json"
    truth = from_ground_truth(name, Path("images"), file)
    scores = np.random.default_rng(7).random((70, len(truth.database)))
    for row, query in zip(scores, truth.queries, strict=True):
        for label, more in (("easy", 0.8), ("hard", 0.4), ("junk", 0.6)):
            row[query.labels[label]] += lift * more
    scores = np.round(scores * 40) / 40 if lift == 0.5 else scores
    per_query = metrics.evaluate(truth, scores).set_index(["setting", "query"])
    for number, query in enumerate(truth.queries):
        for setting, expected in measured_slowly(scores[number].tolist(), query.labels).items():
            found = per_query.loc[(setting, number), MEASURES].astype(float)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
            count = sum(len(query.labels[name]) for name in RULES[setting][0])
            assert per_query["positives"][setting, number] == count
