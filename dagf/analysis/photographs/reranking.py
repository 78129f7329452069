"""Re-ranking on photographs: what each method adds to each descriptor, as it is and whitened.

Every method has one neighbour count to choose, from the same `COUNTS` and on the held-out instances alone; the test
is judged at the chosen count only. All other parameters are those of the papers (`dagf.retrieval.rerank`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.analysis.photographs.trials import (
    Method,
    evaluate_middle,
    extracted,
    kept_file,
    methods_of,
    off_the_shelf_asked,
    read_evaluated,
    trained_asked,
    trained_study,
    whitenings,
)
from dagf.errors import UserError
from dagf.files import atomic_path
from dagf.retrieval.rerank import (
    augment_database,
    diffusion,
    expand_queries,
    k_reciprocal,
    superglobal,
)
from dagf.retrieval.search import Descriptors, similarities
from dagf.retrieval.statistics import paired_bootstrap, t_interval
from dagf.study.parallel import side_by_side
from dagf.study.provenance import code_hash
from dagf.study.runs import Run
from dagf.study.study import Key, Study

OFF_THE_SHELF = ("gem", "mac", "spoc", "rmac", "crow", "scale-mask-spoc", "scale-mask")
TRAINED = ("dagf", "attention")
COUNTS = (2, 5, 10, 20, 50)  # neighbours, for every method; those that the smaller database has
NOTHING = "none"
ALPHA = 3  # of alpha-QE and DBA
QUERY_K, TOP = (
    10,
    400,
)  # of diffusion and of SuperGlobal; the latter the whole of a smaller database

Rerank = Callable[[Descriptors, Descriptors, int], NDArray[np.floating]]


def expanded(
    database: Descriptors, queries: Descriptors, count: int, alpha: float
) -> NDArray[np.float32]:
    """Plain search with expanded queries."""
    return similarities(database, expand_queries(database, queries, count, alpha))


def expanded_both(database: Descriptors, queries: Descriptors, count: int) -> NDArray[np.float32]:
    """alpha-QE on a database that alpha-QE's weights have augmented, with as many neighbours on both sides."""
    return expanded(augment_database(database, count, ALPHA), queries, count, ALPHA)


def diffused(database: Descriptors, queries: Descriptors, count: int) -> NDArray[np.float64]:
    """Diffusion on the graph of `count` neighbours; the query has as many, and at most the paper's 10."""
    return diffusion(database, queries, count, query_k=min(QUERY_K, count))


def reciprocal(database: Descriptors, queries: Descriptors, count: int) -> NDArray[np.float64]:
    """k-reciprocal encoding of k1 = `count`, with the paper's k2 / k1 = 6 / 20."""
    return k_reciprocal(database, queries, count, max(1, round(count * 6 / 20)))


def superglobal_of(database: Descriptors, queries: Descriptors, count: int) -> NDArray[np.float64]:
    """SuperGlobal's K = `count` within the top 400, or within the whole database if it is smaller."""
    return superglobal(database, queries, min(TOP, len(database)), count)


RERANKINGS: dict[str, Rerank] = {
    "AQE": partial(expanded, alpha=0),
    "α-QE": partial(expanded, alpha=ALPHA),
    "α-QE + DBA": expanded_both,
    "diffusion": diffused,
    "k-reciprocal": reciprocal,
    "SuperGlobal": superglobal_of,
}


class Trial(NamedTuple):
    """A descriptor under a whitening, and the (re-ranking, neighbours) that are to be judged on a part of the images.

    part: 'validation' or 'test'.
    """

    of: Run | Key
    whitening: str
    part: str
    points: tuple[tuple[str, int], ...]


def off_the_shelf_reranking(study: Study, arms: Sequence[str] = OFF_THE_SHELF) -> pd.DataFrame:
    """Every re-ranking of untrained descriptors, as they are and under their chosen whitening.

    validation and every query set's mAP, the latter with the 95 % bootstrap interval over test instances; beside it
    the paired difference from the same descriptor without re-ranking, with its interval.
    """
    return _table(study, off_the_shelf_asked(study, arms))


def trained_reranking(study: Study, arms: Sequence[str] = TRAINED) -> pd.DataFrame:
    """The same of swept heads: mean over seeds [95 % t-interval]; differences as in `shelf_reranking`, seeds averaged.

    One neighbour count for all seeds: that of the best mean validation mAP.
    """
    return _table(study, trained_asked(study, arms))


def _table(study: Study, asked: Mapping[str, Mapping[int, Run | Key]]) -> pd.DataFrame:
    pairs = list(zip(asked.values(), methods_of(study, asked), strict=True))
    cells = [(seeds, method) for seeds, pair in pairs for method in pair]
    every = tuple((name, count) for name in RERANKINGS for count in _counts(study))
    held = _judgements(study, [(seeds, method, "validation", every) for seeds, method in cells])
    chosen = [_chosen(frame) for frame in held]
    points = [tuple((name, count) for name, (count, _) in best.items()) for best in chosen]
    test = _judgements(
        study, [(*cell, "test", some) for cell, some in zip(cells, points, strict=True)]
    )
    rows = []
    for (_, plain), best, per_query in zip(cells, chosen, test, strict=True):
        rows.append(_row(study, plain, NOTHING, "", plain))
        for name, (count, validation) in best.items():
            one = Method(
                plain.title, plain.whitening, validation, per_query[per_query["reranking"] == name]
            )
            rows.append(_row(study, one, name, count, plain))
    return pd.DataFrame(rows)


def _counts(study: Study) -> list[int]:
    held, test = trained_study(study).validation, study.test
    smallest = min(len(one.database) + len(one.distractors) for one in (held, test))
    counts = [count for count in COUNTS if count < smallest]
    if not counts:
        raise UserError(
            f"{study.title}: a database of {smallest} images has no neighbours to re-rank by; give it {COUNTS[0] + 1}"
        )
    return counts


def _chosen(per_query: pd.DataFrame) -> dict[str, tuple[int, float]]:
    """For each re-ranking the count of the best mean validation mAP, the smallest where two are equal, and that mAP."""
    held = per_query[per_query["positives"] > 0]
    means = 100 * held.groupby(["reranking", "neighbours"], sort=False)["AP"].mean()
    return {name: (int(means[name].idxmax()), float(means[name].max())) for name in RERANKINGS}


def _row(
    study: Study, method: Method, name: str, count: int | str, plain: Method
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": method.title,
        "whitening": method.whitening,
        "re-ranking": name,
    }
    row |= {"neighbours": count, "validation": f"{method.validation:.1f}"}
    clusters, sets = study.test.clusters(), study.test.query_sets
    for query_set, asked in sets.items():
        points = method.points(asked)
        by_seed, by_query = points.mean(axis=0), points.mean(axis=1)
        alike = by_seed.nunique() <= 1  # off the shelf there is nothing random but the queries
        row[query_set] = str(
            paired_bootstrap(by_query, clusters[by_query.index]) if alike else t_interval(by_seed)
        )
    for query_set, asked in sets.items():
        apart = (method.points(asked) - plain.points(asked)).mean(axis=1)
        interval = paired_bootstrap(apart, clusters[apart.index])
        row[f"{query_set} − none"] = "" if name == NOTHING else interval.signed
    return row


def _judgements(
    study: Study,
    cells: Sequence[tuple[Mapping[int, Run | Key], Method, str, tuple[tuple[str, int], ...]]],
) -> list[pd.DataFrame]:
    """For each cell (its descriptors by seed, whitening, part, points) the judged queries; kept in the cache.

    Columns: those of `judged_once`, part, reranking, neighbours, seed.
    """
    trials = [
        {seed: Trial(of, method.whitening, part, points) for seed, of in seeds.items()}
        for seeds, method, part, points in cells
    ]
    every = {_file(study, trial): trial for by_seed in trials for trial in by_seed.values()}
    todo = [trial for file, trial in every.items() if not file.exists()]
    if todo:
        side_by_side(partial(_evaluate, study), todo, "re-ranking")
    return [
        pd.concat(
            [
                read_evaluated(_file(study, trial)).assign(seed=seed)
                for seed, trial in by_seed.items()
            ]
        )
        for by_seed in trials
    ]


def _file(study: Study, trial: Trial) -> Path:
    return kept_file(study, trial.of, "reranked", *trial[1:], *_code())


@lru_cache(maxsize=1)
def _code() -> tuple[str, ...]:
    return (code_hash("dagf.analysis.photographs.reranking"),)


def _evaluate(study: Study, trial: Trial) -> None:
    known, parts = extracted(study, trial.of, [trial.part])
    whiten = dict(whitenings(known))[trial.whitening]
    rows, queries = (whiten(one) if whiten else one for one in parts[trial.part])
    benchmark = trained_study(study).validation if trial.part == "validation" else study.test
    found = [
        evaluate_middle(benchmark, RERANKINGS[name](rows, queries, count)).assign(
            part=trial.part, reranking=name, neighbours=count
        )
        for name, count in trial.points
    ]
    with atomic_path(_file(study, trial)) as temporary:
        pd.concat(found).to_csv(temporary, index=False)
