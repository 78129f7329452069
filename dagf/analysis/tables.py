"""What a result table is: its columns as a page and LaTeX show them, and which trained runs a row was computed from.

Runs stand in the column `RUNS`: a page shows them where the mouse rests on the row, and the files of a table keep them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Column:
    """A column of a table as it is shown."""

    title: str
    cells: list[str]
    numeric: bool


def columns(table: Mapping[str, Any]) -> list[Column]:
    """The columns of a table: floats of a column with equally many decimals, three at most; numbers to the right."""
    made = []
    for i, title in enumerate(table["columns"]):
        values = [row[i] for row in table["rows"]]
        decimals = max(
            (_decimals(value) for value in values if isinstance(value, float)), default=0
        )
        cells = [cell(value, decimals) for value in values]
        made.append(Column(cell(title), cells, all(is_number(text) for text in cells if text)))
    return made


def cell(value: Any, decimals: int = 3) -> str:
    """A value in a table; nothing for nothing."""
    if isinstance(value, float):
        return f"{value:.{decimals}f}".replace("-", "−")
    return "" if value is None else str(value)


def is_number(text: str) -> bool:
    """Whether a table shows `text` as a number, aligned to the right: 3, −1.5, 41.2 %, .41 ± .02, [.38, .42]."""
    return bool(re.fullmatch(r"[—–]|[-+−±≤≥<>~\[(]*[.\d][\d.,:;%±+−()\[\]\s×e–-]*", text.strip()))


def _decimals(value: float) -> int:
    return len(f"{value:.3f}".rstrip("0").partition(".")[2])


def is_table(value: Any) -> bool:
    """Whether a result is a table that the index can show."""
    if not isinstance(value, dict) or not isinstance(value.get("columns"), list):
        return False
    rows, width = value.get("rows"), len(value["columns"])
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == width for row in rows
    )
