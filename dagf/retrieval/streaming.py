"""Exact average precision among millions of distractors: no ranking is kept, and no row scored but in passing.

A ranking is judged by the ranks of its few labelled images, and a rank is a count of negatives
(`dagf.retrieval.metrics.positions`). So the labelled images are scored first; then the database passes by in blocks,
whose negatives above each of those scores are counted.
"""

import numpy as np
import pandas as pd

from dagf.datasets.benchmark import Benchmark, Indices
from dagf.retrieval.metrics import check_rows, position_table
from dagf.retrieval.search import BLOCK, Descriptors, Rows, Scores, similarity_blocks


def stream_positions(
    benchmark: Benchmark,
    database: Rows,
    queries: Descriptors,
    block: int = BLOCK,
    device: str = "cpu",
) -> pd.DataFrame:
    """`dagf.retrieval.metrics.positions` of unit descriptors, without the scores of all rows.

    database: (N, D), the rows of `database_paths`, in memory or on disk. queries: (Q, D). Exact; memory beyond the
    inputs is O(Q * (block + labelled images of a query)).

    Raises `UserError` for descriptors of another benchmark (by their number), and as `similarities` does.
    """
    check_rows(benchmark, (len(queries), len(database)))
    labelled = [query.labelled for query in benchmark.queries]
    query = np.repeat(np.arange(len(labelled)), [*map(len, labelled)])
    row = np.concatenate([np.empty(0, np.int64), *labelled])
    if not len(row):
        return position_table(benchmark, [])
    scores = _scores(database, queries, query, row, block, device)
    ends = np.searchsorted(query, np.arange(len(labelled) + 1))
    above = np.zeros(len(row), np.int64)
    for start, part in similarity_blocks(database, queries, block, device):
        inside = _inside(row, start, part)
        part[query[inside], row[inside] - start] = -np.inf  # no negative, so it stands above none
        part.sort(axis=1)
        for line, first, last in zip(part, ends, ends[1:], strict=False):
            above[first:last] += len(line) - np.searchsorted(line, scores[first:last], side="left")
    return position_table(benchmark, [above])


def _scores(
    database: Rows, queries: Descriptors, query: Indices, row: Indices, block: int, device: str
) -> Scores:
    """The score of each labelled row under its query, from the blocks in which it is met again.

    Not from products of their own: these could differ in the last bit, and a negative of equal score would pass by.
    """
    scores = np.empty(len(row), np.float32)
    for first in np.unique(row // block * block).tolist():
        last = min(first + block, len(database))
        for start, part in similarity_blocks(database, queries, block, device, first, last):
            inside = _inside(row, start, part)
            scores[inside] = part[query[inside], row[inside] - start]
    return scores


def _inside(row: Indices, start: int, part: Scores) -> Indices:
    return np.flatnonzero((row >= start) & (row < start + part.shape[1]))
