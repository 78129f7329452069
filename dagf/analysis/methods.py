"""Descriptors as they are, whitened and re-ranked, each choice made on held-out landmarks.

Of a trained head or an untrained one, on any study that has training images. Each descriptor is
evaluated as it is and under every whitening of a small grid, on the validation benchmark and on the
test; which whitening and which number of neighbours is shown is chosen on the former alone.
Exploratory: the trials that led here were read off the test queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dagf.analysis.contrasts import spread
from dagf.analysis.tables import HEAD, RUNS, UNTRAINED, run_words
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.decode import Box, ImageSpec
from dagf.datasets.images import load_image
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.files import content_hash
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.rerank import RERANKINGS
from dagf.retrieval.search import Descriptors, similarities
from dagf.retrieval.statistics import paired_bootstrap
from dagf.retrieval.whitening import Whitening, principal_components
from dagf.study.cache import cached_arrays, cached_tables, table_file
from dagf.study.provenance import code_hash
from dagf.study.pyramid import Shrunk
from dagf.study.runs import Head
from dagf.study.study import Study

Heads = Mapping[int, Head]  # trained heads, or untrained ones, by seed

NONE = "none"  # no whitening, no re-ranking
VALIDATION, TEST = "validation", "test"  # parts of a study
COLUMNS = ["query_set", "query", "positives", "AP"]
SIZES = (128, 256, 512)  # dimensions kept by a whitening
POWERS = (0, 0.25, 0.5)  # of its division by the variances; 0: as `dagf search` does it
ONE_SCALE, SCALES = (1.0,), (1.0, 2**-0.5, 0.5)  # of a pyramid, that of cnnimageretrieval
COUNTS = (2, 5, 10, 20, 50)  # neighbours, for every re-ranking; those that the database has
# Near-duplicates were looked for on pictures only, before any descriptor was evaluated: at 0.7 all
# pairs are one scene taken twice, at 0.6 a few are not. Both are shown.
ALIKE = (0.7, 0.6)
THUMBNAIL, SHIFT = 32, 4  # pixels


def whitenings(
    known: Descriptors, sizes: Sequence[float] = SIZES
) -> Iterator[tuple[str, Whitening | None]]:
    """Yield (name, whitening) of each size and power, learned from descriptors (N, D); first none.

    sizes: dimensions that are kept; below 1.0 and at it, shares of those that N rows can whiten.
    """
    yield NONE, None
    found, most = principal_components(known), min(len(known) - 1, known.shape[1])
    kept = sorted({min(int(size if size > 1 else size * most), most) for size in sizes})
    for power in POWERS:
        for size in kept:
            yield f"{size}-d, power {power}", found.whitening(size, power)


def descriptors_of(
    study: Study, head: Head, part: str, scales: Sequence[float] = ONE_SCALE
) -> tuple[Descriptors, ...]:
    """Return a head's descriptors of the training images, and of the rows and queries of a part.

    Kept in the cache: all trials of a head share them. Of several scales the mean, normalised again
    (`dagf.retrieval.extract.MultiScale`).
    """
    first, *others = (_of_scale(study, head, part, scale) for scale in scales)
    if not others:
        return first
    totals = [np.sum(each, axis=0) for each in zip(first, *others, strict=True)]
    return tuple(one / np.linalg.norm(one, axis=1, keepdims=True) for one in totals)


def _of_scale(study: Study, whole: Head, part: str, scale: float) -> tuple[Descriptors, ...]:
    head = whole if scale == 1 else Shrunk(whole, scale)
    about = [head.weights_id, study.learned_from.id, asdict(study.profile.image)]

    def made() -> list[Descriptors]:
        net, maps = on_device(head.network()), study.training_maps(head)
        return [maps.train.extract(net.on_maps), *maps.validation.extract(net.on_maps)]

    names = [content_hash([*about, name]) for name in ("train", "rows", "queries")]
    train, *held = cached_arrays([study.cache / "descriptors" / name for name in names], made)
    return train, *(held if part == VALIDATION else study.map_descriptors(head))


def benchmark_of(study: Study, part: str) -> Benchmark:
    """Return the benchmark of a part: `VALIDATION`, `TEST`, or the least likeness that is junk."""
    if part in (VALIDATION, TEST):
        return study.learned_from.validation if part == VALIDATION else study.test
    named = content_hash(["alike", study.test_id, code_hash("dagf.analysis.methods")])
    file = study.cache / "descriptors" / named
    (near,) = cached_arrays([file], lambda: [alike(study.test)])
    return without(study.test, near >= float(part))


class Trial(NamedTuple):
    """How heads are evaluated: under every whitening of a grid, or re-ranked under one of them.

    points: (re-ranking, number of neighbours). sizes: of the whitenings. scales: of the image
    pyramid.
    """

    part: str
    whitening: str = ""
    points: tuple[tuple[str, int], ...] = ((NONE, 0),)
    sizes: tuple[float, ...] = SIZES
    scales: tuple[float, ...] = ONE_SCALE


def evaluated(study: Study, trials: Sequence[tuple[Heads, Trial]]) -> list[pd.DataFrame]:
    """Return for each (heads, trial) the evaluated queries of all seeds; kept in the cache.

    Columns: whitening, reranking, neighbours, query_set, query (its index), positives, AP in
    [0, 1], seed.
    """
    decides = study.learned_from.id, study.profile.image, code_hash("dagf.analysis.methods")
    test = [study.test_id, asdict(study.profile.evaluation.image)]
    by_id = {head.weights_id: head for heads, _ in trials for head in heads.values()}
    files = {
        (name, trial): table_file(
            study.cache, "methods", name, trial, *decides, [] if trial.part == VALIDATION else test
        )
        for heads, trial in trials
        for name in (head.weights_id for head in heads.values())
    }
    found = cached_tables(files, partial(_evaluate, study, by_id), "whitening and re-ranking")
    return [
        pd.concat([found[head.weights_id, trial].assign(seed=seed) for seed, head in heads.items()])
        for heads, trial in trials
    ]


def _evaluate(study: Study, heads: Mapping[str, Head], key: tuple[str, Trial]) -> pd.DataFrame:
    name, trial = key
    known, rows, queries = descriptors_of(study, heads[name], trial.part, trial.scales)
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
        if name == trial.whitening:
            break  # to learn the others takes seconds
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

    def points(self, queries: Sequence[int]) -> pd.DataFrame:
        """Return the AP in per cent (queries x seeds) of queries that have positives."""
        chosen = self.per_query["query"].isin(queries) & (self.per_query["positives"] > 0)
        return 100 * self.per_query[chosen].pivot(index="query", columns="seed", values="AP")

    def minus(self, study: Study, other: "Method", query_set: str) -> str:
        """Return the mean difference in mAP points [bootstrap over clusters of test queries]."""
        queries = study.test.query_sets[query_set]
        apart = (self.points(queries) - other.points(queries)).dropna().mean(axis=1)
        return paired_bootstrap(apart, study.test.clusters()[apart.index]).signed


def heads_of(study: Study, arms: Sequence[str], how: str = HEAD) -> dict[str, Heads]:
    """Return the heads of arms by title and seed: untrained, or trained where they can be.

    how: `UNTRAINED`, `HEAD` or, of the primary arms, `STAGE`: with the backbone's last stage.
    """
    seeds, own = study.profile.seeds, study.profile.own_backbones  # else they share one
    runs = {} if how == UNTRAINED else study.train(arms, heads=how == HEAD)
    study.prepare(seeds)
    return {
        VARIANTS[arm].title + how: {
            seed: runs.get((arm, seed)) or study.untrained(arm, seed if own else seeds[0])
            for seed in seeds
        }
        for arm in arms
    }


def methods(
    study: Study, arms: Sequence[str], how: str = HEAD, scales: tuple[float, ...] = ONE_SCALE
) -> list[Method]:
    """Return each descriptor as it is, then whitened as is best on the held-out landmarks.

    One whitening for all seeds: that of the best mean validation mAP, the first in the grid where
    two are equal.
    """
    heads = heads_of(study, arms, how)
    held, test = (
        evaluated(study, [(one, Trial(part, scales=scales)) for one in heads.values()])
        for part in (VALIDATION, TEST)
    )
    found = []
    for (title, by_seed), validation, shown in zip(heads.items(), held, test, strict=True):
        level = 100 * validation.groupby("whitening", sort=False)["AP"].mean()
        for name in (NONE, str(level.drop(NONE).idxmax())):
            per_query = shown[shown["whitening"] == name]
            found.append(Method(title, name, by_seed, level[name], per_query))
    return found


def method_row(study: Study, method: Method) -> dict[str, Any]:
    """Return the cells of a method: its whitening, validation mAP, mAP of each query set.

    Over seeds the mean [95 % t-interval].
    """
    row = {"method": method.title, "whitening": method.whitening}
    row["validation"] = f"{method.validation:.1f}"
    sets = study.test.query_sets.items()
    return row | {name: spread(method.points(queries).mean()) for name, queries in sets}


def reranking_table(study: Study, shown: Sequence[Method]) -> pd.DataFrame:
    """Return each method under every re-ranking, at the neighbour count best on validation.

    One count for all seeds, the smallest where two are equal. Beside the mAP of each query set
    stands the gain over no re-ranking.
    """
    smallest = min(len(benchmark_of(study, part).database_paths) for part in (VALIDATION, TEST))
    every = tuple(product(RERANKINGS, (count for count in COUNTS if count < smallest)))
    if not every:
        raise UserError(f"{study.title} has too few images to re-rank: give it {COUNTS[0] + 1}")
    held = evaluated(study, [(one.heads, Trial(VALIDATION, one.whitening, every)) for one in shown])
    levels = [
        100 * one.groupby(["reranking", "neighbours"], sort=False)["AP"].mean() for one in held
    ]
    trials, rows = [], []
    for one, level in zip(shown, levels, strict=True):
        best = level.groupby("reranking", sort=False).idxmax()
        points = tuple((str(name), int(count)) for name, count in best)
        trials.append((one.heads, Trial(TEST, one.whitening, points)))
    tables = evaluated(study, trials)
    for plain, level, (_, trial), table in zip(shown, levels, trials, tables, strict=True):
        ways = [(NONE, "", plain)]
        for name, count in trial.points:
            per_query = table[table["reranking"] == name]
            again = replace(plain, validation=level[name, count], per_query=per_query)
            ways.append((name, str(count), again))
        for name, neighbours, one in ways:
            row = method_row(study, one) | {"re-ranking": name, "neighbours": neighbours}
            for query_set in study.test.query_sets:
                row[f"{query_set} − none"] = one.minus(study, plain, query_set)
            rows.append(row)
    return pd.DataFrame(rows)


def cut_at(study: Study, node: str) -> Study:
    """Return the study on another cut of its backbone, of which heads alone are trained."""
    backbone = replace(study.profile.backbone, cut=node)
    heads = replace(study.profile, backbone=backbone, arm_training=None, last_stage=None)
    return replace(study, profile=heads)


def alike(benchmark: Benchmark) -> NDArray[np.float32]:
    """Return how alike pictures are, (queries, database without distractors), in [-1, 1].

    The normalised correlation of their grey thumbnails of 32 x 32 pixels, the largest over shifts
    of up to 4 pixels (an eighth of the side) across and down, each over the part that both have.
    """
    queries = _thumbnails(benchmark, [(query.file, query.box) for query in benchmark.queries])
    rows = _thumbnails(benchmark, [(file, None) for file in benchmark.database])
    best = np.full((len(queries), len(rows)), -1, np.float32)
    for down in range(-SHIFT, SHIFT + 1):
        for across in range(-SHIFT, SHIFT + 1):
            here, there = _overlap(queries, down, across), _overlap(rows, -down, -across)
            best = np.maximum(best, here @ there.T)
    return best


def _thumbnails(
    benchmark: Benchmark, files: Sequence[tuple[str, Box | None]]
) -> NDArray[np.float32]:
    spec = ImageSpec(THUMBNAIL, "squash")
    images = [load_image(benchmark.root / file, spec, box) for file, box in files]
    return torch.stack(images).float().mean(1).numpy()


def _overlap(images: NDArray[np.float32], down: int, across: int) -> NDArray[np.float32]:
    """What is left of images (n, S, S) after a shift, as rows of mean 0 and length 1 (or 0)."""
    rows, columns = (slice(max(by, 0), THUMBNAIL + min(by, 0)) for by in (down, across))
    flat = images[:, rows, columns].reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def without(benchmark: Benchmark, near: NDArray[np.bool_]) -> Benchmark:
    """Return the benchmark with rows that are `near` (queries, database) a query as its junk."""
    queries = []
    for query, row in zip(benchmark.queries, near, strict=True):
        labels = {name: rows[~row[rows]] for name, rows in query.labels.items()}
        labels["junk"] = np.union1d(labels.get("junk", np.empty(0, np.int64)), np.flatnonzero(row))
        queries.append(replace(query, labels=labels))
    return replace(benchmark, queries=tuple(queries))


def near_duplicates(study: Study, shown: Sequence[Method]) -> pd.DataFrame:
    """Return mAP of methods, as they are and with near-duplicates of a query as junk.

    A column says how many positives are left.
    """
    rows = [method_row(study, one) for one in shown]
    for least in ALIKE:
        found = evaluated(study, [(one.heads, Trial(str(least))) for one in shown])
        for row, method, table in zip(rows, shown, found, strict=True):
            kept = table[table["whitening"] == method.whitening]
            again = replace(method, per_query=kept)
            for query_set, queries in study.test.query_sets.items():
                left = kept[kept["query"].isin(queries) & (kept["seed"] == study.seed)]
                name = f"{query_set} without ≥ {least} ({left['positives'].sum()} positives)"
                row[name] = spread(again.points(queries).mean())
    runs = [method.runs for method in shown]
    return pd.DataFrame(rows).drop(columns="validation").assign(**{RUNS: runs})
