"""What a network answers to the test queries, kept on disk beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dagf.datasets.benchmark import Benchmark
from dagf.devices import device
from dagf.files import atomic_path
from dagf.retrieval.metrics import evaluate_positions, stream_positions
from dagf.retrieval.search import Descriptors, Rows
from dagf.study.runs import REMEDY, read_table


@dataclass(frozen=True)
class Results:
    """What an arm answers to the test queries.

    judged: every query under every setting (`dagf.retrieval.metrics.judge`). positions: where each labelled image
    stands (`dagf.retrieval.metrics.positions`), from which the AP of any part of them follows. run: the ID of the
    trained run that answered, '' for an untrained head.
    """

    per_query: pd.DataFrame
    positions: pd.DataFrame
    run: str = ""


def write_results(test: Benchmark, rows: Rows, asked: Descriptors, files: Sequence[Path]) -> None:
    """Judge descriptors, and write positions and judged queries; the second file says that both are there."""
    where = stream_positions(test, rows, asked, device=device())
    for file, frame in zip(files, (where, evaluate_positions(test, where)), strict=True):
        with atomic_path(file) as temporary:
            frame.to_csv(temporary, index=False)


def read_results(test: Benchmark, files: Sequence[Path], run: str) -> Results:
    """What `write_answers` wrote of the trained run `run` ('' for none).

    A `UserError` names a file that is broken, or has not all of its rows.
    """
    kinds = {"keep_default_na": False, "na_values": ["", "nan"]}
    labelled = sum(len(query.labelled) for query in test.queries)
    where = read_table(files[0], ("query", "row", "above"), REMEDY, labelled, **kinds)
    every = len(test.settings) * len(test.queries)
    return Results(
        read_table(files[1], ("query", "positives", "AP"), REMEDY, every, **kinds), where, run
    )
