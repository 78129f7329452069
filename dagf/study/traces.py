"""Which trained runs a row of a table was computed from.

They stand in the column `RUNS`: a page shows them where the mouse rests on the row, and the files of a table keep them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

RUNS = "runs"


def run_words(runs: Iterable[tuple[int, str]]) -> str:
    """(seed, run's ID) as a text, each once; '' where all are of untrained heads, whose ID is ''."""
    return ", ".join(f"{run} (seed {seed})" for seed, run in dict.fromkeys(runs) if run)


def traced(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a table, without the column `RUNS` where no row has a run."""
    frame = pd.DataFrame(list(rows))
    return frame if RUNS not in frame or frame[RUNS].any() else frame.drop(columns=RUNS)


def split(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A table without the column `RUNS`, and that column row by row; no texts where there is none."""
    if RUNS not in frame:
        return frame, []
    return frame.drop(columns=RUNS), frame[RUNS].fillna("").tolist()
