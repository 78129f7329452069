"""The descriptors by which a network is judged: at a profile's image size and scales, whitened where it says so."""

from pathlib import Path
from typing import Any

from torch import nn

from dagf import paths
from dagf.datasets.batches import image_batches, query_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.training_sets import TRAINING_SETS, load_whitening_split
from dagf.distributed import process_group
from dagf.errors import choose
from dagf.retrieval.extract import MultiScale, extract, extract_shards, for_inference
from dagf.retrieval.search import Descriptors, Rows
from dagf.retrieval.whitening import Whitened, Whitening, learned_whitening
from dagf.study.config import Profile


def evaluation_descriptors(
    network: nn.Module, name: str, benchmark: Benchmark, profile: Profile, folder: Path
) -> tuple[Rows, Descriptors]:
    """The descriptors of database + distractors (N, D), in shards in `folder`, and of the cropped queries (Q, D).

    name: of the network, unlike that of any other. Of several processes each describes a share of the database.
    """
    encode, image = for_inference(MultiScale(network, profile.scales)), profile.evaluation_image
    about: Any = [name, profile.scales]
    rows = extract_shards(
        encode, about, benchmark.database_paths, image, folder, group=process_group()
    ).descriptors
    queries = query_batches(benchmark, image)
    asked = extract(encode, queries, len(benchmark.queries), f"{benchmark.name}: queries")
    if not profile.whitening:
        return rows, asked
    whiten = split_whitening(encode, profile)
    return Whitened(rows, whiten), whiten(asked)


def split_whitening(encode: nn.Module, profile: Profile) -> Whitening:
    """The learned whitening of an encoder's descriptors, from the pairs of the profile's whitening split.

    Raises `UserError` where the split is not here, or has fewer pairs than the descriptors have dimensions.
    """
    source = TRAINING_SETS[
        choose("training set with a whitening split", profile.whitening, ("sfm120k",))
    ]
    files, pairs = load_whitening_split(paths.data() / source.folder)
    known = extract(
        encode, image_batches(files, profile.evaluation_image), len(files), "whitening split"
    )
    return learned_whitening(known, pairs)
