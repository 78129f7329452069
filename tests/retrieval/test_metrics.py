import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dagf.datasets.benchmark import EASY, HARD, MEDIUM, Benchmark, Query, from_ground_truth
from dagf.datasets.revisited import load_ground_truth
from dagf.errors import UserError
from dagf.retrieval.metrics import (
    average_precision,
    evaluate,
    mean_average_precision,
    means,
    positions,
    positive_ranks,
    precision_at,
    subset_ap,
)

Rows = NDArray[np.int64]


def rows(*numbers: int) -> Rows:
    return np.array(numbers, np.int64)


def ranked_kinds(scores: Sequence[float], positives: set[int], junk: set[int]) -> list[bool]:
    """Whether each item of the ranked list is a positive, junk removed, negatives first at equal scores."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row in positives))
    return [row in positives for row in order if row not in junk]


def compute_ap(scores: Sequence[float], positives: set[int], junk: set[int]) -> float:
    """Oxford's compute_ap.cpp, line by line."""
    old_recall, old_precision, ap = 0.0, 1.0, 0.0
    found = 0
    for j, positive in enumerate(ranked_kinds(scores, positives, junk)):
        found += positive
        recall = found / len(positives)
        precision = found / (j + 1.0)
        ap += (recall - old_recall) * ((old_precision + precision) / 2.0)
        old_recall, old_precision = recall, precision
    return ap


def slow_precision_at(
    scores: Sequence[float], positives: set[int], junk: set[int], k: int
) -> float:
    """revisitop's compute_map: the cut is the last positive's place (from 1) where that is before k."""
    kinds = ranked_kinds(scores, positives, junk)
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


def ranks_of(scores: Sequence[float], positives: set[int], junk: set[int]) -> Rows:
    return positive_ranks(np.array(scores), rows(*sorted(positives)), rows(*sorted(junk)))


@given(rankings())
def test_average_precision_is_oxfords(ranking: tuple[list[float], set[int], set[int]]) -> None:
    ranks = ranks_of(*ranking)
    assert ranks.tolist() == [
        rank for rank, positive in enumerate(ranked_kinds(*ranking)) if positive
    ]
    assert abs(average_precision(ranks) - compute_ap(*ranking)) < 1e-12


@given(rankings(), st.integers(1, 12))
def test_precision_at_is_the_protocols(
    ranking: tuple[list[float], set[int], set[int]], k: int
) -> None:
    assert precision_at(ranks_of(*ranking), k) == slow_precision_at(*ranking, k)


@given(rankings(), st.randoms(use_true_random=False))
def test_the_order_of_the_database_does_not_matter(
    ranking: tuple[list[float], set[int], set[int]], chance: random.Random
) -> None:
    scores, positives, junk = ranking
    order = list(range(len(scores)))
    chance.shuffle(order)
    moved = [{order.index(row) for row in some} for some in (positives, junk)]
    assert ranks_of([scores[row] for row in order], *moved).tolist() == ranks_of(*ranking).tolist()


@given(rankings())
def test_junk_and_a_rising_map_of_the_scores_do_not_matter(
    ranking: tuple[list[float], set[int], set[int]],
) -> None:
    scores, positives, junk = ranking
    without = [99.0 if row in junk else 3 * score - 1 for row, score in enumerate(scores)]
    assert ranks_of(without, positives, junk).tolist() == ranks_of(*ranking).tolist()


@given(rankings())
def test_a_constant_descriptor_earns_the_least(
    ranking: tuple[list[float], set[int], set[int]],
) -> None:
    scores, positives, junk = ranking
    negatives = len(scores) - len(positives) - len(junk)
    ranks = ranks_of([0.5] * len(scores), positives, junk)
    assert ranks.tolist() == list(range(negatives, negatives + len(positives)))
    assert average_precision(ranks) <= average_precision(ranks_of(*ranking)) + 1e-12


def test_average_precision_by_hand() -> None:
    assert average_precision(rows(0, 1, 2)) == 1.0
    assert average_precision(rows(1)) == pytest.approx((0 / 1 + 1 / 2) / 2)
    # places 1, 3 and 6: (1 + 1)/2, (1/2 + 2/3)/2, (2/5 + 3/6)/2, each a third of the recall
    assert average_precision(rows(0, 2, 5)) == pytest.approx((1 + 7 / 12 + 9 / 20) / 3)
    assert np.isnan(average_precision(rows()))


def test_precision_by_hand() -> None:
    assert precision_at(rows(0, 2, 5), 1) == 1.0
    assert precision_at(rows(0, 2, 5), 5) == 2 / 5
    assert precision_at(rows(0, 2, 5), 10) == 3 / 6  # not 3 / 10: cut at the last positive
    assert precision_at(rows(3), 2) == 0.0
    assert np.isnan(precision_at(rows(), 5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    scores = np.array([0.1, 0.2, value])
    with pytest.raises(UserError, match="NaN or infinity"):
        positive_ranks(scores, rows(0), rows(2))  # in the junk as well


# --- a whole benchmark ------------------------------------------------------------------------------------------

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
    per_query = evaluate(TINY, SCORES).set_index(["setting", "query"])
    expected = {
        ("Easy", 0): (0 / 1 + 1 / 2) / 2,  # 3, 0: hard 1 is junk here
        ("Medium", 0): (1 + 1) / 4 + (1 / 2 + 2 / 3) / 4,
        ("Hard", 0): 1.0,  # 1, 3: easy 0 is junk here
        ("Easy", 1): np.nan,
        ("Medium", 1): (0 / 4 + 1 / 5) / 2,
        ("Hard", 1): (0 / 4 + 1 / 5) / 2,
        ("Easy", 2): (0 / 1 + 1 / 2) / 2,
        ("Medium", 2): (0 / 1 + 1 / 2) / 2,
        ("Hard", 2): np.nan,
    }
    for key, value in expected.items():
        assert per_query["AP"][key] == pytest.approx(value, nan_ok=True), key
    assert per_query["P@1"].tolist() == pytest.approx(
        [0, np.nan, 0, 1, 0, 0, 1, 0, np.nan], nan_ok=True
    )
    assert per_query["P@10"]["Medium", 1] == 1 / 5
    assert per_query["positives"].tolist() == [1, 0, 1, 2, 1, 1, 1, 1, 0]
    assert per_query["file"]["Hard", 2] == "c"
    clusters = per_query["cluster"]["Easy"]
    assert clusters[0] == clusters[2] != clusters[1]  # a and c share image 1


def test_means_leave_out_queries_without_positives() -> None:
    per_query = evaluate(TINY, SCORES)
    table = means(per_query)
    assert table["queries"].to_dict() == {
        ("query", "Easy"): 2,
        ("query", "Medium"): 2,
        ("other", "Medium"): 1,
        ("query", "Hard"): 1,
        ("other", "Hard"): 1,
    }
    assert table["mAP"]["query", "Easy"] == pytest.approx(25)
    assert table["mAP"]["other", "Hard"] == pytest.approx(10)
    assert table["mP@1"]["query", "Medium"] == pytest.approx(50)
    assert mean_average_precision(per_query, "Medium") == pytest.approx(50 * (19 / 24 + 1 / 4))
    assert mean_average_precision(per_query, "Medium", "other") == pytest.approx(10)


def test_means_keep_the_order_of_sets_and_settings() -> None:
    """Tables show them as the ground truth has them, whatever the alphabet says."""
    order = [
        ("query", "Easy"),
        ("query", "Medium"),
        ("other", "Medium"),
        ("query", "Hard"),
        ("other", "Hard"),
    ]
    assert means(evaluate(TINY, SCORES)).index.tolist() == order


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(
        UserError,
        match="no query of the set 'other' has a positive under Easy: its mAP is undefined",
    ):
        mean_average_precision(evaluate(TINY, SCORES), "Easy", "other")


def test_some_settings_only() -> None:
    assert set(evaluate(TINY, SCORES, [HARD])["setting"]) == {"Hard"}


@pytest.mark.parametrize("shape", [(3, 5), (2, 6), (6, 3), (18,)])
def test_scores_of_another_benchmark_are_refused(shape: tuple[int, ...]) -> None:
    for look in (evaluate, positions):
        with pytest.raises(
            UserError, match="tiny has 3 queries and 6 database rows, but the scores are"
        ):
            look(TINY, np.zeros(shape))


def test_broken_scores_are_refused() -> None:
    for look in (evaluate, positions):
        with pytest.raises(UserError, match="extract them again"):
            look(TINY, np.where(np.eye(3, 6, dtype=bool), np.nan, SCORES))


# --- any part of the labelled images ----------------------------------------------------------------------------


def assert_positions_give_the_same_ap(benchmark: Benchmark, scores: NDArray[np.floating]) -> None:
    found, per_query = (
        positions(benchmark, scores),
        evaluate(benchmark, scores).set_index(["setting", "query"]),
    )
    for setting in benchmark.settings:
        for number in range(len(benchmark.queries)):
            wanted = (found["query"] == number) & found["label"].isin(setting.positive)
            ap = subset_ap(found["above"][wanted].to_numpy())
            assert ap == pytest.approx(
                per_query["AP"][setting.name, number], abs=1e-12, rel=0, nan_ok=True
            )


@st.composite
def benchmarks(draw: st.DrawFn) -> tuple[Benchmark, NDArray[np.float64]]:
    """One to three queries under the graded or the classic protocol, and scores with many ties."""
    names = draw(st.sampled_from([("easy", "hard", "junk"), ("ok", "junk")]))
    count, size, distractors = draw(
        st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(0, 4))
    )
    kinds = draw(arrays(np.int64, (count, size), elements=st.integers(0, len(names))))
    queries = tuple(
        Query("q", {name: np.flatnonzero(row == kind) for kind, name in enumerate(names)})
        for row in kinds
    )
    scores = draw(arrays(np.int64, (count, size + distractors), elements=st.integers(-2, 2)))
    return Benchmark(
        "any", Path(), ("x",) * size, queries, (Path("y"),) * distractors
    ), scores.astype(float)


@given(benchmarks())
def test_every_setting_follows_from_the_positions(
    drawn: tuple[Benchmark, NDArray[np.float64]],
) -> None:
    assert_positions_give_the_same_ap(*drawn)


def test_positions_by_hand() -> None:
    """Negatives: 3, 4 and the distractor; 0, 1, 2, 4 and it; 2, 3 and it."""
    assert positions(TINY, SCORES).to_dict("list") == {
        "query": [0, 0, 0, 1, 2, 2, 2],
        "row": [0, 1, 2, 3, 1, 0, 4],
        "label": ["easy", "hard", "junk", "hard", "easy", "junk", "junk"],
        "above": [1, 0, 0, 4, 1, 0, 0],
    }
    assert subset_ap(rows(4, 0)) == subset_ap(rows(0, 4)) == average_precision(rows(0, 5))
    assert np.isnan(subset_ap(rows()))


def test_a_query_without_labels_has_no_positions() -> None:
    bare = replace(TINY, queries=(Query("d", {}), Query("e", {"easy": rows()}), TINY.queries[0]))
    assert positions(bare, SCORES)["query"].tolist() == [2, 2, 2]
    per_query = evaluate(
        bare, SCORES, [MEDIUM]
    )  # and nothing of another query's is taken for its own
    assert per_query["positives"].tolist() == [0, 0, 2]
    assert per_query["AP"].isna().tolist() == [True, True, False]


# --- the published ground truth ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oxford(shared_data: Path) -> Benchmark:
    truth = load_ground_truth(shared_data / "ground_truth" / "gnd_roxford5k.pkl")
    return from_ground_truth("roxford5k", Path("images"), truth)


@pytest.mark.parametrize("levels", [0, 12], ids=["distinct", "tied"])
def test_random_rankings_of_roxford_are_judged_as_by_the_loop(
    oxford: Benchmark, levels: int
) -> None:
    chance = np.random.default_rng(levels)
    scores = chance.random((70, 4993))
    scores = np.floor(scores * levels) if levels else scores
    assert_positions_give_the_same_ap(oxford, scores)
    per_query = evaluate(oxford, scores).set_index(["setting", "query"])
    assert len(per_query) == 3 * 70
    for setting in (EASY, MEDIUM, HARD):
        for number, query in enumerate(oxford.queries):
            positives, junk = (set(some.tolist()) for some in query.relevance(setting))
            found = per_query["AP"][setting.name, number]
            if positives:
                assert abs(found - compute_ap(scores[number].tolist(), positives, junk)) < 1e-12
            else:
                assert np.isnan(found)


def test_two_queries_of_roxford_have_no_easy_positive(oxford: Benchmark) -> None:
    per_query = evaluate(oxford, np.random.default_rng(0).random((70, 4993)))
    easy = per_query[per_query["setting"] == "Easy"]
    assert easy["query"][easy["positives"] == 0].tolist() == [11, 66]
    assert means(per_query)["queries"].to_dict() == {
        ("query", "Easy"): 68,
        ("query", "Medium"): 70,
        ("query", "Hard"): 70,
    }


def test_distractors_are_negatives(oxford: Benchmark) -> None:
    """1,000 distractors above everything push the first positive of a perfect ranking to rank 1,000."""
    larger = replace(oxford, distractors=tuple(Path(f"{number}.jpg") for number in range(1000)))
    scores = np.zeros((70, 5993))
    scores[:, 4993:] = 2
    for number, query in enumerate(oxford.queries):
        scores[number, query.relevance(MEDIUM)[0]] = 1
    expected = [np.arange(1000, 1000 + len(query.relevance(MEDIUM)[0])) for query in oxford.queries]
    assert evaluate(larger, scores, [MEDIUM])["AP"].tolist() == [
        average_precision(ranks) for ranks in expected
    ]
    assert evaluate(oxford, scores[:, :4993], [MEDIUM])["AP"].eq(1).all()
