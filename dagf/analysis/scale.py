"""Large scale: mAP among many distractors, and what search costs as the database grows.

Beyond the descriptors that are there, rows are drawn from a Gaussian fitted to them. These serve to
measure costs and the recall of an index; nothing is evaluated on them.
"""

import statistics
import timeit
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dagf.analysis.tables import RUNS, one_set, run_words
from dagf.console import progress
from dagf.datasets.batches import image_batches, network_input
from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import load_image
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.model.variants import VARIANTS
from dagf.retrieval.ann import Index, build_index, index_factory
from dagf.retrieval.extract import extract, for_inference
from dagf.retrieval.metrics import evaluate_positions, means, stream_positions
from dagf.retrieval.search import BLOCK, Descriptors, Rows, search
from dagf.study.parallel import side_by_side
from dagf.study.runs import Head
from dagf.study.study import TEST_ALONE, Key, Study

FIRST = 100  # distractors at the first step of the curve's fit
TOP = 10  # neighbours, of which the recall is measured
SHARES = (100, 30, 10, 3, 1)  # of the rows, on which a search is measured
ROUNDS = 3
SOME, TURNS = 256, 3  # images on which the stages are measured, and how often
ALL = "all, overlapped"  # of the stages
Extracted = tuple[Rows, Descriptors]  # rows (N, D) of a database on disk, and queries (Q, D)


def crowded(study: Study) -> Study:
    """Return the study among all distractors of the profile's `scale`; photographs stay.

    The landmarks are the same drawings: an image of Toytown does not depend on how many there are.
    """
    if study.profile.scale is None:
        raise UserError(
            f"profile {study.profile.name} has no 'scale': add one, as the profile cpu has it"
        )
    if study.toytown is None:
        return study
    distractors = study.profile.scale.distractors
    return study.drawn(replace(study.profile.drawing, distractors=distractors, **TEST_ALONE))


def extract_all(study: Study, arms: Sequence[str], seeds: Sequence[int]) -> dict[Key, Extracted]:
    """Return the descriptors of the test images under trained arms, made once; by (arm, seed).

    Where a study has nothing to train on, under the arms off the shelf, alike for every seed.
    """
    keys = list(study.train(arms, seeds)) if study.training else [(arm, seeds[0]) for arm in arms]
    heads = {key: head_of(study, key) for key in keys}
    side_by_side(study.descriptors, list(heads.values()), "extracting")
    return {key: study.descriptors(head) for key, head in heads.items()}


def head_of(study: Study, key: Key) -> Head:
    """Return the trained run of an (arm, seed), or where nothing is trained the arm itself."""
    return study.run(*key) if study.training else study.untrained(*key)


def curve(study: Study, sets: dict[Key, Extracted]) -> pd.DataFrame:
    """Return mAP (per cent) among the first 0, 100, 300, ... distractors.

    One row an arm, seed, number of distractors, query set and setting.
    """
    parts = []
    for (arm, seed), (database, queries) in progress(sets.items(), "ranking", len(sets), "run"):
        run = head_of(study, (arm, seed)).id
        for count in steps(len(study.test.distractors)):
            test = replace(study.test, distractors=study.test.distractors[:count])
            rows = database[: len(test.database) + count]
            per_query = evaluate_positions(test, stream_positions(test, rows, queries))
            found = means(per_query).reset_index().assign(arm=arm, seed=seed, run=run)
            parts.append(found.assign(method=VARIANTS[arm].title, distractors=count))
    return pd.concat(parts, ignore_index=True)


def steps(most: int) -> list[int]:
    """Return 0, 100, 300, 1000, ... below `most`, and `most`."""
    rising = [step * 10**power for power in range(2, 9) for step in (1, 3)]
    return [0, *(count for count in rising if count < most), most] if most else [0]


def losses(found: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Return what distractors cost, one row a query set, arm and seed, mAP in per cent.

    found: of `curve`. "lost per tenfold": mAP points, from the line through the curve over the
    logarithm of their number, from 100 on.
    """
    rows, keys = [], {"query_set": "query set", "method": "method", "seed": "seed"}
    found = found[found["setting"] == setting].sort_values("distractors", kind="stable")
    for key, one in found.groupby([*keys], sort=False):
        some = one[one["distractors"] >= FIRST]
        slope = np.nan
        if len(some) > 1:
            slope = np.polyfit(np.log10(some["distractors"]), some["mAP"], 1)[0]
        row = dict(zip(keys.values(), key, strict=True))
        row |= {"mAP without": one["mAP"].iloc[0], "mAP among all": one["mAP"].iloc[-1]}
        runs = run_words([(one["seed"].iloc[0], one["run"].iloc[0])])
        rows.append(row | {"lost per tenfold": -slope, RUNS: runs})
    return one_set(pd.DataFrame(rows))


def fitted_rows(known: Descriptors, count: int, path: Path) -> Descriptors:
    """Return `count` unit rows in a mapped file: `known` (n, D), then draws from its Gaussian."""
    chance = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(np.cov(known, rowvar=False))
    turn = (np.sqrt(np.maximum(values, 0)) * vectors).T.astype(np.float32)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (count, known.shape[1]))
    made[: len(known)] = known[:count]
    for start in range(len(known), count, BLOCK):
        noise = chance.standard_normal((min(BLOCK, count - start), len(turn)), np.float32)
        part = noise @ turn + known.mean(0)
        made[start : start + BLOCK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    made.flush()
    return np.load(path, mmap_mode="c")


def search_costs(known: Descriptors, queries: Descriptors, most: int) -> pd.DataFrame:
    """Measure exact and approximate search of all `queries` (Q, D), over up to `most` rows.

    One row a size: rows, drawn (how many of them), exact s, exact MB (of the rows), index (FAISS's
    name of it), build s, index MB, index s (its candidates scored exactly), recall (per cent of the
    exact top 10), recall of codes alone.
    """
    sizes, found = [size for share in SHARES if (size := most // share) > TOP], []
    with TemporaryDirectory() as folder:
        file, every = Path(folder, "rows.faiss"), fitted_rows(known, most, Path(folder, "rows.npy"))
        for size in progress(sizes, "searching", unit="size"):
            rows = every[:size]
            built = seconds(partial(_build, rows, file))
            index, exact = Index.load(file), search(rows, queries, TOP)[1]
            scored = partial(index.search, queries, TOP, rows)
            row = {
                "rows": size,
                "drawn": max(0, size - len(known)),
                "exact s": seconds(partial(search, rows, queries, TOP), ROUNDS),
                "exact MB": rows.nbytes / 1e6,
                "index": index_factory(*rows.shape),
                "build s": built,
                "index MB": file.stat().st_size / 1e6,
                "index s": seconds(scored, ROUNDS),
                "recall": recall(scored()[1], exact),
                "recall of codes": recall(index.search(queries, TOP)[1], exact),
            }
            found.append(row)
    return pd.DataFrame(found)


def _build(rows: Descriptors, file: Path) -> None:
    build_index(rows).save(file)


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Return per cent of the exact neighbours (Q, k) that are among those found (Q, k)."""
    return 100 * float((exact[:, :, None] == found[:, None]).any(2).mean())


def seconds(work: Callable[[], object], calls: int = 1) -> float:
    """Return how long a call takes, the median of some calls."""
    return statistics.median(timeit.repeat(work, repeat=calls, number=1))


def stages(net: RetrievalNet, files: Sequence[Path], spec: ImageSpec) -> pd.DataFrame:
    """Measure each stage of an extraction by itself, and all of them overlapped: ms per image.

    Decoding alone in one thread. In the batches of an extraction, and in turns, so that a slow
    moment of the machine falls on all alike. net: on the CPU, or on a GPU.
    """
    files, fast = list(files[:SOME]), for_inference(net)
    device = next(fast.parameters()).device

    def each(work: Callable[[torch.Tensor], torch.Tensor], batches: list[torch.Tensor]) -> None:
        found = [work(batch) for batch in batches]
        if found[0].is_cuda:  # a GPU answers before it has done its work
            torch.cuda.synchronize()

    with torch.inference_mode():
        images = [batch for _, batch in image_batches(files, spec)]
        ready = partial(network_input, device=device)
        batches = [ready(batch) for batch in images]
        maps = [fast.features(batch) for batch in batches]
        works: dict[str, Callable[[], object]] = {
            "decode and resize (one thread)": lambda: [load_image(file, spec) for file in files],
            "normalise": partial(each, ready, images),
            "backbone": partial(each, fast.features, batches),
            "attention, masks, pooling": partial(each, fast.head, maps),
            ALL: lambda: extract(fast, image_batches(files, spec), len(files)),
        }
        rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(TURNS)]
    took = 1000 * pd.DataFrame(rounds).median() / len(files)
    return took.rename_axis("stage").rename("ms per image").reset_index()
