"""Exact average precision among millions of distractors: no ranking is kept, and no row scored but in passing.

A ranking is judged by the ranks of its few labelled images, and a rank is a count of negatives
(`dagf.retrieval.metrics.positions`). So the labelled images are scored first; then the database passes by in blocks,
whose negatives are counted between those scores.
"""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dagf.benchmarks.protocol import Benchmark, Indices
from dagf.retrieval.metrics import check_rows, position_table
from dagf.retrieval.search import BLOCK, Descriptors, Rows, similarity_blocks


def stream_positions(
    benchmark: Benchmark, database: Rows, queries: Descriptors, block: int = BLOCK, device: str = "cpu"
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
    order = np.lexsort((scores, query))  # query by query, rising
    number = np.arange(len(row)) - np.searchsorted(query, query)
    steps = np.full((len(labelled), number.max() + 1), np.inf, np.float32)
    steps[query, number] = scores[order]
    reached = np.zeros((len(labelled), steps.shape[1] + 1), np.int64)  # how many negatives reach just so many steps
    for start, part in similarity_blocks(database, queries, block, device):
        inside = _inside(row, start, part)
        part[query[inside], row[inside] - start] = -torch.inf  # no negative, so it reaches none
        reached += _count(torch.from_numpy(steps).to(device), part)
    above = np.empty(len(row), np.int64)
    above[order] = reached[:, ::-1].cumsum(1)[:, ::-1][query, number + 1]
    return position_table(benchmark, [above])


def _scores(
    database: Rows, queries: Descriptors, query: Indices, row: Indices, block: int, device: str
) -> NDArray[np.float32]:
    """The score of each labelled row under its query, from the blocks in which it is met again.

    Not from products of their own: these could differ in the last bit, and a negative of equal score would pass by.
    """
    scores = np.empty(len(row), np.float32)
    for first in np.unique(row // block * block).tolist():
        last = min(first + block, len(database))
        for start, part in similarity_blocks(database, queries, block, device, first, last):
            inside = _inside(row, start, part)
            scores[inside] = part[query[inside], row[inside] - start].cpu().numpy()
    return scores


def _inside(row: Indices, start: int, part: Tensor) -> Indices:
    return np.flatnonzero((row >= start) & (row < start + part.shape[1]))


def _count(steps: Tensor, part: Tensor) -> NDArray[np.int64]:
    """How many scores of `part` (Q, n) reach exactly 0, 1, ... P of their query's rising `steps` (Q, P): (Q, P + 1)."""
    queries, bins = len(steps), steps.shape[1] + 1
    reached = torch.searchsorted(steps, part, right=True)
    reached += torch.arange(queries, device=part.device)[:, None] * bins
    return torch.bincount(reached.flatten(), minlength=queries * bins).view(queries, bins).cpu().numpy()
