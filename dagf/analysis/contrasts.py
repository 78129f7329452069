"""From evaluated queries to figures with intervals: means over seeds, contrasts and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.analysis.tables import RUNS, one_set, run_words
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, paired_bootstrap, sign_flip, t_interval, two_way
from dagf.study.study import Study


def spread(values: "pd.Series[float]") -> str:
    """Return the mean over seeds [95 % t-interval]; the number alone where all seeds are alike."""
    return f"{values.iloc[0]:.1f}" if values.nunique() <= 1 else str(t_interval(values))


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Return a row an arm and query set: for each setting the mean mAP over seeds [t-interval].

    results: as `Study.table` gives them; of `Study.off_the_shelf_table`, which has no seeds, the
    numbers alone.
    """
    rows = []
    for (query_set, arm), part in results.groupby(["query_set", "arm"], sort=False):
        row: dict[str, Any] = {"query set": query_set, "method": VARIANTS[str(arm)].title}
        row |= {"seeds": part["seed"].nunique()} if "seed" in part else {}
        for setting, values in part.groupby("setting", sort=False)["mAP"]:
            one = str(t_interval(values)) if len(values) > 1 else f"{values.iloc[0]:.1f}"
            row[str(setting)] = one
        runs = zip(part["seed"], part["run"], strict=True) if "run" in part else ()
        rows.append(row | {RUNS: run_words(runs)})
    return one_set(pd.DataFrame(rows))


def p_text(p: float) -> str:
    """Return a p-value with three decimals; no p is 0."""
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


@dataclass(frozen=True)
class Contrast:
    """One thing minus another on the same queries and seeds, in points of the score `setting`.

    joint: the interval over seeds and clusters of queries at once (`two_way`). Beside it each
    source of chance alone: over_seeds, the t-interval of the seeds' differences; over_queries, the
    bootstrap over clusters of queries, of the differences averaged over seeds. p: the larger one of
    `two_way` and of the sign-flip test that flips whole clusters; NaN where one of them could not
    be tested. runs: the trained runs of both, as text. adjusted: p under Holm; 0 where nothing
    is corrected.
    """

    what: str
    minus: str
    setting: str
    query_set: str
    seeds: int
    queries: int
    clusters: int
    joint: Interval
    over_seeds: Interval
    over_queries: Interval
    p: float
    runs: str = ""
    adjusted: float = 0.0

    @property
    def verdict(self) -> str:
        """'above' or 'below' if all three intervals exclude 0, else 'no difference shown'."""
        intervals = self.joint, self.over_seeds, self.over_queries
        if all(interval.low > 0 for interval in intervals):
            return "above"
        below = all(interval.high < 0 for interval in intervals)
        return "below" if below else "no difference shown"

    @property
    def smallest(self) -> float:
        """The smallest true difference that would have been shown, with a probability of 80 %.

        Of the widest of the three intervals, as each of them must exclude 0.
        """
        return max(one.smallest for one in (self.joint, self.over_seeds, self.over_queries))

    def cells(self, **outcome: str) -> dict[str, str]:
        """Return the cells that show it; `outcome`, what follows from it, after the difference."""
        return {
            "difference [95 %]": self.joint.signed,
            **outcome,
            "over seeds": f"{self.over_seeds.ends}, {self.seeds}",
            "over queries (groups)": f"{self.over_queries.ends}, {self.queries} ({self.clusters})",
            "standard error": f"{self.joint.error:.3f}",
            "p": p_text(self.p),
            "smallest to show": f"{self.smallest:.2f}",
        }


def contrast_of(
    differences: pd.DataFrame,
    clusters: NDArray[np.int64],
    what: str,
    minus: str,
    setting: str,
    query_set: str = "query",
    runs: str = "",
) -> Contrast:
    """Return the contrast of a table of differences (queries x seeds).

    Its index names the queries, which `clusters` assigns to clusters.
    """
    differences = differences.dropna()
    member = clusters[differences.index]
    by_query = differences.mean(axis=1)
    joint, p_joint = two_way(differences, member)
    names = what, minus, setting, query_set
    counts = differences.shape[1], len(differences), len(np.unique(member))
    alone = t_interval(differences.mean(axis=0)), paired_bootstrap(by_query, member)
    p = float(np.maximum(p_joint, sign_flip(by_query, member)))
    return Contrast(*names, *counts, joint, *alone, p, runs)


def points(
    study: Study, arms: Sequence[str], setting: str, query_set: str = "", heads: bool = False
) -> Any:
    """Return the AP of a set of test queries in points, queries x (arm, seed).

    query_set: the first, unless named. Queries without positives are left out.
    """
    found = study.evaluate(arms, heads=heads)
    results = pd.concat({key: one.per_query for key, one in found.items()}, names=["arm", "seed"])
    chosen = results["query_set"] == (query_set or study.test.first_set)
    results = results[chosen & (results["setting"] == setting) & (results["positives"] > 0)]
    return 100 * results.pivot_table("AP", "query", ["arm", "seed"])


def contrast(
    study: Study, arm: str, baseline: str, setting: str, query_set: str = "", heads: bool = False
) -> Contrast:
    """Return `arm` minus `baseline` on a set of test queries, paired by seed and query."""
    query_set = query_set or study.test.first_set
    levels = points(study, (arm, baseline), setting, query_set, heads)
    titles = VARIANTS[arm].title, VARIANTS[baseline].title
    runs = runs_of(study, arm, baseline, heads=heads)
    apart = levels[arm] - levels[baseline]
    return contrast_of(apart, study.test.clusters(), *titles, setting, query_set, runs)


def runs_of(study: Study, *arms: str, heads: bool = False) -> str:
    """Return the trained runs of arms as text: each arm by its title, then its runs."""
    results = study.evaluate(arms, heads=heads)
    found = {
        arm: run_words((seed, results[arm, seed].run) for seed in study.profile.seeds)
        for arm in arms
    }
    return "; ".join(f"{VARIANTS[arm].title}: {runs}" for arm, runs in found.items() if runs)


def contrast_table(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """Return a row a contrast, with its verdict."""
    rows = [
        {"what": one.what, "minus": one.minus, "query set": one.query_set, "setting": one.setting}
        | one.cells(verdict=one.verdict)
        | {RUNS: one.runs}
        for one in contrasts
    ]
    return one_set(pd.DataFrame(rows))


def sample_words(study: Study, seeds: Sequence[int] = ()) -> str:
    """Return what a table of test figures is computed over, and the least p that it can have."""
    groups, count = len(set(study.test.clusters())), len(seeds or study.profile.seeds)
    least = 2.0 ** (1 - min(groups, 14))  # from 14 groups on `sign_flip` draws its patterns
    return (
        f"Test split: {len(study.test.queries)} queries in {groups} groups, {count} "
        f"seed{'s' if count > 1 else ''}; no p can be below {least:.4f}."
    )
