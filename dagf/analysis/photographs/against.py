"""DAGF on photographs against what it must beat: the GeM that held-out instances choose, and GeM off the shelf."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from dagf.analysis.contrasts import Contrast, contrast_of, contrast_table
from dagf.analysis.photographs.trials import (
    AS_IT_IS,
    Method,
    gem_candidates,
    trained_asked,
    trained_methods,
)
from dagf.analysis.tables import run_words
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, paired_bootstrap
from dagf.study.runs import Run
from dagf.study.study import Study

GEM_OFF_THE_SHELF = "GeM off the shelf"
CHOSEN = "chosen GeM"  # of {trained, not} x {whitened, not}, by the held-out instances
SINGLE = {"above": "above this GeM alone", "below": "below this GeM alone"}


def against_gem(study: Study, arm: str = "dagf") -> tuple[pd.DataFrame, str]:
    """A trained arm, as it is and whitened, minus the chosen GeM (`gem_candidates`) and minus GeM off the shelf.

    Paired by seed and query, with the mean mAP of both sides. Only a verdict that both GeMs share counts; one on a
    single GeM says that it is. Beside the table, in words: what is better and worse than both, and `badly_chosen`.
    """
    (plain, *_), chosen = gem_candidates(study)
    (pair,) = trained_methods(study, [arm])
    others = {f"{CHOSEN} ({named(chosen)})": chosen} | (
        {GEM_OFF_THE_SHELF: plain} if plain is not chosen else {}
    )
    runs, found, levels, verdicts = (
        head_runs(study, ("gem", arm)),
        list[Contrast](),
        list[str](),
        list[str](),
    )
    outcome: dict[str, list[str]] = {"above": [], "below": []}
    for query_set, rows in study.test.query_sets.items():
        for method in pair:
            both = [
                replace(_contrast(study, method, minus, query_set, runs), minus=name)
                for name, minus in others.items()
            ]
            found += both
            levels += [
                f"{_level(method, rows):.1f} − {_level(minus, rows):.1f}"
                for minus in others.values()
            ]
            agreed = len({one.verdict for one in both}) == 1
            verdicts += [
                one.verdict if agreed else SINGLE.get(one.verdict, one.verdict) for one in both
            ]
            if agreed and both[0].verdict in outcome:
                outcome[both[0].verdict].append(f"{named(method)} on {query_set}")
    table = contrast_table(found).drop(columns="setting").assign(verdict=verdicts)
    table.insert(list(table.columns).index("difference [95 %]"), "mAP", levels)
    words = (
        f"{word.capitalize()} both GeMs: {'; '.join(what) or 'DAGF on no query set'}."
        for word, what in outcome.items()
    )
    return table, " ".join(words) + badly_chosen(study)


def badly_chosen(study: Study) -> str:
    """A sentence for each query set on which the GeM of the held-out instances is below GeM off the shelf."""
    (plain, *_), chosen = gem_candidates(study)
    levels = {
        name: (_level(chosen, rows), _level(plain, rows))
        for name, rows in study.test.query_sets.items()
    }
    return "".join(
        f" On {name} the held-out instances chose badly: the GeM that they chose has {one:.1f} mAP there, GeM off the "
        f"shelf {off_the_shelf:.1f}, so to be above the first is no win."
        for name, (one, off_the_shelf) in levels.items()
        if one < off_the_shelf
    )


def named(method: Method) -> str:
    """A method with its whitening, in words."""
    return (
        method.title
        if method.whitening == AS_IT_IS
        else f"{method.title}, whitened to {method.whitening}"
    )


def head_runs(study: Study, arms: Sequence[str]) -> dict[str, str]:
    """The runs of swept heads, in words, by the title of their arm."""
    return {
        VARIANTS[arm].title: run_words(
            (seed, of.id) for seed, of in seeds.items() if isinstance(of, Run)
        )
        for arm, seeds in trained_asked(study, arms).items()
    }


def _contrast(
    study: Study, method: Method, minus: Method, query_set: str, known: Mapping[str, str]
) -> Contrast:
    rows = study.test.query_sets[query_set]
    apart = method.points(rows) - minus.points(rows)
    runs = "; ".join(
        f"{one.title}: {known[one.title]}" for one in (method, minus) if known.get(one.title)
    )
    clusters, setting = study.test.clusters(), study.test.middle.name
    return contrast_of(apart, clusters, named(method), named(minus), setting, query_set, runs)


def _level(method: Method, rows: Sequence[int]) -> float:
    """The mAP in per cent of the queries `rows`, mean over seeds."""
    return float(method.points(rows).mean().mean())


def gems_of(study: Study) -> dict[str, Method]:
    """What others stand beside: GeM off the shelf, and the chosen GeM if that is another one."""
    (plain, *_), chosen = gem_candidates(study)
    return {GEM_OFF_THE_SHELF: plain} | ({CHOSEN: chosen} if chosen is not plain else {})


def sides(study: Study, methods: Sequence[Method]) -> str:
    """In words which methods are above and which below both GeMs, by the intervals over test instances alone."""
    gems, found = list(gems_of(study).values()), {"Above": list[str](), "Below": list[str]()}
    for method in methods:
        if any(same(method, gem) for gem in gems):
            continue
        for query_set, rows in study.test.query_sets.items():
            apart = [difference(study, method, gem, rows) for gem in gems]
            if all(one.low > 0 for one in apart):
                found["Above"].append(f"{named(method)} on {query_set}")
            elif all(one.high < 0 for one in apart):
                found["Below"].append(f"{named(method)} on {query_set}")
    words = (f"{side} both GeMs: {'; '.join(what) or 'nothing'}." for side, what in found.items())
    return f"By the intervals over instances alone: {' '.join(words)}"


def same(one: Method, other: Method) -> bool:
    """Whether two descriptors are one: the same head under the same whitening."""
    return (one.title, one.whitening) == (other.title, other.whitening)


def difference(study: Study, one: Method, other: Method, rows: Sequence[int]) -> Interval:
    """The mean difference in mAP points, with its 95 % bootstrap interval over the test instances."""
    apart = (one.points(rows) - other.points(rows)).dropna().mean(axis=1)
    return paired_bootstrap(apart, study.test.clusters()[apart.index])
