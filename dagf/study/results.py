"""From judged queries to the tables and sentences of the reports: means, intervals, contrasts, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dagf.common import read_json, write_json
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, paired_bootstrap, t_interval
from dagf.study import paths
from dagf.study.experiment import Study


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


def shelf_summary(results: pd.DataFrame) -> pd.DataFrame:
    """The same for arms off the shelf (`Study.shelf_table`): one number each, for there is nothing random."""
    return summary(results.assign(seed=0)).drop(columns="seeds")


@dataclass(frozen=True)
class Contrast:
    """One arm minus another on the same queries and seeds, in mAP points.

    over_seeds: the t-interval of the seeds' differences. over_queries: the paired bootstrap over clusters of
    queries, of the differences averaged over seeds.
    """

    arm: str
    baseline: str
    setting: str
    query_set: str
    seeds: int
    queries: int
    clusters: int
    over_seeds: Interval
    over_queries: Interval

    @property
    def verdict(self) -> str:
        """'above', 'below' or 'no difference shown': a side is taken only if both intervals exclude 0."""
        intervals = (self.over_seeds, self.over_queries)
        if all(interval.low > 0 for interval in intervals):
            return "above"
        return "below" if all(interval.high < 0 for interval in intervals) else "no difference shown"


def contrast_table(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """One row a contrast: who against whom, the difference in mAP points, both 95 % intervals, the verdict."""
    return pd.DataFrame(
        [
            {
                "arm": VARIANTS[one.arm].title,
                "minus": VARIANTS[one.baseline].title,
                "query set": one.query_set,
                "setting": one.setting,
                "mAP": f"{one.over_seeds.mean:+.1f}",
                f"over {one.seeds} seeds": f"[{one.over_seeds.low:+.1f}, {one.over_seeds.high:+.1f}]",
                "over queries (groups)": f"[{one.over_queries.low:+.1f}, {one.over_queries.high:+.1f}], "
                f"{one.queries} ({one.clusters})",
                "DAGF is" if one.arm == "dagf" else "verdict": one.verdict,
            }
            for one in contrasts
        ]
    )


def contrast(study: Study, arm: str, baseline: str, setting: str, query_set: str = "query") -> Contrast:
    """`arm` minus `baseline` on the study's test queries, paired by seed and query."""
    runs = study.train([arm, baseline])
    seeds = study.profile.seeds
    differences = pd.concat(
        [_average_precisions(study, runs, arm, baseline, seed, setting, query_set) for seed in seeds], axis=1
    )
    clusters = study.test.clusters()[differences.index]
    return Contrast(
        arm, baseline, setting, query_set, len(seeds), len(differences), len(np.unique(clusters)),
        t_interval(differences.mean(axis=0)), paired_bootstrap(differences.mean(axis=1), clusters),
    )  # fmt: skip


def _average_precisions(
    study: Study, runs: dict[tuple[str, int], Any], arm: str, baseline: str, seed: int, setting: str, query_set: str
) -> "pd.Series[float]":
    columns = []
    for name in (arm, baseline):
        judged = study.judge_run(runs[name, seed])
        chosen = judged[(judged["setting"] == setting) & (judged["query_set"] == query_set) & (judged["positives"] > 0)]
        columns.append(100 * chosen.set_index("query")["AP"])
    return columns[0] - columns[1]


def keep_table(name: str, frame: pd.DataFrame, title: str, caption: str, **words: str | dict[str, str]) -> None:
    """Leave a table for the index and for later notebooks: `name`.json with its words, `name`.csv with its values.

    words: `note` (below the table), `alt` (of its figure), `facts` (name -> value, shown under "What was run").
    """
    record = {"title": title, "caption": caption, **words}
    write_json(paths.table(f"{name}.json"), record | _plain(frame))
    with paths.table(f"{name}.csv").open("w", encoding="utf-8") as stream:
        frame.to_csv(stream, index=False)


def _plain(frame: pd.DataFrame) -> dict[str, Any]:
    cells = frame.astype(object).where(frame.notna(), None)  # JSON has no NaN
    return {"columns": [str(column) for column in frame.columns], "rows": cells.to_numpy().tolist()}


def photograph_tables(names: Sequence[str] = ("main", "shelf", "contrast")) -> list[dict[str, Any]]:
    """The kept tables that were measured on photographs: title, caption, columns, rows, note."""
    folder = paths.reports() / "photographs"
    return [read_json(file) for file in sorted(folder.glob("*.json")) if file.stem.rpartition(".")[2] in names]
