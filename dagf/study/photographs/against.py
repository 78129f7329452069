"""DAGF on photographs against what it must beat: the best GeM that held-out instances choose, and GeM off the shelf."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from dagf.model.variants import VARIANTS
from dagf.study.analysis.results import Contrast, contrast_of, contrast_table
from dagf.study.analysis.tables import run_words
from dagf.study.experiment import Study
from dagf.study.photographs.trials import AS_IT_IS, Method, gem_candidates, trained_asked, trained_methods
from dagf.study.runs import Run


def against_gem(study: Study, arm: str = "dagf") -> pd.DataFrame:
    """A trained arm, as it is and whitened, minus the best GeM (`gem_candidates`) and minus GeM off the shelf.

    Paired by seed and query, with the mean mAP of both sides.
    """
    (plain, *_), best = gem_candidates(study)
    (pair,) = trained_methods(study, [arm])
    others = {f"best GeM: {_name(best)}": best} | ({_name(plain): plain} if plain is not best else {})
    runs, found, levels = head_runs(study, ("gem", arm)), list[Contrast](), list[str]()
    for query_set, rows in study.test.query_sets.items():
        for name, minus in others.items():
            for method in pair:
                found.append(replace(_contrast(study, method, minus, query_set, runs), minus=name))
                levels.append(f"{_level(method, rows):.1f} − {_level(minus, rows):.1f}")
    table = contrast_table(found)
    table.insert(list(table.columns).index("difference [95 %]"), "mAP", levels)
    return table


def badly_chosen(study: Study) -> str:
    """A sentence for each query set on which the best GeM of the held-out instances is below GeM off the shelf."""
    (plain, *_), best = gem_candidates(study)
    levels = {name: (_level(best, rows), _level(plain, rows)) for name, rows in study.test.query_sets.items()}
    return "".join(
        f" On {name} the held-out instances chose badly: the GeM that they chose has {chosen:.1f} mAP there, GeM off "
        f"the shelf {shelf:.1f}, so to be above the first is no win."
        for name, (chosen, shelf) in levels.items()
        if chosen < shelf
    )


def head_runs(study: Study, arms: Sequence[str]) -> dict[str, str]:
    """The runs of swept heads, in words, by the title of their arm."""
    return {
        VARIANTS[arm].title: run_words((seed, of.id) for seed, of in seeds.items() if isinstance(of, Run))
        for arm, seeds in trained_asked(study, arms).items()
    }


def _contrast(study: Study, method: Method, minus: Method, query_set: str, known: Mapping[str, str]) -> Contrast:
    rows = study.test.query_sets[query_set]
    apart = method.points(rows) - minus.points(rows)
    runs = "; ".join(f"{one.title}: {known[one.title]}" for one in (method, minus) if known.get(one.title))
    clusters, setting = study.test.clusters(), study.test.middle.name
    return contrast_of(apart, clusters, _name(method), _name(minus), setting, query_set, runs)


def _name(method: Method) -> str:
    return method.title if method.whitening == AS_IT_IS else f"{method.title}, {method.whitening}"


def _level(method: Method, rows: Sequence[int]) -> float:
    """The mAP in per cent of the queries `rows`, mean over seeds."""
    return float(method.points(rows).mean().mean())
