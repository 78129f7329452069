"""Measure how re-ranking scales: time and memory of every method, against one exact search.

The exponent is the slope of log seconds (of log bytes) over log rows. tracemalloc sees numpy's
memory, not that of PyTorch's sort or BLAS; it slows small calls, so separate calls measure time and
memory.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.timing import Figure, ratio, seconds
from dagf.retrieval.rerank import diffusion, expansion, k_reciprocal, superglobal
from dagf.retrieval.search import Descriptors, search

SIZES = (1000, 2000, 4000, 8000)
QUERIES, DIMENSIONS, NEAR = 50, 256, 10  # NEAR: rows of a cluster, and neighbours that search gives
ROUNDS = 3
LIMIT = 60.0  # seconds for diffusion over LIMIT_ROWS rows
LIMIT_ROWS = 5000

Work = Callable[[Descriptors, Descriptors], object]

METHODS: dict[str, Work] = {
    "AQE": partial(expansion, k=10, alpha=0),
    "alpha-QE": partial(expansion, k=50),
    "alpha-QE + DBA": partial(expansion, k=50, augment=True),
    "diffusion": diffusion,
    "k-reciprocal": k_reciprocal,
    "SuperGlobal": superglobal,
}


def clustered(count: int, seed: int = 0) -> tuple[Descriptors, Descriptors]:
    """Unit rows (count, 256) around count / 10 centres, and 50 queries around some of these."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((count // NEAR, DIMENSIONS))
    around = np.concatenate(
        [np.arange(count) % len(centres), chance.integers(0, len(centres), QUERIES)]
    )
    rows = centres[around] + 0.8 * chance.standard_normal((count + QUERIES, DIMENSIONS))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return rows[:count], rows[count:]


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Return the p of values = c sizes^p that fits best (least squares of the logarithms)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def peak_bytes(work: Work, database: Descriptors, queries: Descriptors) -> float:
    """The most bytes that one call had allocated at once."""
    tracemalloc.start()
    try:
        work(database, queries)
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def scaling(sizes: tuple[int, ...] = SIZES) -> Iterator[Figure]:
    """Give a figure a method: `ratio` to one exact search at the largest size, seconds, peak bytes.

    time_exponent and memory_exponent are over all sizes. Diffusion also has `offline_seconds` (the
    graph, from a call without queries) and `query_seconds` (what one query adds), both at the
    largest size.
    """
    sets = [clustered(count) for count in sizes]
    for name, work in METHODS.items():
        timed = [ratio(partial(work, *one), partial(search, *one, NEAR), ROUNDS) for one in sets]
        took = [one["seconds"] for one in timed]
        memory = [peak_bytes(work, *one) for one in sets]
        figure: Figure = {
            "what": f"{name} / one exact search, {sizes[-1]} rows x {DIMENSIONS}, "
            f"{QUERIES} queries",
            "reranking": name,
            "rows": list(sizes),
            "ratio": timed[-1]["ratio"],
            "ratios": [one["ratio"] for one in timed],
            "seconds": took,
            "reference_seconds": [one["reference_seconds"] for one in timed],
            "peak_bytes": memory,
            "time_exponent": exponent(sizes, took),
            "memory_exponent": exponent(sizes, memory),
        }
        if name == "diffusion":
            database, queries = sets[-1]
            offline = seconds(partial(work, database, queries[:0]))
            figure |= {
                "offline_seconds": offline,
                "query_seconds": max(took[-1] - offline, 0.0) / len(queries),
            }
        yield figure


def diffusion_seconds(rows: int = LIMIT_ROWS) -> Figure:
    """Seconds of diffusion over `rows` rows, graph and all, against what is wanted of it."""
    took = seconds(partial(diffusion, *clustered(rows)))
    return {
        "what": f"diffusion, {rows} rows x {DIMENSIONS}, {QUERIES} queries",
        "most": LIMIT,
        "seconds": took,
    }


def figures() -> Iterator[Figure]:
    """All figures of this file."""
    yield from scaling()
    yield diffusion_seconds()
