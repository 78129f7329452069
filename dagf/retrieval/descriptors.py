"""The descriptors of a benchmark, and their similarities.

`__all__` also names what the training recipe imports from here: its text names every trained run, and is left alone.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dagf.benchmarks.protocol import Benchmark
from dagf.retrieval.batches import database_batches, image_batches, query_batches
from dagf.retrieval.feature_maps import cache_benchmark, cache_maps
from dagf.retrieval.images import ImageSpec
from dagf.retrieval.inference import describe, for_inference
from dagf.retrieval.search import Descriptors, similarities

__all__ = ["benchmark_scores", "cache_benchmark", "cache_maps", "describe", "image_batches"]


def benchmark_scores(
    encode: nn.Module, benchmark: Benchmark, spec: ImageSpec, batch: int = 64
) -> tuple[NDArray[np.float32], Descriptors, Descriptors]:
    """Similarities (queries, database + distractors) of a benchmark, and the descriptors of database and queries.

    Queries are cropped to their boxes. What is asked is a copy of `encode` (`for_inference`), in float32.
    """
    encode = for_inference(encode)
    count, asked_count = len(benchmark.database_paths), len(benchmark.queries)
    rows = describe(encode, database_batches(benchmark, spec, batch), count, f"{benchmark.name}: database")
    asked = describe(encode, query_batches(benchmark, spec, batch), asked_count, f"{benchmark.name}: queries")
    return similarities(rows, asked), rows, asked
