"""How good a ranking is: average precision of this field, mP@k, N-S, and the mean over queries.

AP is Oxford's trapezoid (Philbin et al., CVPR 2007, `compute_ap`), not the rectangular one of
scikit-learn or torchmetrics. Ties are pessimistic: at equal score a negative stands before a
positive, so that neither the order of the database nor a constant descriptor can earn anything.

All follows from the ranks of a query's few labelled images, and a rank is a count of negatives. So
the exact AP among millions of distractors needs no ranking: of a few queries at a time they are
counted.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, Indices, Setting
from dagf.errors import UserError
from dagf.retrieval.search import Descriptors, Rows, similarity_blocks

Scores = NDArray[np.floating]
CUTS = (1, 5, 10)
AT_ONCE = 2**25  # scores in memory


def ranks_of(above: Indices) -> Indices:
    """Return the ranks of images (n,), ascending: the positives above one, and the negatives.

    above: (n,), for each how many negatives score at least as high, in any order.
    """
    return np.arange(len(above)) + np.sort(above)


def negatives_above(scores: Scores, negatives: Scores) -> Indices:
    """Return for each score (n,) how many of the negatives' are at least as high."""
    in_order = np.sort(negatives)
    return len(in_order) - np.searchsorted(in_order, scores, side="left")


def average_precision(ranks: Indices) -> float:
    """AP = 1/(2n) sum_j [p0_j + p1_j], p0_j = j / r_j (1 for r_j = 0), p1_j = (j + 1) / (r_j + 1).

    ranks: (n,), the 0-based ranks of all n positives, ascending. NaN without positives: such a
    query is left out of the mean, not counted as 0.
    """
    if len(ranks) == 0:
        return float("nan")
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    return float((before + (found + 1) / (ranks + 1)).mean() / 2)


def precision_at(ranks: Indices, k: int) -> float:
    """Return the Revisited protocol's P@k: the cut shrinks to the rank of the last positive.

    k_q = min(max(r) + 1, k) and P = #(r + 1 <= k_q) / k_q, so it is *not* precision@k; 0 to 1, NaN
    without positives. ranks: (n,), as in `average_precision`.
    """
    if len(ranks) == 0:
        return float("nan")
    cut = min(int(ranks[-1]) + 1, k)
    return float((ranks < cut).sum() / cut)


def positions(benchmark: Benchmark, scores: Scores) -> pd.DataFrame:
    """Return where every labelled image stands among the negatives: what decides all measures.

    scores: (queries, rows of `database_paths`). One row a query and labelled image: query (its
    index), row (of the database), label, above (the number of negatives that score at least as
    high). Negatives are the rows without a label for this query, distractors included: the same
    under every setting.

    Raises `UserError` where the scores are those of another benchmark (by their shape), or not
    finite.
    """
    _check_shape(benchmark, scores.shape)
    labelled = [query.labelled for query in benchmark.queries]
    above = []
    for line, rows in zip(scores, labelled, strict=True):
        if not np.isfinite(line).all():
            raise UserError(
                "the descriptors hold NaN or infinity: the network is broken or has diverged"
            )
        above.append(negatives_above(line[rows], np.delete(line, rows)))
    labels = (one.labels.items() for one in benchmark.queries)
    columns = {
        "query": np.repeat(np.arange(len(labelled)), [*map(len, labelled)]),
        "row": np.concatenate(labelled),
        "label": [label for items in labels for label, rows in items for _ in rows],
        "above": np.concatenate(above),
    }
    return pd.DataFrame(columns).astype({"label": str})


def stream_positions(benchmark: Benchmark, database: Rows, queries: Descriptors) -> pd.DataFrame:
    """Return the `positions` of unit descriptors, with at most `AT_ONCE` scores in memory.

    database: (N, D), the rows of `database_paths`, in memory or on disk, read once for so many
    queries as N allows. queries: (Q, D). Raises as `positions` does.
    """
    _check_shape(benchmark, (len(queries), len(database)))
    step = max(1, min(len(queries), AT_ONCE // max(1, len(database))))
    scores, parts = np.empty((step, len(database)), np.float32), list[pd.DataFrame]()
    for first in range(0, len(queries), step):
        some = queries[first : first + step]
        for start, block in similarity_blocks(database, some):
            scores[: len(some), start : start + block.shape[1]] = block
        asked = replace(benchmark, queries=benchmark.queries[first : first + step])
        found = positions(asked, scores[: len(some)])
        parts.append(found.assign(query=found["query"] + first))
    return pd.concat(parts, ignore_index=True)


def _check_shape(benchmark: Benchmark, shape: tuple[int, ...]) -> None:
    expected = len(benchmark.queries), len(benchmark.database) + len(benchmark.distractors)
    if shape != expected:
        raise UserError(
            f"{benchmark.name} has {expected[0]} queries and {expected[1]} database rows, but the "
            f"scores are {' x '.join(map(str, shape))}: these are descriptors of another benchmark"
        )


def evaluate(
    benchmark: Benchmark, scores: Scores, settings: Sequence[Setting] | None = None
) -> pd.DataFrame:
    """Return the measures of scores (queries, rows of `database_paths`)."""
    return evaluate_positions(benchmark, positions(benchmark, scores), settings)


def evaluate_positions(
    benchmark: Benchmark, where: pd.DataFrame, settings: Sequence[Setting] | None = None
) -> pd.DataFrame:
    """Return the measures of every query under every setting of the benchmark (or some `settings`).

    where: from `positions` or `stream_positions`. One row a query and setting: setting, query_set,
    query (its index), file, cluster, positives, AP, P@1, P@5, P@10; the measures lie in [0, 1], NaN
    for a query without positives. Where the benchmark has groups of four (`Benchmark.fours`), also
    N-S: how many of a query's four are the first four.
    """
    clusters, fours = benchmark.clusters(), benchmark.fours
    rows = []
    for setting in settings or benchmark.settings:
        above = where[where["label"].isin(setting.positive)].groupby("query")["above"]
        found = {number: ranks_of(one.to_numpy()) for number, one in above}
        for number, query in enumerate(benchmark.queries):
            ranks = found.get(number, np.empty(0, np.int64))
            row = {
                "setting": setting.name,
                "query_set": query.query_set,
                "query": number,
                "file": query.file,
                "cluster": int(clusters[number]),
                "positives": len(ranks),
                "AP": average_precision(ranks),
            }
            row |= {f"P@{k}": precision_at(ranks, k) for k in CUTS}
            rows.append(row | ({"N-S": int((ranks < 4).sum())} if fours else {}))
    return pd.DataFrame(rows)


def means(per_query: pd.DataFrame) -> pd.DataFrame:
    """Return mAP and mP@k in per cent over the queries that have a positive.

    per_query: from `evaluate`; where it has N-S, its mean follows. Indexed by (query_set, setting),
    with the column `queries` (how many count).
    """
    counted = per_query[per_query["positives"] > 0]
    groups = counted.groupby(["query_set", "setting"], sort=False)
    table = 100 * groups[["AP", *(f"P@{k}" for k in CUTS)]].mean().add_prefix("m")
    if "N-S" in counted:
        table = table.assign(**{"N-S": groups["N-S"].mean()})
    return table.assign(queries=groups.size())


def mean_average_precision(
    per_query: pd.DataFrame, setting: str, query_set: str = "query"
) -> float:
    """Return the mAP in per cent of one query set under one setting."""
    found = means(per_query)["mAP"]
    if (query_set, setting) not in found.index:
        raise UserError(f"no query of '{query_set}' has a positive under {setting}: no mAP")
    return float(found[query_set, setting])
