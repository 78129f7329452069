"""The descriptors of a benchmark, and their similarities."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dagf.datasets.batches import database_batches, query_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.images import ImageSpec
from dagf.retrieval.inference import extract, for_inference
from dagf.retrieval.search import Descriptors, similarities


def benchmark_scores(
    encode: nn.Module, benchmark: Benchmark, spec: ImageSpec, batch: int = 64
) -> tuple[NDArray[np.float32], Descriptors, Descriptors]:
    """Similarities (queries, database + distractors) of a benchmark, and the descriptors of database and queries.

    Queries are cropped to their boxes. What is asked is a copy of `encode` (`for_inference`), in float32.
    """
    encode = for_inference(encode)
    count, asked_count = len(benchmark.database_paths), len(benchmark.queries)
    rows = extract(
        encode, database_batches(benchmark, spec, batch), count, f"{benchmark.name}: database"
    )
    asked = extract(
        encode, query_batches(benchmark, spec, batch), asked_count, f"{benchmark.name}: queries"
    )
    return similarities(rows, asked), rows, asked
