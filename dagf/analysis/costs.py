"""What search costs as the database grows, where the time goes, and what very many images would take.

Beyond the descriptors that are there, rows are drawn from a Gaussian fitted to them. These serve to measure costs and
the recall of an index; nothing is judged on them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dagf.analysis.tables import benchmark_figures
from dagf.console import cores, progress
from dagf.datasets.batches import image_batches, network_input
from dagf.datasets.images import ImageSpec, load_image
from dagf.model.network import RetrievalNet
from dagf.retrieval.ann import Index, build_index, index_factory
from dagf.retrieval.extract import extract, for_inference
from dagf.retrieval.search import BLOCK, Descriptors, search
from dagf.retrieval.statistics import exponent

TOP = 10  # neighbours, of which the recall is measured
ROUNDS = 3
SOME, TURNS = 256, 5  # images on which the stages are measured, and how often


@contextmanager
def all_cores() -> Iterator[None]:
    """All cores for a measurement: a notebook's own share may be less."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(cores())
    faiss.omp_set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def fitted_rows(known: Descriptors, count: int, path: Path, seed: int = 0) -> Descriptors:
    """`count` unit rows in a file, mapped: those of `known` (n, D), then draws from a Gaussian fitted to them."""
    chance = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(np.cov(known, rowvar=False))
    turn = (np.sqrt(np.maximum(values, 0)) * vectors).T.astype(np.float32)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (count, known.shape[1]))
    made[: len(known)] = known[:count]
    for start in range(len(known), count, BLOCK):
        part = chance.standard_normal(
            (min(BLOCK, count - start), len(turn)), np.float32
        ) @ turn + known.mean(0)
        made[start : start + BLOCK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    made.flush()
    return np.load(path, mmap_mode="c")


def search_costs(known: Descriptors, queries: Descriptors, most: int) -> pd.DataFrame:
    """Exact and approximate search of all `queries` (Q, D) at once, over more and more rows up to `most`.

    One row a size: rows, drawn (how many of them), exact s, exact MB (of the rows), index (FAISS's name of it), build
    s, index MB, index s (its candidates scored exactly), recall (per cent of the exact top 10), recall of codes alone.
    """
    sizes = [size for size in (most // 100, most // 30, most // 10, most // 3, most) if size > TOP]
    with TemporaryDirectory() as folder, all_cores():
        rows = fitted_rows(known, most, Path(folder) / "rows.npy")
        steps = progress(sizes, "searching", unit="size")
        return pd.DataFrame(
            [_cost(rows[:size], queries, len(known), Path(folder)) for size in steps]
        )


def _cost(rows: Descriptors, queries: Descriptors, known: int, folder: Path) -> dict[str, Any]:
    exact = search(rows, queries, TOP)[1]
    built = seconds(lambda: build_index(rows).save(folder / "rows.faiss"))
    index = Index.load(folder / "rows.faiss")
    scored = partial(index.search, queries, TOP, rows)
    return {
        "rows": len(rows),
        "drawn": max(0, len(rows) - known),
        "exact s": median_seconds(partial(search, rows, queries, TOP)),
        "exact MB": rows.nbytes / 1e6,
        "index": index_factory(*rows.shape),
        "build s": built,
        "index MB": (folder / "rows.faiss").stat().st_size / 1e6,
        "index s": median_seconds(scored),
        "recall": recall(scored()[1], exact),
        "recall of codes": recall(index.search(queries, TOP)[1], exact),
    }


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Per cent of the exact neighbours (Q, k) that are among those found (Q, k)."""
    return 100 * float(
        np.mean([np.isin(one, other).mean() for one, other in zip(exact, found, strict=True)])
    )


def median_seconds(work: Callable[[], object]) -> float:
    """The median time of a few calls."""
    return statistics.median(seconds(work) for _ in range(ROUNDS))


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def growth(costs: pd.DataFrame) -> pd.DataFrame:
    """How each cost grows: the p of c * rows^p; an index's over the sizes at which it is no flat one."""
    lists = costs[costs["index"] != "Flat"]
    parts = {"exact s": costs, "build s": lists, "index s": lists, "index MB": lists}
    rows = [
        {
            "cost": name,
            "exponent": exponent(part["rows"], part[name]) if len(part) > 1 else np.nan,
            "sizes": len(part),
        }
        for name, part in parts.items()
    ]
    return pd.DataFrame(rows)


def stages(net: RetrievalNet, files: Sequence[Path], spec: ImageSpec) -> pd.DataFrame:
    """Where the time goes for one image: ms of each stage by itself, and of the whole pipeline, in which they overlap.

    On all cores; decoding alone in one thread. In the batches of an extraction, and in turns, so that a slow moment of
    the machine falls on all alike. net: on the CPU, or on a GPU.
    """
    files, fast = list(files[:SOME]), for_inference(net)
    device = next(fast.parameters()).device
    with all_cores(), torch.inference_mode():
        images = [batch for _, batch in image_batches(files, spec)]
        ready = [network_input(batch, device) for batch in images]
        maps = [fast.backbone(batch) for batch in ready]
        works: dict[str, Callable[[], object]] = {
            "decode and resize (one thread)": lambda: [load_image(file, spec) for file in files],
            "normalise": lambda: waited([network_input(batch, device) for batch in images]),
            "backbone": lambda: waited([fast.backbone(batch) for batch in ready]),
            "attention, masks, pooling": lambda: waited(
                [fast.head(batch).descriptor for batch in maps]
            ),
            "all, overlapped": lambda: extract(fast, image_batches(files, spec), len(files)),
        }
        rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(TURNS)]
    took = pd.DataFrame(rounds).median()
    return pd.DataFrame({"stage": list(works), "ms per image": 1000 * took.to_numpy() / len(files)})


def waited(found: Sequence[torch.Tensor]) -> None:
    """Wait until results are there: a GPU answers before it has done its work."""
    if found[0].is_cuda:
        torch.cuda.synchronize()


def outlook(costs: pd.DataFrame, took: pd.DataFrame, images: int = 100_000_000) -> pd.DataFrame:
    """What `images` images would take on this machine, from the figures measured here: what, figure, how computed."""
    last = costs.iloc[-1]
    more = images / last["rows"]
    each = took.set_index("stage")["ms per image"]["all, overlapped"] / 1000
    p = growth(costs).set_index("cost")["exponent"]
    building, why = _building(p["build s"])
    rows = [
        ("describe all images", f"{each * images / 3600:,.0f} h", f"{1 / each:,.0f} images/s"),
        (
            "descriptors in half precision",
            f"{last['exact MB'] * more / 2000:,.0f} GB",
            "2 bytes a dimension",
        ),
        ("exact search", f"{last['exact s'] * more:,.0f} s", "linear in the rows"),
        ("index in memory", f"{last['index MB'] * more / 1000:,.1f} GB", "linear in the rows"),
        ("build the index", f"{last['build s'] * more**building / 3600:,.1f} h", why),
        (
            "search the index",
            f"{last['index s'] * more ** p['index s']:,.2f} s",
            f"rows^{p['index s']:.2f}",
        ),
    ]
    return pd.DataFrame(rows, columns=["what", "figure", "from"])


def _building(fitted: float) -> tuple[float, str]:
    """The exponent of a build for an outlook, and where it is from.

    Every row is read and coded: less than 1 comes of the few, noisy sizes, and would be carried over powers of ten.
    """
    if round(fitted, 2) >= 1:
        return fitted, f"rows^{fitted:.2f}"
    return 1.0, f"linear in the rows: no build grows by less (fitted: {fitted:.2f})"


def benchmarks() -> pd.DataFrame:
    """What `make bench` measured last: what, figure, wanted; empty where there is no record."""
    columns = ["what", "figure", "wanted"]
    rows = [[one[column] for column in columns] for one in benchmark_figures() if "head" not in one]
    return pd.DataFrame(rows, columns=columns)
