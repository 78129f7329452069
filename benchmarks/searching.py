"""Compare exact search with raw FAISS and with the limit, and evaluation with the usual way.

The limit of search is the bare matrix product. The evaluation is Revisited's, among a million
distractors. The usual way is that of the field's evaluation code: the whole matrix of scores,
`np.argsort(-scores, axis=0)`, and a loop over each query's ranks under each of the three settings.
"""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.timing import Figure, ratio, seconds
from dagf.datasets.benchmark import EASY, HARD, MEDIUM, Benchmark, Query
from dagf.retrieval.metrics import evaluate_positions, means, stream_positions
from dagf.retrieval.search import BLOCK, Descriptors, search, similarity_blocks

QUERIES, DATABASE, DIMENSIONS, TOP = 70, 4993, 512, 100
ROWS = 1_000_000
ROUNDS = 3
STATUS = Path("/proc/self/status")  # on Linux alone: elsewhere memory is not measured


def unit_rows(path: Path, rows: int, seed: int = 0) -> Descriptors:
    """Random unit rows (rows, 512) in a file, memory-mapped."""
    chance = np.random.default_rng(seed)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (rows, DIMENSIONS))
    for start in range(0, rows, BLOCK):
        part = chance.standard_normal((min(BLOCK, rows - start), DIMENSIONS), np.float32)
        made[start : start + BLOCK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    made.flush()
    return np.load(path, mmap_mode="c")


def revisited_like(rows: int, seed: int = 1) -> Benchmark:
    """Make a benchmark of ROxford's sizes (queries, images, easy, hard, junk), plus distractors."""
    chance = np.random.default_rng(seed)
    queries = []
    for _ in range(QUERIES):
        some = chance.permutation(DATABASE)
        queries.append(Query("q", {"easy": some[:43], "hard": some[43:78], "junk": some[78:105]}))
    return Benchmark(
        "revisited", Path(), ("x",) * DATABASE, tuple(queries), (Path("y"),) * (rows - DATABASE)
    )


def usual_evaluation(benchmark: Benchmark, scores: NDArray[np.float32]) -> list[float]:
    """Find mAP under Easy, Medium and Hard from the scores (N, Q), as the field's code does."""
    ranks = np.argsort(-scores, axis=0)
    found = []
    for setting in (EASY, MEDIUM, HARD):
        points = []
        for number, query in enumerate(benchmark.queries):
            positives, junk = query.relevance(setting)
            places = np.arange(len(ranks))[np.isin(ranks[:, number], positives)]
            below = np.arange(len(ranks))[np.isin(ranks[:, number], junk)]
            moved = [int(place) - int((below < place).sum()) for place in places]
            points.append(usual_ap(moved))
        found.append(100 * sum(points) / len(points))
    return found


def usual_ap(ranks: Sequence[int]) -> float:
    """The trapezoid, rank by rank."""
    total = 0.0
    for number, rank in enumerate(ranks):
        before = 1.0 if rank == 0 else number / rank
        total += (before + (number + 1) / (rank + 1)) / (2 * len(ranks))
    return total


def anonymous_bytes() -> int:
    """Read how much memory this process has allocated (Linux), without memory-mapped files."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def peak_beyond(work: Callable[[], object]) -> int:
    """The most bytes that one call has allocated at once, looked at every few milliseconds."""
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def evaluation(database: Descriptors, queries: Descriptors) -> list[Figure]:
    """Time the evaluation of 70 queries under three settings, without the similarity product."""
    benchmark = revisited_like(len(database))

    def ours() -> pd.DataFrame:
        return evaluate_positions(benchmark, stream_positions(benchmark, database, queries))

    def product() -> None:
        for _ in similarity_blocks(database, queries):
            pass

    peak = peak_beyond(ours) if STATUS.exists() else None
    whole, alone = (
        sorted(seconds(work) for _ in range(ROUNDS))[ROUNDS // 2] for work in (ours, product)
    )
    scores = (queries @ database.T).T
    expected: list[float] = []
    usual = seconds(lambda: expected.extend(usual_evaluation(benchmark, scores)))
    found = means(ours())["mAP"].tolist()  # Easy, Medium, Hard
    assert np.allclose(found, expected, atol=1e-3), (found, expected)
    what = (
        f"judging {QUERIES} queries among {len(database)} rows / argsort and loop, "
        "the product apart"
    )
    memory = "the same, memory beyond the mapped descriptors, MB"
    return [
        {
            "what": what,
            "ratio": (whole - alone) / usual,
            "seconds": whole - alone,
            "reference_seconds": usual,
            "most": 1.0,
            "product_seconds": alone,
        },
        *([] if peak is None else [{"what": memory, "bytes": peak, "most": 300}]),
    ]


def against_faiss(rows: Descriptors, queries: Descriptors) -> Figure:
    """Exact search against raw FAISS flat on the same rows in memory: how many times as fast."""
    flat = faiss.IndexFlatIP(DIMENSIONS)
    flat.add(rows)
    measured = ratio(
        partial(flat.search, queries, TOP), partial(search, rows, queries, TOP), ROUNDS
    )
    assert np.array_equal(flat.search(queries, 1)[1], search(rows, queries, 1)[1])
    what = f"exact search against raw FAISS flat, {QUERIES} x {len(rows)} x {DIMENSIONS}, top {TOP}"
    return {"what": what, "least": 0.9, **times_as_fast(measured)}


def against_product(rows: Descriptors, queries: Descriptors) -> Figure:
    """Compare exact search with the limit, the bare product of the same sizes by the same library.

    The product writes all scores to memory allocated before; the search reads a block at a time.
    """
    asked, known = torch.from_numpy(queries), torch.from_numpy(rows)
    scores = torch.empty(len(queries), len(rows))
    measured = ratio(
        partial(torch.mm, asked, known.T, out=scores), partial(search, rows, queries, TOP), ROUNDS
    )
    what = (
        f"exact search against the bare matrix product, {QUERIES} x {len(rows)} x {DIMENSIONS}, "
        f"top {TOP}"
    )
    return {"what": what, **times_as_fast(measured)}


def second_search() -> Figure:
    """Time `dagf search` on an index that is there, its process included, against a bare import."""
    with tempfile.TemporaryDirectory() as place:
        folder, python = Path(place), [sys.executable, "-m", "dagf"]
        files = [folder / f"{number}.png" for number in range(3)]
        for number, file in enumerate(files):
            values = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(values).save(file)
        index = str(folder / "photos.index")
        run = partial(subprocess.run, check=True, capture_output=True)
        run([*python, "extract", *map(str, files), "--output", index])
        measured = ratio(
            partial(run, [*python, "search", str(files[0]), "--index", index]),
            partial(run, [sys.executable, "-c", "import torch"]),
            ROUNDS,
        )
    return {"what": "a second `dagf search` / python -c 'import torch'", "most": 1.3, **measured}


def times_as_fast(measured: dict[str, float]) -> dict[str, float]:
    """What `ratio` has measured of a reference over our work, as our speed over the reference's."""
    return {
        "times_as_fast": measured["ratio"],
        "seconds": measured["reference_seconds"],
        "reference_seconds": measured["seconds"],
    }


def figures(rows: int = ROWS) -> Iterator[Figure]:
    """All figures of this file, on one set of descriptors."""
    with tempfile.TemporaryDirectory() as folder:
        database = unit_rows(Path(folder) / "rows.npy", rows)
        queries = np.array(database[:QUERIES])
        yield from evaluation(database, queries)
        inside = np.ascontiguousarray(database)
        yield against_faiss(inside, queries)
        yield against_product(inside, queries)
    yield second_search()
