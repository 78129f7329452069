"""From judged queries to the tables and sentences of the reports: means, intervals, contrasts, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.common import read_json, write_json, write_text
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, paired_bootstrap, sign_flip, t_interval, t_test
from dagf.study import paths
from dagf.study.experiment import Study
from dagf.study.latex import tabular


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and query set: for each setting the mean mAP over seeds and its 95 % t-interval.

    results: as `Study.table` gives them. The column `seeds` says how many there are.
    """
    rows = []
    for (query_set, arm), part in results.groupby(["query_set", "arm"], sort=False):
        row: dict[str, Any] = {
            "query set": query_set,
            "method": VARIANTS[str(arm)].title,
            "seeds": part["seed"].nunique(),
        }
        for setting, values in part.groupby("setting", sort=False)["mAP"]:
            row[str(setting)] = str(t_interval(values)) if len(values) > 1 else f"{values.iloc[0]:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def ranked(table: pd.DataFrame, setting: str) -> pd.DataFrame:
    """A table of `summary`, the best mean under `setting` first."""
    means = table[setting].str.split().str[0].astype(float)
    return table.loc[means.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


def shelf_summary(results: pd.DataFrame) -> pd.DataFrame:
    """The same for arms off the shelf (`Study.shelf_table`): one number each, for there is nothing random."""
    return summary(results.assign(seed=0)).drop(columns="seeds")


@dataclass(frozen=True)
class Contrast:
    """One thing minus another on the same queries and seeds, in mAP points (or what `unit` says).

    over_seeds: the t-interval of the seeds' differences, and `p_seeds` of the t-test. over_queries: the bootstrap over
    clusters of queries, of the differences averaged over seeds, and `p_queries` of the sign-flip test that flips
    whole clusters.
    """

    what: str
    minus: str
    setting: str
    query_set: str
    seeds: int
    queries: int
    clusters: int
    over_seeds: Interval
    over_queries: Interval
    p_seeds: float
    p_queries: float

    @property
    def mean(self) -> float:
        """The mean difference."""
        return self.over_seeds.mean

    @property
    def p(self) -> float:
        """The larger of the two p-values: a difference must be beyond the chance of seeds and of queries.

        NaN where one of them could not be tested.
        """
        return float(np.maximum(self.p_seeds, self.p_queries))

    @property
    def verdict(self) -> str:
        """'above', 'below' or 'no difference shown': a side is taken only if both intervals exclude 0."""
        intervals = (self.over_seeds, self.over_queries)
        if all(interval.low > 0 for interval in intervals):
            return "above"
        return "below" if all(interval.high < 0 for interval in intervals) else "no difference shown"


def contrast_of(
    differences: pd.DataFrame,
    clusters: NDArray[np.int64],
    what: str,
    minus: str,
    setting: str,
    query_set: str = "query",
) -> Contrast:
    """The contrast of a table of differences (queries x seeds), whose index names the queries in `clusters`."""
    differences = differences.dropna()
    member = clusters[differences.index]
    by_seed, by_query = differences.mean(axis=0), differences.mean(axis=1)
    return Contrast(
        what, minus, setting, query_set, differences.shape[1], len(differences), len(np.unique(member)),
        t_interval(by_seed), paired_bootstrap(by_query, member), t_test(by_seed), sign_flip(by_query, member),
    )  # fmt: skip


def contrast(
    study: Study, arm: str, baseline: str, setting: str, query_set: str = "query", sweep: bool = False
) -> Contrast:
    """`arm` minus `baseline` on the study's test queries, paired by seed and query."""
    answers = study.answered([arm, baseline], sweep=sweep)
    points = {
        name: pd.DataFrame(
            {seed: query_points(answers[name, seed].judged, setting, query_set) for seed in study.profile.seeds}
        )
        for name in (arm, baseline)
    }
    names = VARIANTS[arm].title, VARIANTS[baseline].title
    return contrast_of(points[arm] - points[baseline], study.test.clusters(), *names, setting, query_set)


def query_points(judged: pd.DataFrame, setting: str, query_set: str = "query") -> "pd.Series[float]":
    """The AP of each query in points; queries without positives left out."""
    chosen = judged[(judged["setting"] == setting) & (judged["query_set"] == query_set) & (judged["positives"] > 0)]
    return 100 * chosen.set_index("query")["AP"]


def contrast_table(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """One row a contrast: the difference in mAP points, both 95 % intervals, the p-value, the verdict."""
    rows = [
        {
            "what": one.what,
            "minus": one.minus,
            "query set": one.query_set,
            "setting": one.setting,
            "mAP": f"{one.mean:+.1f}",
            f"over {one.seeds} seeds": f"[{one.over_seeds.low:+.1f}, {one.over_seeds.high:+.1f}]",
            "over queries (groups)": f"[{one.over_queries.low:+.1f}, {one.over_queries.high:+.1f}], "
            f"{one.queries} ({one.clusters})",
            "p": f"{one.p:.3f}",
            "verdict": one.verdict,
        }
        for one in contrasts
    ]
    table = pd.DataFrame(rows)
    return table.drop(columns="query set") if {one.query_set for one in contrasts} == {"query"} else table


def keep_table(name: str, frame: pd.DataFrame, title: str, caption: str, **words: str | dict[str, str]) -> None:
    """Leave a table: `name`.json with its words, for the index and later notebooks, `name`.csv with its values, and
    `name`.tex for a paper.

    words: `note` (below the table), `alt` (of its figure), `facts` (name -> value, shown under "What was run").
    """
    record = {"title": title, "caption": caption, **words} | _plain(frame)
    write_json(paths.table(f"{name}.json"), record)
    write_text(paths.table(f"{name}.tex"), tabular(record))
    with paths.table(f"{name}.csv").open("w", encoding="utf-8") as stream:
        frame.to_csv(stream, index=False)


def _plain(frame: pd.DataFrame) -> dict[str, Any]:
    cells = frame.astype(object).where(frame.notna(), None)  # JSON has no NaN
    return {"columns": [str(column) for column in frame.columns], "rows": cells.to_numpy().tolist()}


def photograph_tables(names: Sequence[str] = ("main", "shelf", "contrast")) -> list[dict[str, Any]]:
    """The kept tables that were measured on photographs: title, caption, columns, rows, note."""
    folder = paths.reports() / "photographs"
    return [read_json(file) for file in sorted(folder.glob("*.json")) if file.stem.rpartition(".")[2] in names]
