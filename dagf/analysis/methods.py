"""Descriptors as they are, whitened and re-ranked, each choice made on held-out landmarks.

Of a trained head or an untrained one, on any study that has training images. Each descriptor is
evaluated as it is and under every whitening of a small grid, on the validation benchmark and on the
test; which whitening and which number of neighbours is shown is chosen on the former alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dagf.analysis.contrasts import Contrast, contrast_of, contrast_table, spread
from dagf.analysis.duplicates import alike, without
from dagf.analysis.tables import RUNS, run_words
from dagf.datasets.benchmark import Benchmark, TrainingSet
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.rerank import RERANKINGS
from dagf.retrieval.search import Descriptors, similarities
from dagf.retrieval.statistics import Interval, paired_bootstrap, t_interval
from dagf.retrieval.whitening import Whitening, pca_whitening
from dagf.study.cache import cached_tables, table_file
from dagf.study.provenance import code_hash
from dagf.study.runs import Head
from dagf.study.study import Study

Heads = Mapping[int, Head]  # trained heads, or untrained ones, by seed

NONE = "none"  # no whitening, no re-ranking
VALIDATION, TEST = "validation", "test"  # parts of a study
COLUMNS = ["query_set", "query", "positives", "AP", "P@1"]
UNTRAINED = ", untrained"  # at the end of a title
SIZES = (128, 256, 512)  # dimensions kept by a whitening
POWERS = (0.25, 0.5)  # of its division by the variances
GEM, CHOSEN = "GeM off the shelf", "chosen GeM"  # of {trained, not} x {whitened, not}, held out
COUNTS = (2, 5, 10, 20, 50)  # neighbours, for every re-ranking; those that the database has


def training_of(study: Study) -> TrainingSet:
    """Return the training images of a study; raise `UserError` if nothing can be learned."""
    if study.training is None:
        raise UserError(f"{study.title} has no images of the role 'train' to learn from")
    return study.training


def whitenings(
    known: Descriptors, sizes: Sequence[float] = SIZES
) -> Iterator[tuple[str, Whitening | None]]:
    """Yield (name, whitening) of each size and power, learned from descriptors (N, D); first none.

    sizes: dimensions that are kept; below 1.0 and at it, shares of those that N rows can whiten.
    """
    yield NONE, None
    # PCA in the span of the N descriptors is PCA in all D dimensions; NetVLAD has 20,480 of them.
    span, _ = np.linalg.qr((known - known.mean(0)).astype(float).T)
    most, mean = min(len(known) - 1, known.shape[1]), known.mean(0).astype(float)
    kept = sorted({min(int(size if size > 1 else size * most), most) for size in sizes})
    for power in POWERS:
        projection = pca_whitening(known @ span, kept[-1], power).projection @ span.T
        for size in kept:
            yield f"{size}-d, power {power}", Whitening(mean, projection[:size])


def descriptors_of(study: Study, head: Head, part: str) -> tuple[Descriptors, ...]:
    """Return a head's descriptors of the training images, and of the rows and queries of a part."""
    encode, learned = on_device(head.network()).head, study.training_maps(head)
    maps = learned.validation if part == VALIDATION else study.test_maps(head)
    return learned.train.extract(encode), *maps.extract(encode)


def benchmark_of(study: Study, part: str) -> Benchmark:
    """Return the benchmark of a part: `VALIDATION`, `TEST`, or the least likeness that is junk."""
    if part in (VALIDATION, TEST):
        return training_of(study).validation if part == VALIDATION else study.test
    return without(study.test, alike(study.test) >= float(part))


class Trial(NamedTuple):
    """How heads are evaluated: under every whitening of a grid, or re-ranked under one of them.

    points: (re-ranking, number of neighbours).
    """

    part: str
    whitening: str = ""
    points: tuple[tuple[str, int], ...] = ((NONE, 0),)
    sizes: tuple[float, ...] = SIZES


def evaluated(study: Study, trials: Sequence[tuple[Heads, Trial]]) -> list[pd.DataFrame]:
    """Return for each (heads, trial) the evaluated queries of all seeds; kept in the cache.

    Columns: whitening, reranking, neighbours, query_set, query (its index), positives, AP and P@1
    in [0, 1], seed.
    """
    profile, data = study.profile, [study.test_id, training_of(study).id]
    decides = data, profile.image, profile.evaluation.image, code_hash("dagf.analysis.methods")
    files = {
        (head, trial): table_file(study.cache, "methods", head.weights_id, trial, *decides)
        for heads, trial in trials
        for head in heads.values()
    }
    found = cached_tables(files, partial(_evaluate, study), "whitening and re-ranking")
    return [
        pd.concat([found[head, trial].assign(seed=seed) for seed, head in heads.items()])
        for heads, trial in trials
    ]


def _evaluate(study: Study, key: tuple[Head, Trial]) -> pd.DataFrame:
    head, trial = key
    known, rows, queries = descriptors_of(study, head, trial.part)
    benchmark, found = benchmark_of(study, trial.part), []
    for name, whiten in whitenings(known, trial.sizes):
        if trial.whitening in ("", name):
            pair = (whiten(rows), whiten(queries)) if whiten else (rows, queries)
            for reranking, count in trial.points:
                again = RERANKINGS.get(reranking)
                scores = again(*pair, count) if again else similarities(*pair)
                per_query = evaluate(benchmark, scores, [benchmark.middle])[COLUMNS]
                about = per_query.assign(whitening=name, reranking=reranking, neighbours=count)
                found.append(about)
    return pd.concat(found)


@dataclass(frozen=True)
class Method:
    """A descriptor as it is, or under the whitening that the held-out landmarks chose.

    heads: by seed. validation: mAP in per cent, mean over seeds. per_query: as `evaluated` gives it
    on the test.
    """

    title: str
    whitening: str
    heads: Heads
    validation: float
    per_query: pd.DataFrame

    @property
    def name(self) -> str:
        """The title with the whitening."""
        return self.title + (f", whitened to {self.whitening}" if self.whitening != NONE else "")

    @property
    def runs(self) -> str:
        """The trained runs, as text."""
        return run_words((seed, head.id) for seed, head in self.heads.items())

    def points(self, queries: Sequence[int], measure: str = "AP") -> pd.DataFrame:
        """Return a measure in per cent (queries x seeds) of queries that have positives."""
        chosen = self.per_query["query"].isin(queries) & (self.per_query["positives"] > 0)
        return 100 * self.per_query[chosen].pivot(index="query", columns="seed", values=measure)

    def minus(self, study: Study, other: "Method", query_set: str) -> Interval:
        """Return the mean difference in mAP points, its bootstrap over clusters of test queries."""
        queries = study.test.query_sets[query_set]
        apart = (self.points(queries) - other.points(queries)).dropna().mean(axis=1)
        return paired_bootstrap(apart, study.test.clusters()[apart.index])


def heads_of(study: Study, arms: Sequence[str], trained: bool) -> dict[str, Heads]:
    """Return the heads of arms by title and seed: trained, where they can be, or untrained."""
    seeds, own = study.profile.seeds, study.profile.backbone_training  # else they share one
    runs = study.train(arms, heads=True) if trained else {}
    study.prepare(seeds)
    return {
        VARIANTS[arm].title + ("" if trained else UNTRAINED): {
            seed: runs.get((arm, seed)) or study.untrained(arm, seed if own else seeds[0])
            for seed in seeds
        }
        for arm in arms
    }


def methods(study: Study, arms: Sequence[str], trained: bool) -> list[Method]:
    """Return each descriptor as it is, then whitened as is best on the held-out landmarks.

    One whitening for all seeds: that of the best mean validation mAP, the first in the grid where
    two are equal.
    """
    heads = heads_of(study, arms, trained)
    held, test = (
        evaluated(study, [(one, Trial(part)) for one in heads.values()])
        for part in (VALIDATION, TEST)
    )
    found = []
    for (title, by_seed), validation, shown in zip(heads.items(), held, test, strict=True):
        right = validation[validation["positives"] > 0]
        level = 100 * right.groupby("whitening", sort=False)["AP"].mean()
        for name in (NONE, str(level.drop(NONE).idxmax())):
            per_query = shown[shown["whitening"] == name]
            found.append(Method(title, name, by_seed, level[name], per_query))
    return found


def gems(study: Study) -> tuple[list[Method], Method]:
    """Return GeM {untrained, trained} x {as it is, whitened}, and the best on validation."""
    found = [one for trained in (False, True) for one in methods(study, ["gem"], trained)]
    return found, max(found, key=lambda method: method.validation)


def baselines(study: Study) -> dict[str, Method]:
    """Return what others are compared with: GeM off the shelf, and last the chosen GeM."""
    (plain, *_), chosen = gems(study)
    return {GEM: plain} if chosen.name == plain.name else {GEM: plain, CHOSEN: chosen}


def method_table(study: Study, shown: Sequence[Method]) -> pd.DataFrame:
    """Return a row a method: validation mAP, mAP of each query set, and the gains over both GeMs.

    mAP: mean over seeds [95 % t-interval]; gains with their bootstrap intervals over clusters of
    test queries. 'both GeMs': the query sets on which these exclude 0 for both, on one side.
    """
    others, rows = baselines(study), []
    *_, chosen = others.values()
    for method in shown:
        row, sides = method_row(study, method), []
        same = {title: other.name == method.name for title, other in others.items()}
        for query_set in study.test.query_sets:
            gained = [method.minus(study, other, query_set) for other in others.values()]
            for title, one in zip(others, gained, strict=True):
                row[f"{query_set} − {title}"] = "" if same[title] else one.signed
            if all(one.low > 0 for one in gained):
                sides.append(f"above on {query_set}")
            if all(one.high < 0 for one in gained):
                sides.append(f"below on {query_set}")
        row["both GeMs"] = "" if any(same.values()) else "; ".join(sides)
        row[CHOSEN] = "yes" if method.name == chosen.name else ""
        rows.append(row | {RUNS: method.runs})
    return pd.DataFrame(rows)


def method_row(study: Study, method: Method) -> dict[str, Any]:
    """Return the cells of a method: its whitening, validation mAP, mAP of each query set."""
    row = {"method": method.title, "whitening": method.whitening}
    row["validation"] = f"{method.validation:.1f}"
    sets = study.test.query_sets.items()
    return row | {name: spread(method.points(queries).mean()) for name, queries in sets}


def against_gem(study: Study) -> pd.DataFrame:
    """Return DAGF's head, as it is and whitened, minus the chosen GeM and GeM off the shelf.

    Paired by seed and query, with the mAP of both sides. A verdict on one of the GeMs says so.
    """
    others, shown = [*baselines(study).values()][::-1], methods(study, ["dagf"], trained=True)
    clusters, setting = study.test.clusters(), study.test.middle.name
    found, levels, verdicts = list[Contrast](), list[str](), list[str]()
    for query_set, method in product(study.test.query_sets, shown):
        both = []
        for other in others:
            one, two = (side.points(study.test.query_sets[query_set]) for side in (method, other))
            levels.append(f"{one.mean().mean():.1f} − {two.mean().mean():.1f}")
            runs = [f"{side.title}: {side.runs}" for side in (method, other) if side.runs]
            minus = f"{CHOSEN} ({other.name})" if other is others[0] else GEM
            names = method.name, minus, setting, query_set, "; ".join(runs)
            both.append(contrast_of(one - two, clusters, *names))
        agreed = len({one.verdict for one in both}) == 1
        for apart in both:
            alone = not agreed and apart.verdict in ("above", "below")
            verdicts.append(apart.verdict + (" this GeM alone" if alone else ""))
        found += both
    table = contrast_table(found).drop(columns="setting").assign(verdict=verdicts)
    table.insert(list(table.columns).index("difference [95 %]"), "mAP", levels)
    return table


def whitening_table(study: Study, arms: Sequence[str]) -> pd.DataFrame:
    """Return the mAP of trained heads as they are, and whitened to all dimensions and to half.

    Mean over seeds [95 % t-interval]; all dimensions: those that so many images can whiten.
    """
    heads, rows = heads_of(study, arms, trained=True), []
    found = evaluated(study, [(one, Trial(TEST, sizes=(1.0, 0.5))) for one in heads.values()])
    first = study.test.query_sets[study.test.first_set]
    for (title, by_seed), table in zip(heads.items(), found, strict=True):
        row: dict[str, Any] = {"method": title, "seeds": len(by_seed)}
        for name in (NONE, *reversed(table["whitening"].unique()[-2:])):
            one = Method(title, name, by_seed, np.nan, table[table["whitening"] == name])
            row["as it is" if name == NONE else name] = str(t_interval(one.points(first).mean()))
        rows.append(row | {RUNS: one.runs})
    return pd.DataFrame(rows)


def reranking_table(study: Study, shown: Sequence[Method]) -> pd.DataFrame:
    """Return each method under every re-ranking, at the neighbour count best on validation.

    One count for all seeds. mAP of each query set: mean over seeds [95 % t-interval], of untrained
    heads with the bootstrap over clusters of test queries; beside it the gain over no re-ranking.
    """
    smallest = min(len(benchmark_of(study, part).database_paths) for part in (VALIDATION, TEST))
    counts = [count for count in COUNTS if count < smallest]
    if not counts:
        raise UserError(f"{study.title} has too few images to re-rank: give it {COUNTS[0] + 1}")
    every = tuple(product(RERANKINGS, counts))
    held = evaluated(study, [(one.heads, Trial(VALIDATION, one.whitening, every)) for one in shown])
    best = [_best(found) for found in held]
    asked = [
        (one.heads, Trial(TEST, one.whitening, tuple(chosen)))
        for one, chosen in zip(shown, best, strict=True)
    ]
    rows = []
    for plain, chosen, table in zip(shown, best, evaluated(study, asked), strict=True):
        rows.append(_rerank_row(study, plain, plain, NONE, ""))
        for (name, count), validation in chosen.items():
            per_query = table[table["reranking"] == name]
            one = replace(plain, validation=validation, per_query=per_query)
            rows.append(_rerank_row(study, one, plain, name, count))
    return pd.DataFrame(rows)


def _best(per_query: pd.DataFrame) -> dict[tuple[str, int], float]:
    """Each re-ranking with its count of the best mean mAP (the smallest if equal) -> that mAP."""
    held = per_query[per_query["positives"] > 0]
    means = 100 * held.groupby(["reranking", "neighbours"], sort=False)["AP"].mean()
    best = means.groupby("reranking", sort=False).idxmax()
    return {(name, int(count)): float(means[name, count]) for name, count in best}


def _rerank_row(
    study: Study, method: Method, plain: Method, name: str, count: int | str
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method.title, "whitening": method.whitening}
    row |= {"re-ranking": name, "neighbours": count, "validation": f"{method.validation:.1f}"}
    for query_set, queries in study.test.query_sets.items():
        points = method.points(queries)
        by_seed, by_query = points.mean(axis=0), points.mean(axis=1)
        clusters = study.test.clusters()[by_query.index]
        alike = by_seed.nunique() <= 1  # nothing is random but the queries
        row[query_set] = str(paired_bootstrap(by_query, clusters) if alike else t_interval(by_seed))
    for query_set in study.test.query_sets:
        gain = "" if method is plain else method.minus(study, plain, query_set).signed
        row[f"{query_set} − none"] = gain
    return row
