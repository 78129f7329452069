"""AP and mP@k against the protocol as a loop down the list, on the real ground truth and thousands of rankings."""

from pathlib import Path

import numpy as np
import pytest

from dagf.datasets.benchmark import Benchmark, from_ground_truth
from dagf.datasets.revisited import load_ground_truth
from dagf.retrieval.metrics import CUTS, evaluate, means, positions, subset_ap

ROUNDS = 4  # x 70 queries x 3 settings x 2 sets x 2 kinds of scores = 3,360 judged rankings

# The Revisited protocol's own table: setting -> positive labels, junk labels.
RULES = {
    "Easy": (("easy",), ("junk", "hard")),
    "Medium": (("easy", "hard"), ("junk",)),
    "Hard": (("hard",), ("junk", "easy")),
}


def loop(
    ranking: list[int], positives: set[int], junk: set[int], n: int
) -> tuple[float, dict[int, float]]:
    """AP = 1/(2n) sum_j [p0_j + p1_j], and P@k with its cut at the last positive; both straight down the list."""
    total, rank, found, places = 0.0, 0, 0, []
    for row in ranking:
        if row in junk:
            continue
        if row in positives:
            total += (1.0 if rank == 0 else found / rank) + (found + 1) / (rank + 1)
            found += 1
            places.append(rank)
            if found == n:
                break
        rank += 1
    precision = {}
    for k in CUTS:
        cut = min(max(places) + 1, k)
        precision[k] = sum(place + 1 <= cut for place in places) / cut
    return total / (2 * n), precision


@pytest.fixture(scope="module", params=["roxford5k", "rparis6k"])
def truth(request: pytest.FixtureRequest, shared_data: Path) -> Benchmark:
    file = shared_data / "ground_truth" / f"gnd_{request.param}.pkl"
    return from_ground_truth(request.param, Path("images"), load_ground_truth(file))


@pytest.mark.parametrize("kind", ["distinct", "tied"])
def test_thousands_of_rankings_are_judged_as_by_the_loop(truth: Benchmark, kind: str) -> None:
    chance = np.random.default_rng(7)
    size = len(truth.database)
    compared = 0
    for number in range(ROUNDS):
        scores = chance.random((len(truth.queries), size))
        for row, query in zip(scores, truth.queries, strict=True):  # from chance to nearly perfect
            for label, lift in (("easy", 0.4), ("hard", 0.2), ("junk", 0.3)):
                row[query.labels[label]] += lift * number / 2
        if kind == "tied":
            scores = np.round(scores * 40) / 40
        per_query = evaluate(truth, scores).set_index(["setting", "query"])
        on_device = positions(truth, scores)
        for index, query in enumerate(truth.queries):
            labels = {label: set(rows.tolist()) for label, rows in query.labels.items()}
            mine = on_device[on_device["query"] == index]
            for setting, (right, out) in RULES.items():
                positives = set[int]().union(*(labels[label] for label in right))
                junk = set[int]().union(*(labels[label] for label in out))
                row = per_query.loc[(setting, index)]
                if not positives:
                    assert np.isnan(row["AP"]) and row["positives"] == 0
                    continue
                wrong_first = np.array([row_number in positives for row_number in range(size)])
                ranking = np.lexsort(
                    (wrong_first, -scores[index])
                ).tolist()  # at equal scores negatives first
                ap, precision = loop(ranking, positives, junk, len(positives))
                assert abs(row["AP"] - ap) < 1e-12
                assert all(abs(row[f"P@{k}"] - precision[k]) < 1e-12 for k in CUTS)
                above = mine["above"][mine["label"].isin(right)].to_numpy()
                assert abs(subset_ap(above) - ap) < 1e-12
                compared += 1
    assert compared == ROUNDS * (3 * 70 - (2 if truth.name == "roxford5k" else 0))


def test_a_permuted_database_has_the_same_means(truth: Benchmark) -> None:
    """Ties included: a database sorted by label must earn nothing."""
    chance = np.random.default_rng(3)
    size = len(truth.database)
    scores = np.round(chance.random((70, size)) * 20)
    order = chance.permutation(size)
    place = np.argsort(order)  # where each row went
    moved = Benchmark(
        truth.name,
        truth.root,
        tuple(truth.database[row] for row in order),
        tuple(
            type(query)(
                query.file,
                {label: np.sort(place[rows]) for label, rows in query.labels.items()},
                query.box,
            )
            for query in truth.queries
        ),
    )
    first, second = means(evaluate(truth, scores)), means(evaluate(moved, scores[:, order]))
    np.testing.assert_allclose(first.to_numpy(), second.to_numpy(), rtol=0, atol=1e-12)


def test_junk_is_as_if_it_were_not_in_the_database(truth: Benchmark) -> None:
    """Wherever it stands, first or last."""
    chance = np.random.default_rng(5)
    scores = chance.random((70, len(truth.database)))
    up, down = scores.copy(), scores.copy()
    for index, query in enumerate(truth.queries):
        up[index, query.labels["junk"]] = 2
        down[index, query.labels["junk"]] = -2
    assert means(evaluate(truth, up)).equals(means(evaluate(truth, down)))
