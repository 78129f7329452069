"""How good is a ranking: average precision of this field, mP@k, N-S, and the mean over queries.

AP is Oxford's trapezoid (Philbin et al., CVPR 2007, `compute_ap`), not the rectangular one of scikit-learn
or torchmetrics. Ties are pessimistic: at equal score a negative stands before a positive, so that neither the
order of the database nor a constant descriptor can earn anything.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, Indices, Setting
from dagf.errors import UserError

Scores = NDArray[np.floating]
CUTS = (1, 5, 10)


def positive_ranks(scores: Scores, positives: Indices, junk: Indices) -> Indices:
    """The 0-based ranks of the positives, ascending, in the ranking by falling score without the junk.

    scores: (N,), one for each database row. A positive's rank is the number of positives above it plus the
    number of negatives that score at least as high.

    Raises `UserError` for scores that are not finite.
    """
    negative = np.ones(len(scores), bool)
    negative[positives] = negative[junk] = False
    return _ranks(_negatives_above(scores, negative, positives))


def _negatives_above(scores: Scores, negative: NDArray[np.bool_], rows: Indices) -> Indices:
    if not np.isfinite(scores).all():
        raise UserError(
            "the scores hold NaN or infinity: the descriptors are broken, extract them again"
        )
    others = np.sort(scores[negative])
    return len(others) - np.searchsorted(others, scores[rows], side="left")


def _ranks(above: Indices) -> Indices:
    return np.arange(len(above)) + np.sort(above)


def average_precision(ranks: Indices) -> float:
    """AP = 1/(2n) sum_j [p0_j + p1_j], p0_j = j / r_j (1 where r_j = 0), p1_j = (j + 1) / (r_j + 1).

    ranks: (n,), the 0-based ranks of all n positives, ascending. NaN without positives: such a query is
    left out of the mean, not counted as 0.
    """
    if len(ranks) == 0:
        return float("nan")
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    return float((before + (found + 1) / (ranks + 1)).mean() / 2)


def precision_at(ranks: Indices, k: int) -> float:
    """The Revisited protocol's P@k: the cut shrinks to the rank of the last positive.

    k_q = min(max(r) + 1, k) and P = #(r + 1 <= k_q) / k_q, so it is *not* precision@k; 0 to 1, NaN without positives.
    ranks: (n,), those of the positives from 0 on, in order, junk taken out.
    """
    if len(ranks) == 0:
        return float("nan")
    cut = min(int(ranks[-1]) + 1, k)
    return float((ranks < cut).sum() / cut)


def found_of_four(ranks: Indices) -> int:
    """UKBench's score of one query, 0 to 4: how many of its four positives, itself among them, are the first four.

    ranks: (4,), as in `precision_at`.
    """
    return int((ranks < 4).sum())


def evaluate(
    benchmark: Benchmark, scores: Scores, settings: Sequence[Setting] | None = None
) -> pd.DataFrame:
    """`judge_positions` of scores (queries, rows of `database_paths`).

    Raises `UserError` where the scores are those of another benchmark (by their shape), or not finite.
    """
    return evaluate_positions(benchmark, positions(benchmark, scores), settings)


def evaluate_positions(
    benchmark: Benchmark, where: pd.DataFrame, settings: Sequence[Setting] | None = None
) -> pd.DataFrame:
    """Every query judged under every setting of the benchmark.

    where: from `positions`, or from `dagf.retrieval.streaming.stream_positions`. One row a query and setting: setting,
    query_set, query (its index), file, cluster, positives, AP, P@1, P@5, P@10; the measures lie in [0, 1], NaN for a
    query without positives. A database smaller than k is no special case (`precision_at`). Where the benchmark has
    groups of four (`Benchmark.fours`), also N-S, 0 to 4.
    """
    clusters = benchmark.clusters()
    labels = dict(list(where.groupby("query")))
    fours, rows = benchmark.fours, []
    for setting in settings or benchmark.settings:
        for number, query in enumerate(benchmark.queries):
            found = labels.get(number, where[:0])
            ranks = _ranks(found["above"][found["label"].isin(setting.positive)].to_numpy(np.int64))
            rows.append(
                {
                    "setting": setting.name,
                    "query_set": query.query_set,
                    "query": number,
                    "file": query.file,
                    "cluster": int(clusters[number]),
                    "positives": len(ranks),
                    "AP": average_precision(ranks),
                    **{f"P@{k}": precision_at(ranks, k) for k in CUTS},
                    **({"N-S": found_of_four(ranks)} if fours else {}),
                }
            )
    return pd.DataFrame(rows)


def check_rows(benchmark: Benchmark, shape: tuple[int, ...]) -> None:
    """Raise `UserError` unless scores of `shape` are those of a benchmark's queries and rows, distractors included."""
    expected = len(benchmark.queries), len(benchmark.database) + len(benchmark.distractors)
    if shape != expected:
        raise UserError(
            f"{benchmark.name} has {expected[0]} queries and {expected[1]} database rows, but the scores are "
            f"{' x '.join(map(str, shape))}: these are descriptors of another benchmark"
        )


def positions(benchmark: Benchmark, scores: Scores) -> pd.DataFrame:
    """Where every labelled image stands among the negatives: what `judge_positions` judges all or some of them by.

    scores: (queries, rows of `database_paths`). One row a query and labelled image: query (its index), row
    (of the database), label, above (the number of negatives that score at least as high). Negatives are the
    rows without a label for this query, distractors included: the same under every setting.

    Raises `UserError` where the scores are those of another benchmark (by their shape), or not finite.
    """
    check_rows(benchmark, scores.shape)
    above = []
    for number, query in enumerate(benchmark.queries):
        rows = query.labelled
        negative = np.ones(scores.shape[1], bool)
        negative[rows] = False
        above.append(_negatives_above(scores[number], negative, rows))
    return position_table(benchmark, above)


def position_table(benchmark: Benchmark, above: Sequence[Indices]) -> pd.DataFrame:
    """The table of `positions` from its last column: for each query the values at its labelled images, in order."""
    queries = benchmark.queries
    labels = [label for query in queries for label, rows in query.labels.items() for _ in rows]
    columns = {
        "query": np.repeat(np.arange(len(queries)), [len(query.labelled) for query in queries]),
        "row": np.concatenate([np.empty(0, np.int64), *(query.labelled for query in queries)]),
        "label": np.array(labels, object),
        "above": np.concatenate([np.empty(0, np.int64), *above]),
    }
    return pd.DataFrame(columns)


def subset_ap(above: Indices) -> float:
    """AP of some labelled images as the positives, all other labelled images being junk.

    above: (n,), the column of `positions` at these images of one query, in any order. Of the positives in
    falling order of score the j-th has rank j + above_j. NaN without positives, as in `average_precision`.
    """
    return average_precision(_ranks(above))


def means(per_query: pd.DataFrame) -> pd.DataFrame:
    """mAP and mP@k in per cent for each query set and setting, over the queries that have a positive.

    Where `judged` has N-S, its mean follows (at most 4). `judged` comes from `judge`; indexed by (query_set, setting),
    with the column `queries` (how many count).
    """
    counted = per_query[per_query["positives"] > 0]
    groups = counted.groupby(["query_set", "setting"], sort=False)
    table = 100 * groups[["AP", *(f"P@{k}" for k in CUTS)]].mean()
    table.columns = pd.Index(["mAP", *(f"mP@{k}" for k in CUTS)])
    if "N-S" in counted:
        table = table.assign(**{"N-S": groups["N-S"].mean()})
    return table.assign(queries=groups.size())


def mean_average_precision(
    per_query: pd.DataFrame, setting: str, query_set: str = "query"
) -> float:
    """mAP in per cent of one query set under one setting; a `UserError` where no query has a positive."""
    found = means(per_query)["mAP"]
    if (query_set, setting) not in found.index:
        raise UserError(
            f"no query of the set '{query_set}' has a positive under {setting}: its mAP is undefined"
        )
    return float(found[query_set, setting])
