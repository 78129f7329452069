"""From judged queries to the tables and sentences of the reports: means, intervals, contrasts, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.analysis.tables import RUNS, one_set, run_words, traced
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, paired_bootstrap, sign_flip, t_interval, two_way
from dagf.study.study import Study


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
            row[str(setting)] = (
                str(t_interval(values)) if len(values) > 1 else f"{values.iloc[0]:.1f}"
            )
        rows.append(row | {RUNS: run_words(zip(part["seed"], part["run"], strict=True))})
    return traced(rows)


def main_caption(study: Study) -> str:
    """What a reader of the main table must know of it: the score, the images, the budget, the settings."""
    profile, test = study.profile, study.test
    spec, backbone = study.plan().training, profile.backbone_training
    steps = f"{spec.epochs * spec.steps} steps"
    budget = (
        f"for each seed one backbone is trained {backbone.epochs * backbone.steps} steps from nothing under a plain mean, SPoC, "
        f"and each method goes on from it for {steps}, backbone and head"
        if backbone
        else f"{steps} for each"
    )
    words = (
        "mAP (mean average precision) in per cent: 100 where every right image stands before all wrong ones. Mean over "
        "seeds [95 % t-interval]; in the figure dots are seeds, strokes their mean, pale bars the interval, and axes "
        f"do not start at 0. {ranking_words(study)} "
        f"Profile {profile.name}, a small budget: {budget}. A longer training may change the order."
    )
    if len(test.settings) > 1:
        words += (
            " Easy asks for images that show the landmark large, little hidden, little turned and with little clutter, "
            "Hard for the others unless they are hardly recognisable, Medium for both. What shows the query's landmark "
            "and is not asked for counts as neither right nor wrong. Each asks for other images and for more or fewer "
            "of them, so one may be easier to the score than its name; compare within a column."
        )
    return f"{words} {study.caveat}".rstrip()


def ranking_words(study: Study) -> str:
    """What is asked of a method: how many queries, of what, among how many images, how many of which are right."""
    test = study.test
    right = np.mean(
        [count for query in test.queries if (count := len(query.relevance(test.middle)[0]))]
    )
    return (
        f"{len(test.queries)} queries show {len(set(test.clusters()))} different things; every ranking is of "
        f"{len(test.database)} database images and {len(test.distractors)} distractors, of which on "
        f"{test.middle.name} {right:.1f} are right on average."
    )


def ranked(table: pd.DataFrame, setting: str) -> pd.DataFrame:
    """A table of `summary`: the query sets one after the other, in each the best mean under `setting` first."""
    means = table[setting].str.split().str[0].astype(float)
    sets = table["query set"].map(
        {name: place for place, name in enumerate(table["query set"].unique())}
    )
    return table.iloc[np.lexsort((-means, sets))].reset_index(drop=True)


def off_the_shelf_summary(results: pd.DataFrame) -> pd.DataFrame:
    """The same for arms off the shelf (`Study.shelf_table`): one number each, for there is nothing random."""
    return summary(results.assign(seed=0, run="")).drop(columns="seeds")


@dataclass(frozen=True)
class Contrast:
    """One thing minus another on the same queries and seeds, in mAP points, or those of the score that `setting` names.

    joint: the interval over seeds and clusters of queries at once, and `p_joint` of that test (`two_way`). Beside it
    each source of chance alone: over_seeds, the t-interval of the seeds' differences; over_queries, the bootstrap over
    clusters of queries, of the differences averaged over seeds, and `p_queries` of the sign-flip test that flips whole
    clusters. runs: the trained runs of both, in words.
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
    p_joint: float
    p_queries: float
    runs: str = ""

    @property
    def mean(self) -> float:
        """The mean difference."""
        return self.joint.mean

    @property
    def p(self) -> float:
        """The larger of the two p-values; NaN where one of them could not be tested."""
        return float(np.maximum(self.p_joint, self.p_queries))

    @property
    def verdict(self) -> str:
        """'above', 'below' or 'no difference shown': a side is taken only if all three intervals exclude 0."""
        intervals = (self.joint, self.over_seeds, self.over_queries)
        if all(interval.low > 0 for interval in intervals):
            return "above"
        return (
            "below" if all(interval.high < 0 for interval in intervals) else "no difference shown"
        )


def contrast_of(
    differences: pd.DataFrame,
    clusters: NDArray[np.int64],
    what: str,
    minus: str,
    setting: str,
    query_set: str = "query",
    runs: str = "",
) -> Contrast:
    """The contrast of a table of differences (queries x seeds), whose index names the queries in `clusters`."""
    differences = differences.dropna()
    member = clusters[differences.index]
    by_query = differences.mean(axis=1)
    joint, p_joint = two_way(differences, member)
    return Contrast(
        what, minus, setting, query_set, differences.shape[1], len(differences), len(np.unique(member)),
        joint, t_interval(differences.mean(axis=0)), paired_bootstrap(by_query, member),
        p_joint, sign_flip(by_query, member), runs,
    )  # fmt: skip


def contrast(
    study: Study, arm: str, baseline: str, setting: str, query_set: str = "", heads: bool = False
) -> Contrast:
    """`arm` minus `baseline` on a set of test queries (the first, unless named), paired by seed and query."""
    query_set = query_set or study.test.first_set
    apart = differences(study, arm, baseline, setting, query_set, heads)
    titles, runs = (
        (VARIANTS[arm].title, VARIANTS[baseline].title),
        runs_of(study, arm, baseline, heads=heads),
    )
    return contrast_of(apart, study.test.clusters(), *titles, setting, query_set, runs)


def runs_of(study: Study, *arms: str, heads: bool = False) -> str:
    """The trained runs of arms, in words: each arm by its title, then its runs."""
    results = study.evaluate(arms, heads=heads)
    found = {
        arm: run_words((seed, results[arm, seed].run) for seed in study.profile.seeds)
        for arm in arms
    }
    return "; ".join(f"{VARIANTS[arm].title}: {runs}" for arm, runs in found.items() if runs)


def backbone_words(study: Study, seeds: Sequence[int] = ()) -> str:
    """The runs of the backbones under untrained heads, in words; '' where they were trained elsewhere."""
    if not study.profile.backbone_training:
        return ""
    backbones = ((seed, study.backbone_config(seed)) for seed in seeds or study.profile.seeds)
    return (
        f"backbones: {run_words((seed, backbone.id) for seed, backbone in backbones if backbone)}"
    )


def trained_facts(study: Study) -> dict[str, str]:
    """What the trainings of a study cost, backbones and validation trials included, as a fact for `keep_table`."""
    ids = {backbone.id for seed in study.profile.seeds if (backbone := study.backbone_config(seed))}
    for heads in (False, True) if study.profile.heads else (False,):
        ids |= {run.id for run in study.train(heads=heads).values()} | {
            *study.trials(heads=heads).get("run", [])
        }
    minutes = sum(study.store.get(one).record["seconds"] for one in ids) / 60
    return {
        "Trained": f"{len(ids)} runs, {minutes:.0f} minutes of one core from nothing; what is trained is kept"
    }


def sample_words(study: Study, seeds: Sequence[int] = ()) -> str:
    """What a table of test figures is computed over: queries, their groups, seeds."""
    groups, trained = len(set(study.test.clusters())), seeds or study.profile.seeds
    seeded = "1 seed" if len(trained) == 1 else f"{len(trained)} seeds"
    return f"Test split: {len(study.test.queries)} queries in {groups} groups, {seeded}."


def contrast_words(study: Study, seeds: Sequence[int] = ()) -> str:
    """`sample_words`, and what the p of a table of contrasts is: which tests, over what, and how small it can get."""
    least = 2.0 ** (
        1 - min(len(set(study.test.clusters())), 14)
    )  # from 14 groups on `sign_flip` draws its patterns
    return (
        f"{sample_words(study, seeds)} p: the larger of a t-test over seeds and groups at once and a sign-flip test "
        f"over the groups, which cannot be below {least:.4f} here. Verdicts follow from the intervals, not from p."
    )


def differences(
    study: Study, arm: str, baseline: str, setting: str, query_set: str = "", heads: bool = False
) -> pd.DataFrame:
    """`arm` minus `baseline` in AP points, queries (of one set, the first unless named) x seeds."""
    results, query_set = (
        study.evaluate([arm, baseline], heads=heads),
        query_set or study.test.first_set,
    )
    one, other = (
        pd.DataFrame(
            {
                seed: query_points(results[name, seed].per_query, setting, query_set)
                for seed in study.profile.seeds
            }
        )
        for name in (arm, baseline)
    )
    return one - other


def query_points(per_query: pd.DataFrame, setting: str, query_set: str) -> "pd.Series[float]":
    """The AP of each query of a set in points; queries without positives left out."""
    chosen = per_query[
        (per_query["setting"] == setting)
        & (per_query["query_set"] == query_set)
        & (per_query["positives"] > 0)
    ]
    return 100 * chosen.set_index("query")["AP"]


def contrast_table(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """One row a contrast: its query set (where there are several) and setting, its `cells`, verdict and p-value."""
    rows = [
        {"what": one.what, "minus": one.minus, "query set": one.query_set, "setting": one.setting}
        | cells(one, {"verdict": one.verdict})
        | {"p": f"{one.p:.3f}", RUNS: one.runs}
        for one in contrasts
    ]
    return one_set(traced(rows))


def cells(one: Contrast, result: dict[str, str]) -> dict[str, str]:
    """How a table shows a contrast: the difference with its joint 95 % interval, what follows from it in a column
    `result`, and the two intervals beside it."""
    return {
        "difference [95 %]": one.joint.signed,
        **result,
        "over seeds": f"{one.over_seeds.ends}, {one.seeds}",
        "over queries (groups)": f"{one.over_queries.ends}, {one.queries} ({one.clusters})",
    }
