"""A network and a benchmark -> descriptors -> ranks of the labelled images -> average precision."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from dagf import paths
from dagf.datasets.batches import image_batches, query_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.contents import remembered
from dagf.datasets.decode import ImageSpec
from dagf.datasets.public import load_whitening_split
from dagf.distributed import process_group
from dagf.errors import UserError, choose
from dagf.retrieval.extract import MultiScale, extract, extract_shards, for_inference
from dagf.retrieval.metrics import stream_positions
from dagf.retrieval.search import Descriptors, Rows
from dagf.retrieval.whitening import Whitened, Whitening, learned_whitening

SEEN = 1000  # rows by which a collapsed network is known
LEAST = 1e-6  # a difference between two descriptors that single precision can tell


@dataclass(frozen=True)
class EvaluationSpec:
    """How test images are described.

    scales: of the image pyramid. whitening: the training set on whose whitening split a learned
    whitening is learned, '' for none. centred: the mean of the database is taken out.
    """

    image: ImageSpec
    scales: tuple[float, ...] = (1.0,)
    whitening: str = ""
    centred: bool = False

    @property
    def single(self) -> bool:
        """Whether a descriptor is what the network says of one image: no pyramid, no whitening."""
        return self.scales == (1.0,) and not self.whitening


def centred(rows: Rows, queries: Descriptors) -> tuple[Rows, Descriptors]:
    """Return descriptors without the mean of the database: what all images have in common."""
    mean = np.asarray(rows[:], float).mean(0)
    shift = Whitening(mean, np.eye(len(mean)))
    return Whitened(rows, shift), shift(queries)


@dataclass(frozen=True)
class Results:
    """How an arm ranks the test images.

    per_query: every query under every setting (`dagf.retrieval.metrics.evaluate`). positions: where
    each labelled image stands (`dagf.retrieval.metrics.positions`), from which the AP of any part
    of them follows. run: the ID of the trained run, '' for an untrained head.
    """

    per_query: pd.DataFrame
    positions: pd.DataFrame
    run: str = ""


def evaluation_descriptors(
    network: nn.Module, name: str, benchmark: Benchmark, spec: EvaluationSpec, folder: Path
) -> tuple[Rows, Descriptors]:
    """Return descriptors of database + distractors (N, D), kept in `folder`, and of queries (Q, D).

    name: of the network, unlike that of any other. Queries are cropped to their boxes. Of several
    processes each extracts a share of the database. Raises `UserError` where the whitening split is
    not here, or has fewer pairs than descriptors have dimensions.
    """
    encode, image = for_inference(MultiScale(network, spec.scales)), spec.image
    about, known = [name, spec.scales], remembered(paths.data())
    files, group = benchmark.database_paths, process_group()
    rows, _ = extract_shards(encode, about, files, image, folder, known, group=group)
    batches, count = query_batches(benchmark, image), len(benchmark.queries)
    queries = extract(encode, batches, count, f"{benchmark.name}: queries")
    if not spec.whitening:
        return rows, queries
    choose("training set with a whitening split", spec.whitening, ("sfm120k",))
    files, pairs = load_whitening_split(paths.data())
    learned = extract(encode, image_batches(files, image), len(files), "whitening split")
    whiten = learned_whitening(learned, pairs)
    return Whitened(rows, whiten), whiten(queries)


def ranked(what: str, test: Benchmark, rows: Rows, queries: Descriptors) -> pd.DataFrame:
    """Return `dagf.retrieval.metrics.positions` of descriptors.

    Raises `UserError`, naming `what`, where all descriptors are one: such a network ranks nothing.
    """
    together = np.concatenate([np.asarray(part, np.float32) for part in (rows[:SEEN], queries)])
    if len(together) > 1 and np.ptp(together, axis=0).max() < LEAST:
        raise UserError(
            f"{what}: every image has the same descriptor, the network has collapsed: train again "
            "at a lower rate, or from other weights"
        )
    return stream_positions(test, rows, queries)
