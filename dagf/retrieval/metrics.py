"""How good is a ranking: average precision of this field, mP@k, and the mean over queries.

AP is Oxford's trapezoid (Philbin et al., CVPR 2007, `compute_ap`), not the rectangular one of scikit-learn
or torchmetrics. Ties are pessimistic: at equal score a negative stands before a positive, so that neither the
order of the database nor a constant descriptor can earn anything.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.benchmarks.protocol import Benchmark, Indices, Setting
from dagf.common import UserError

Scores = NDArray[np.floating]
CUTS = (1, 5, 10)


def positive_ranks(scores: Scores, positives: Indices, junk: Indices) -> Indices:
    """The 0-based ranks of the positives, ascending, in the ranking by falling score without the junk.

    scores: (N,), one for each database row. A positive's rank is the number of positives above it plus the
    number of negatives that score at least as high.

    Raises `UserError` for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise UserError("the scores hold NaN or infinity: the descriptors are broken, extract them again")
    negative = np.ones(len(scores), bool)
    negative[positives] = negative[junk] = False
    above = np.sort(scores[negative])
    wanted = np.sort(scores[positives])[::-1]
    return np.arange(len(wanted)) + (len(above) - np.searchsorted(above, wanted, side="left"))


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

    k_q = min(max(r) + 1, k) and P = #(r + 1 <= k_q) / k_q, so it is *not* precision@k. NaN without positives.
    """
    if len(ranks) == 0:
        return float("nan")
    cut = min(int(ranks[-1]) + 1, k)
    return float((ranks < cut).sum() / cut)


def judge(benchmark: Benchmark, scores: Scores, settings: Sequence[Setting] | None = None) -> pd.DataFrame:
    """Every query judged under every setting of the benchmark.

    scores: (queries, rows of `database_paths`). One row a query and setting: setting, query_set, query (its
    index), file, cluster, positives, AP, P@1, P@5, P@10; the measures lie in [0, 1], NaN for a query without
    positives.

    Raises `UserError` where the scores are those of another benchmark (by their shape), or not finite.
    """
    expected = (len(benchmark.queries), len(benchmark.database) + len(benchmark.distractors))
    if scores.shape != expected:
        raise UserError(
            f"{benchmark.name} has {expected[0]} queries and {expected[1]} database rows, but the scores are "
            f"{' x '.join(map(str, scores.shape))}: these are descriptors of another benchmark"
        )
    clusters = benchmark.clusters()
    rows = []
    for setting in settings or benchmark.settings:
        for number, query in enumerate(benchmark.queries):
            ranks = positive_ranks(scores[number], *query.relevance(setting))
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
                }
            )
    return pd.DataFrame(rows)


def means(judged: pd.DataFrame) -> pd.DataFrame:
    """mAP and mP@k in per cent for each query set and setting, over the queries that have a positive.

    `judged` comes from `judge`; indexed by (query_set, setting), with the column `queries` (how many count).
    """
    counted = judged[judged["positives"] > 0]
    groups = counted.groupby(["query_set", "setting"], sort=False)
    table = 100 * groups[["AP", *(f"P@{k}" for k in CUTS)]].mean()
    table.columns = pd.Index(["mAP", *(f"mP@{k}" for k in CUTS)])
    return table.assign(queries=groups.size())


def mean_average_precision(judged: pd.DataFrame, setting: str, query_set: str = "query") -> float:
    """mAP in per cent of one query set under one setting; a `UserError` where no query has a positive."""
    if (query_set, setting) not in means(judged).index:
        raise UserError(f"no query of the set '{query_set}' has a positive under {setting}: its mAP is undefined")
    return float(means(judged)["mAP"][query_set, setting])
