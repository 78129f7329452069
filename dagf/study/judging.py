"""How a network answers the queries of a benchmark: at a profile's image size and scales, whitened where it says so."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dagf.benchmarks.protocol import Benchmark
from dagf.benchmarks.training_sets import TRAINING_SETS, load_whitening_split
from dagf.common import choose
from dagf.retrieval.batches import image_batches
from dagf.retrieval.descriptors import benchmark_scores
from dagf.retrieval.inference import MultiScale, describe, for_inference
from dagf.retrieval.search import similarities
from dagf.retrieval.whitening import Whitening, learned_whitening
from dagf.study import paths
from dagf.study.config import Profile


def judged_scores(network: nn.Module, benchmark: Benchmark, profile: Profile) -> NDArray[np.float32]:
    """The scores (queries, database + distractors) of a network, on the device of its parameters."""
    encode = MultiScale(network, profile.scales)
    scores, rows, asked = benchmark_scores(encode, benchmark, profile.judged_image)
    if not profile.whitening:
        return scores
    whiten = split_whitening(encode, profile)
    return similarities(whiten(rows), whiten(asked))


def split_whitening(encode: nn.Module, profile: Profile) -> Whitening:
    """The learned whitening of an encoder's descriptors, from the pairs of the profile's whitening split.

    Raises `UserError` where the split is not here, or has fewer pairs than the descriptors have dimensions.
    """
    place, _ = TRAINING_SETS[choose("training set with a whitening split", profile.whitening, ("sfm120k",))]
    files, pairs = load_whitening_split(paths.data() / place)
    known = describe(for_inference(encode), image_batches(files, profile.judged_image), len(files), "whitening split")
    return learned_whitening(known, pairs)
