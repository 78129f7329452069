"""How the tables on photographs judge a descriptor: whitened or not, with or without near-duplicates.

Each descriptor is judged as it is and under every whitening of a small grid, on the held-out instances and on the
test; which whitening is shown is chosen from the former alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, Box, Indices, Query
from dagf.datasets.images import ImageSpec, load_image
from dagf.datasets.training_sets import TrainingSet
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.files import atomic_path, content_hash
from dagf.model.network import MapEncoder
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.extract import extract
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.search import Descriptors, similarities
from dagf.retrieval.whitening import Whitening, pca_whitening
from dagf.study.cache import read_table
from dagf.study.parallel import side_by_side
from dagf.study.provenance import code_hash
from dagf.study.runs import Run
from dagf.study.study import Key, Study

AS_IT_IS = "none"
UNTRAINED = ", untrained"  # at the end of a title
SIZES = (128, 256, 512)  # dimensions kept by a whitening
POWERS = (0.25, 0.5)  # of its division by the variances

# Looked for on pictures only, before any descriptor was judged: at 0.7 all pairs are one scene taken twice, at 0.6
# a few are not. Both are shown.
ALIKE = (0.7, 0.6)
THUMBNAIL, SHIFT = 32, 4  # pixels


def trained_study(study: Study) -> TrainingSet:
    """The training images of a study; a `UserError` where it has none, for without them nothing can be chosen."""
    if study.training is None:
        raise UserError(
            f"{study.title} has no images of the role 'train': whitening and heads need some to learn from"
        )
    return study.training


def evaluations(study: Study, asked: Sequence[Run | Key]) -> list[pd.DataFrame]:
    """How each trained run, or untrained (arm, seed), does: as it is and under every whitening of the grid.

    One row a part ('validation', 'test', and for each of `ALIKE` 'test 0.7' with the near-duplicates of a query as
    junk), whitening and query: query_set, query (its index), positives, AP and P@1 in [0, 1]. Kept in the cache.
    """
    trained_study(study)
    missing = [of for of in dict.fromkeys(asked) if not _file(study, of).exists()]
    if missing:
        side_by_side(partial(_evaluate, study, alike(study.test)), missing, "whitening")
    return [read_evaluated(_file(study, of)) for of in asked]


def read_evaluated(file: Path) -> pd.DataFrame:
    """Judged queries that were kept in the cache; a `UserError` names a file that is broken."""
    return read_table(file)


def _file(study: Study, of: Run | Key) -> Path:
    return kept_file(study, of, "whitened")


def kept_file(study: Study, of: Run | Key, folder: str, *more: object) -> Path:
    """Where the cache keeps what was judged of a descriptor, named by its content; `more` of it is added."""
    if isinstance(of, Run):
        name: object = of.weights_id
    else:
        name = [study.backbone_id(of[1]), asdict(variant(of[0]))]
    # Not in the run's folder: what the whitening has learned from counts, too, and that is the study's.
    images = [study.test_id, trained_study(study).id, asdict(study.profile.image)]
    return study.cache / folder / f"{content_hash([name, images, own_code(), *more])}.csv"


@lru_cache(maxsize=1)
def own_code() -> str:
    """This module's code: what it keeps in the cache is named by it."""
    return code_hash("dagf.analysis.photographs.trials")


def extracted(
    study: Study, of: Run | Key, parts: Sequence[str] = ("validation", "test")
) -> tuple[Descriptors, dict[str, tuple[Descriptors, Descriptors]]]:
    """What a run, or an untrained (arm, seed), makes of the photographs, before any whitening.

    The training images (N, D), and for each part (rows, queries): of the held-out instances and of the test.
    """
    trained_study(study)
    seed = of.config.seed if isinstance(of, Run) else of[1]
    net = on_device(of.network() if isinstance(of, Run) else study.untrained(*of))
    encode, backbone = MapEncoder(net.head), study.backbone_id(seed)
    learned = study.map_source(net, seed)
    known = extract(encode, learned.train.batches(), learned.train.count)
    maps = {
        "validation": lambda: learned.validation,
        "test": lambda: study.test_maps(net, backbone),
    }
    return known, {part: maps[part]().extract(encode) for part in parts}


def evaluate_middle(benchmark: Benchmark, scores: NDArray[np.floating]) -> pd.DataFrame:
    """`judge` under the middle setting: the columns that the tables on photographs need."""
    return evaluate(benchmark, scores, [benchmark.middle])[
        ["query_set", "query", "positives", "AP", "P@1"]
    ]


def _evaluate(study: Study, likeness: NDArray[np.float32], of: Run | Key) -> None:
    tests = {"test": study.test}
    tests |= {f"test {least}": without(study.test, likeness >= least) for least in ALIKE}
    benchmarks = {"validation": {"validation": trained_study(study).validation}, "test": tests}
    known, parts = extracted(study, of)
    found = []
    for whole, (rows, queries) in parts.items():
        for name, whiten in whitenings(known):
            scores = (
                similarities(whiten(rows), whiten(queries))
                if whiten
                else similarities(rows, queries)
            )
            for part, benchmark in benchmarks[whole].items():
                found.append(evaluate_middle(benchmark, scores).assign(part=part, whitening=name))
    with atomic_path(_file(study, of)) as temporary:
        pd.concat(found).to_csv(temporary, index=False)


def whitenings(known: Descriptors) -> Iterator[tuple[str, Whitening | None]]:
    """(name, whitening) for every point of the grid, learned from descriptors (N, D); first (`AS_IT_IS`, None)."""
    yield AS_IT_IS, None
    # PCA within the span of the N descriptors is PCA in all D dimensions, and NetVLAD has 20,480 of them.
    span, _ = np.linalg.qr((known - known.mean(0)).astype(float).T)
    most = min(len(known) - 1, known.shape[1])
    for power in POWERS:
        whole = pca_whitening(known @ span, min(most, max(SIZES)), power)
        projection = whole.projection @ span.T
        mean = known.mean(0).astype(float)
        for size in sorted({min(size, most) for size in SIZES}):
            yield f"{size}-d, power {power}", Whitening(mean, projection[:size])


def alike(benchmark: Benchmark) -> NDArray[np.float32]:
    """How alike two photographs are without any descriptor, (queries, database without distractors), in [-1, 1].

    The normalised correlation of their grey thumbnails of 32 x 32 pixels, the largest over shifts of up to 4 pixels
    (an eighth of the side) across and down, each over the part that both have.
    """
    asked = _thumbnails(benchmark, [(query.file, query.box) for query in benchmark.queries])
    rows = _thumbnails(benchmark, [(file, None) for file in benchmark.database])
    best = np.full((len(asked), len(rows)), -1, np.float32)
    for down in range(-SHIFT, SHIFT + 1):
        for across in range(-SHIFT, SHIFT + 1):
            here, there = _overlap(asked, down, across), _overlap(rows, -down, -across)
            best = np.maximum(best, here @ there.T)
    return best


def _thumbnails(
    benchmark: Benchmark, files: Sequence[tuple[str, Box | None]]
) -> NDArray[np.float32]:
    spec = ImageSpec(THUMBNAIL, "squash")
    images = [load_image(benchmark.root / file, spec, box) for file, box in files]
    return torch.stack(images).float().mean(1).numpy()


def _overlap(images: NDArray[np.float32], down: int, across: int) -> NDArray[np.float32]:
    """What is left of images (n, S, S) after a shift, as rows of mean 0 and length 1; a plain one stays 0."""
    height, width = images.shape[1:]
    rows, columns = (
        slice(max(by, 0), side + min(by, 0)) for by, side in ((down, height), (across, width))
    )
    flat = images[:, rows, columns].reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    unit: NDArray[np.float32] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit


def without(benchmark: Benchmark, near: NDArray[np.bool_]) -> Benchmark:
    """The benchmark with the database rows that are `near` (queries, database) a query as its junk."""

    def changed(query: Query, row: NDArray[np.bool_]) -> Query:
        labels: dict[str, Indices] = {name: rows[~row[rows]] for name, rows in query.labels.items()}
        junk = np.union1d(labels.get("junk", np.empty(0, np.int64)), np.flatnonzero(row))
        return replace(query, labels={**labels, "junk": junk})

    return replace(benchmark, queries=tuple(map(changed, benchmark.queries, near)))


@dataclass(frozen=True)
class Method:
    """A descriptor as it is, or under the whitening that the held-out instances chose.

    validation: mAP in per cent, mean over seeds. judged: what `judgements` says under that whitening, a column
    `seed` added.
    """

    title: str
    whitening: str
    validation: float
    per_query: pd.DataFrame

    def points(self, rows: Sequence[int], part: str = "test", measure: str = "AP") -> pd.DataFrame:
        """A measure in per cent of the queries `rows` (queries x seeds); those without positives are left out."""
        chosen = self.per_query[
            (self.per_query["part"] == part) & (self.per_query["positives"] > 0)
        ]
        table = chosen[chosen["query"].isin(rows)].pivot(
            index="query", columns="seed", values=measure
        )
        return 100 * table


def methods(study: Study, title: str, asked: Mapping[int, Run | Key]) -> tuple[Method, Method]:
    """A descriptor as it is, and whitened as is best on the held-out instances; `asked` by seed.

    One whitening for all seeds: that of the best mean validation mAP, the first in the grid where two are equal.
    """
    found = evaluations(study, list(asked.values()))
    per_query = pd.concat(
        [frame.assign(seed=seed) for seed, frame in zip(asked, found, strict=True)],
        ignore_index=True,
    )
    held = per_query[(per_query["part"] == "validation") & (per_query["positives"] > 0)]
    validation = 100 * held.groupby("whitening", sort=False)["AP"].mean()
    names = (AS_IT_IS, str(validation.drop(AS_IT_IS).idxmax()))
    one, other = (
        Method(title, name, validation[name], per_query[per_query["whitening"] == name])
        for name in names
    )
    return one, other


def off_the_shelf_asked(study: Study, arms: Sequence[str]) -> dict[str, dict[int, Run | Key]]:
    """What `methods` asks for of untrained arms. They are the same for every seed, beside trained ones."""
    first = study.profile.seeds[0]
    study.prepare([first])
    return {arm: dict.fromkeys(study.profile.seeds, (arm, first)) for arm in arms}


def trained_asked(study: Study, arms: Sequence[str]) -> dict[str, dict[int, Run | Key]]:
    """And of swept heads, each trained at the rate of its best validation trial; off the shelf if it has none."""
    runs = study.train(arms, heads=True)
    first = study.profile.seeds[0]
    return {
        arm: {seed: runs.get((arm, seed), (arm, first)) for seed in study.profile.seeds}
        for arm in arms
    }


def methods_of(
    study: Study, asked: Mapping[str, Mapping[int, Run | Key]]
) -> list[tuple[Method, Method]]:
    """`methods` of every arm, judged side by side."""
    evaluations(study, [of for seeds in asked.values() for of in seeds.values()])
    return [methods(study, VARIANTS[arm].title, seeds) for arm, seeds in asked.items()]


def off_the_shelf_methods(study: Study, arms: Sequence[str]) -> list[tuple[Method, Method]]:
    """`methods` of untrained arms."""
    return methods_of(study, off_the_shelf_asked(study, arms))


def trained_methods(study: Study, arms: Sequence[str]) -> list[tuple[Method, Method]]:
    """`methods` of swept heads."""
    return methods_of(study, trained_asked(study, arms))


def untrained(method: Method) -> Method:
    """The method with its title saying so, for tables that have trained ones, too."""
    return replace(method, title=f"{method.title}{UNTRAINED}")


def gem_candidates(study: Study) -> tuple[list[Method], Method]:
    """GeM {untrained, trained} x {as it is, whitened}, and that of the best validation mAP."""
    (off_the_shelf,), (trained,) = (
        off_the_shelf_methods(study, ["gem"]),
        trained_methods(study, ["gem"]),
    )
    candidates = [*map(untrained, off_the_shelf), *trained]
    return candidates, max(candidates, key=lambda method: method.validation)
