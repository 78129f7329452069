"""Near-duplicates of a query among the photographs, found without any descriptor."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, Box
from dagf.datasets.images import ImageSpec, load_image

# Looked for on pictures only, before any descriptor was evaluated: at 0.7 all pairs are one scene
# taken twice, at 0.6 a few are not. Both are shown.
ALIKE = (0.7, 0.6)
THUMBNAIL, SHIFT = 32, 4  # pixels


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
    unit: NDArray[np.float32] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit


def without(benchmark: Benchmark, near: NDArray[np.bool_]) -> Benchmark:
    """Return the benchmark with rows that are `near` (queries, database) a query as its junk."""
    queries = []
    for query, row in zip(benchmark.queries, near, strict=True):
        labels = {name: rows[~row[rows]] for name, rows in query.labels.items()}
        labels["junk"] = np.union1d(labels.get("junk", np.empty(0, np.int64)), np.flatnonzero(row))
        queries.append(replace(query, labels=labels))
    return replace(benchmark, queries=tuple(queries))
