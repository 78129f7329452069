"""What a result table is: how it is kept, the runs behind its rows, and published figures.

Runs stand in the column `RUNS`: a page shows them where the mouse rests on the row, and the files
of a table keep them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dagf import paths
from dagf.errors import UserError
from dagf.files import atomic_path, read_json, write_json, write_text

RUNS = "runs"
# How much of a network was trained, as it stands at the end of a title.
UNTRAINED, HEAD, STAGE = ", untrained", "", " and last stage"
PHOTOGRAPH_TABLES = ("against-rivals", "room", "shelf-ablation")  # those that the overview shows
SIGNS = {  # of our tables; LaTeX has none of them without further packages
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$",
    "→": r"$\to$", "α": r"$\alpha$", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
PUBLISHED = (
    *("method", "dim", "dataset", "protocol", "metric", "value"),
    *("training_set", "source", "caveat", "note"),
)
TOLD = {"training_set": "trained on", "caveat": "caveats", "source": "source"}  # as a table has it


def run_words(runs: Iterable[tuple[int, str]]) -> str:
    """Return (seed, run's ID) as a text, each once; '' if all are of untrained heads (ID '')."""
    return ", ".join(f"{run} (seed {seed})" for seed, run in dict.fromkeys(runs) if run)


def split(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return a table without the column `RUNS`, and its values; none where no row has a run."""
    runs = frame[RUNS].fillna("").tolist() if RUNS in frame else []
    return frame.drop(columns=RUNS, errors="ignore"), runs if any(runs) else []


def one_set(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table without its query sets if it has only `query`, which every benchmark has."""
    return table.drop(columns="query set") if set(table["query set"]) == {"query"} else table


def table_of(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of a record that `keep_table` wrote, with its runs where it has some."""
    frame = pd.DataFrame(record["rows"], columns=record["columns"])
    return frame.assign(**{RUNS: record[RUNS]}) if RUNS in record else frame


def keep_table(
    name: str, frame: pd.DataFrame, title: str, caption: str, **more: str | dict[str, str]
) -> None:
    """Write a result table: `name`.json for later notebooks, `name`.csv, `name`.tex for a paper.

    more: `note` (below the table), `alt` (of its figure), `facts` (name -> value, "What was run").
    """
    plain, runs = split(frame)
    cells = plain.astype(object).where(plain.notna(), None)  # JSON has no NaN
    record: dict[str, Any] = {"title": title, "caption": caption, **more}
    record |= {"columns": [str(column) for column in plain], "rows": cells.to_numpy().tolist()}
    write_json(paths.result("tables", f"{name}.json"), record | ({RUNS: runs} if runs else {}))
    write_text(paths.result("tables", f"{name}.tex"), latex(plain, f"{title}. {caption}"))
    with atomic_path(paths.result("tables", f"{name}.csv")) as path:
        (frame if runs else plain).to_csv(path, index=False)


def latex(table: pd.DataFrame, caption: str) -> str:
    """Return a table environment for a paper (booktabs): floats with two decimals, '' for NaN."""
    style = table.style.hide(axis="index").format(precision=2, na_rep="", escape="latex")
    found = style.format_index(axis=1, escape="latex").to_latex(
        hrules=True,
        column_format="".join("r" if kind.kind in "iuf" else "l" for kind in table.dtypes),
        position_float="centering",
        caption=re.sub(r"([&%$#_])", r"\\\1", caption),
    )
    return "".join(SIGNS.get(sign, sign) for sign in found)


def benchmark_figures() -> pd.DataFrame:
    """Return the figures that `make bench` measured last; none where there is no record.

    Columns: what, figure, wanted; of the cost of heads also head and ratio (to GeM).
    """
    record = paths.root() / paths.SPEED
    figures = read_json(record)["figures"] if record.exists() else []
    return pd.DataFrame(figures, columns=["what", "figure", "wanted", "head", "ratio"])


def read_published() -> pd.DataFrame:
    """Return the figures that others published (data/published.csv), one a row.

    `value` is a number in per cent; all else is text, empty where the source does not say. None of
    it was measured here, and nothing of it may stand in one column with what was.

    Raises `UserError` for a file that is missing or is no such table.
    """
    path = paths.data() / "published.csv"
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)[list(PUBLISHED)]
        return found.astype({"value": float})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is no table of published figures ({error}): get it again with the project"
        ) from error


def published_table(
    published: pd.DataFrame, datasets: Sequence[str], protocols: Sequence[str]
) -> pd.DataFrame:
    """Return published mAP, one row a method, one column a data set and protocol; NaN for none.

    One protocol is not named in the columns. Rows are in the order of the file; beside the figures
    stand what the method was trained on, the caveats and the source.
    """
    maps = published.query("metric == 'mAP' and dataset in @datasets and protocol in @protocols")
    about = ["method", "dim", *TOLD]
    table = maps.pivot_table("value", about, ["dataset", "protocol"], sort=False)
    columns = pd.MultiIndex.from_product([datasets, protocols])
    table = table.reindex(maps.set_index(about).index.unique(), columns=columns)
    names = [" ".join(one) if len(protocols) > 1 else one[0] for one in table.columns]
    table = table.set_axis(names, axis=1).reset_index().rename(columns=TOLD)
    return table[["method", "dim", *names, *TOLD.values()]]
