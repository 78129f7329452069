"""Large scale: mAP among many distractors, and what search costs as the database grows.

Beyond the descriptors that are there, rows are drawn from a Gaussian fitted to them. These serve to
measure costs and the recall of an index; nothing is evaluated on them.
"""

import statistics
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dagf import paths
from dagf.analysis.tables import RUNS, one_set, run_words
from dagf.console import cores, progress
from dagf.datasets.batches import image_batches, network_input
from dagf.datasets.images import ImageSpec, load_image
from dagf.datasets.toytown import load_toytown, open_toytown
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.model.variants import VARIANTS
from dagf.retrieval.ann import Index, build_index, index_factory
from dagf.retrieval.extract import extract, for_inference
from dagf.retrieval.metrics import evaluate_positions, means, stream_positions
from dagf.retrieval.search import BLOCK, Descriptors, Rows, search
from dagf.retrieval.statistics import exponent
from dagf.study.parallel import side_by_side
from dagf.study.runs import Head
from dagf.study.study import Key, Study

FIRST = 100  # distractors at the first step of the curve's fit
TOP = 10  # neighbours, of which the recall is measured
ROUNDS = 3
SOME, TURNS = 256, 5  # images on which the stages are measured, and how often
ALL = "all, overlapped"  # of the stages
MANY = 100_000_000  # images, of the outlook
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
    spec = replace(study.profile.drawing, distractors=study.profile.scale.distractors)
    spec = replace(spec, train_landmarks=0, validation_landmarks=0, validation_distractors=0)
    root = open_toytown(spec, paths.data())
    return replace(study, test=load_toytown(root, "test"), test_id=root.name, toytown=root)


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


def background(study: Study, rows: Rows) -> Rows:
    """Return the rows of the distractors, or all if there are none: what more are drawn like."""
    return rows[len(study.test.database) if study.test.distractors else 0 :]


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
            found = means(per_query)["mAP"].reset_index()
            about = found.assign(arm=arm, method=VARIANTS[arm].title, seed=seed, run=run)
            parts.append(about.assign(distractors=count))
    return pd.concat(parts, ignore_index=True)


def steps(most: int) -> list[int]:
    """Return 0, 100, 300, 1000, ... below `most`, and `most`."""
    rising = [step * 10**power for power in range(2, 9) for step in (1, 3)]
    return [0, *(count for count in rising if count < most), most] if most else [0]


def losses(found: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Return what distractors cost, one row a query set, arm and seed, mAP in per cent.

    "lost per tenfold": mAP points, from the line through the curve over the logarithm of their
    number, from 100 on.
    """
    rows, found = [], found[found["setting"] == setting]
    for key, one in found.groupby(["query_set", "method", "seed"], sort=False):
        one = one.sort_values("distractors")
        some = one[one["distractors"] >= FIRST]
        counts = np.log10(some["distractors"])
        slope = np.polyfit(counts, some["mAP"], 1)[0] if len(some) > 1 else np.nan
        row = dict(zip(("query set", "method", "seed"), key, strict=True))
        row |= {"mAP without": one["mAP"].iloc[0], "mAP among all": one["mAP"].iloc[-1]}
        runs = run_words(zip(one["seed"], one["run"], strict=True))
        rows.append(row | {"lost per tenfold": -slope, RUNS: runs})
    return one_set(pd.DataFrame(rows))


def half_precision(study: Study, one: Extracted, setting: str) -> pd.DataFrame:
    """Return what rows in single and in half precision take, MB, and give, mAP in per cent."""
    (database, queries), kept = one, []
    for kind in (np.float32, np.float16):
        rows: Descriptors = database[:].astype(kind)
        per_query = evaluate_positions(study.test, stream_positions(study.test, rows, queries))
        value = means(per_query)["mAP"].xs(setting, level="setting").iloc[0]
        kept.append({"precision": np.dtype(kind).name, "MB": rows.nbytes / 1e6, "mAP": value})
    return pd.DataFrame(kept)


@contextmanager
def all_cores() -> Iterator[None]:
    """Use all cores for a measurement: a notebook's own share may be less."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(cores())
    faiss.omp_set_num_threads(cores())
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


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
    sizes = [size for size in (most // 100, most // 30, most // 10, most // 3, most) if size > TOP]
    with TemporaryDirectory() as folder, all_cores():
        rows = fitted_rows(known, most, Path(folder, "rows.npy"))
        found = [
            _cost(rows[:size], queries, max(0, size - len(known)), Path(folder, "rows.faiss"))
            for size in progress(sizes, "searching", unit="size")
        ]
    return pd.DataFrame(found)


def _cost(rows: Descriptors, queries: Descriptors, drawn: int, file: Path) -> dict[str, Any]:
    exact = search(rows, queries, TOP)[1]
    built = seconds(lambda: build_index(rows).save(file))
    index = Index.load(file)
    scored = partial(index.search, queries, TOP, rows)
    return {
        "rows": len(rows),
        "drawn": drawn,
        "exact s": seconds(partial(search, rows, queries, TOP), ROUNDS),
        "exact MB": rows.nbytes / 1e6,
        "index": index_factory(*rows.shape),
        "build s": built,
        "index MB": file.stat().st_size / 1e6,
        "index s": seconds(scored, ROUNDS),
        "recall": recall(scored()[1], exact),
        "recall of codes": recall(index.search(queries, TOP)[1], exact),
    }


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Return per cent of the exact neighbours (Q, k) that are among those found (Q, k)."""
    pairs = zip(exact, found, strict=True)
    return 100 * float(np.mean([np.isin(one, other).mean() for one, other in pairs]))


def seconds(work: Callable[[], object], calls: int = 1) -> float:
    """Return how long a call takes, the median of some calls."""
    return statistics.median(timeit.repeat(work, repeat=calls, number=1))


def growth(costs: pd.DataFrame) -> pd.DataFrame:
    """Return the p of c * rows^p of each cost; an index's over the sizes where it is not flat."""
    rows = []
    for name in ("exact s", "build s", "index s", "index MB"):
        part = costs if name == "exact s" else costs[costs["index"] != "Flat"]
        fitted = exponent(part["rows"], part[name]) if len(part) > 1 else np.nan
        rows.append({"cost": name, "exponent": fitted, "sizes": len(part)})
    return pd.DataFrame(rows)


def stages(net: RetrievalNet, files: Sequence[Path], spec: ImageSpec) -> pd.DataFrame:
    """Measure each stage of an extraction by itself, and all of them overlapped: ms per image.

    On all cores; decoding alone in one thread. In the batches of an extraction, and in turns, so
    that a slow moment of the machine falls on all alike. net: on the CPU, or on a GPU.
    """
    files, fast = list(files[:SOME]), for_inference(net)
    device = next(fast.parameters()).device

    def wait(found: Sequence[torch.Tensor]) -> None:
        if found[0].is_cuda:  # a GPU answers before it has done its work
            torch.cuda.synchronize()

    with all_cores(), torch.inference_mode():
        images = [batch for _, batch in image_batches(files, spec)]
        ready = [network_input(batch, device) for batch in images]
        maps = [fast.backbone(batch) for batch in ready]
        works: dict[str, Callable[[], object]] = {
            "decode and resize (one thread)": lambda: [load_image(file, spec) for file in files],
            "normalise": lambda: wait([network_input(batch, device) for batch in images]),
            "backbone": lambda: wait([fast.backbone(batch) for batch in ready]),
            "attention, masks, pooling": lambda: wait([fast.head(one) for one in maps]),
            ALL: lambda: extract(fast, image_batches(files, spec), len(files)),
        }
        rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(TURNS)]
    took = 1000 * pd.DataFrame(rounds).median() / len(files)
    return took.rename_axis("stage").rename("ms per image").reset_index()


def outlook(costs: pd.DataFrame, took: pd.DataFrame) -> pd.DataFrame:
    """Return what `MANY` images would take on this machine: what, figure, how computed."""
    last, p = costs.iloc[-1], growth(costs).set_index("cost")["exponent"]
    more, linear = MANY / last["rows"], "linear in the rows"
    each = took.set_index("stage")["ms per image"][ALL] / 1000
    # Every row is read and coded: less than 1 comes of the few, noisy sizes, and would be carried
    # over powers of ten.
    steep = round(p["build s"], 2) >= 1
    build = last["build s"] * more ** (p["build s"] if steep else 1.0) / 3600
    why = f"{linear}: no build grows by less (fitted: {p['build s']:.2f})"
    find = last["index s"] * more ** p["index s"]
    rows = [
        ("extract all images", f"{each * MANY / 3600:,.0f} h", f"{1 / each:,.0f} images/s"),
        (
            "descriptors in half precision",
            f"{last['exact MB'] * more / 2000:,.0f} GB",
            "2 bytes a dimension",
        ),
        ("exact search", f"{last['exact s'] * more:,.0f} s", linear),
        ("index in memory", f"{last['index MB'] * more / 1000:,.1f} GB", linear),
        ("build the index", f"{build:,.1f} h", f"rows^{p['build s']:.2f}" if steep else why),
        ("search the index", f"{find:,.2f} s", f"rows^{p['index s']:.2f}"),
    ]
    return pd.DataFrame(rows, columns=["what", "figure", "from"])
