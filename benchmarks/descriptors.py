"""What `dagf search` finds off the shelf: each descriptor on labelled photographs.

    python -m benchmarks.descriptors FOLDER GROUND_TRUTH.json ... [--backbone NAME --cut NODE]

As they are and under the PCA that a search learns from the collection itself; of images in one
shape, as a search takes them, and in their own. `benchmarks/descriptors.csv` keeps the table (mAP
in %), by which what `dagf extract` and `dagf search` do off the shelf was chosen.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.extraction import SCALES
from dagf import paths
from dagf.collections.kept import POWER
from dagf.datasets.batches import image_batches, query_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.decode import ImageSpec
from dagf.datasets.public import open_benchmark
from dagf.files import atomic_path
from dagf.model.backbone import PACKAGED, BackboneSpec
from dagf.model.network import AttentiveHead, RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.extract import MultiScale, extract, for_inference
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.retrieval.search import Descriptors, similarities
from dagf.retrieval.whitening import Whitening, principal_components

Rows = tuple[str, str, Descriptors, Descriptors]
WAYS = {  # of taking images: size and shape, scales
    "320 px, square": (ImageSpec(320, "squash"), (1.0,)),
    "512 px": (ImageSpec(512), (1.0,)),
    "512 px, three scales": (ImageSpec(512), SCALES),
}
TABLE = Path(__file__).with_name("descriptors.csv")
ARMS = ("spoc", "mac", "gem", "rmac", "crow", "windows", "mask", "scale-mask", "scale-mask-spoc")
SIZES = (0, 64, 128, 256, 512, 1024)  # directions that are kept; 0: as they are


class Heads(nn.Module):
    """Several heads on one backbone: images (B, 3, H, W) -> their descriptors (B, heads * D)."""

    def __init__(self, net: RetrievalNet) -> None:
        super().__init__()
        self.net = net
        self.heads = nn.ModuleList(AttentiveHead(net.channels, variant(arm)) for arm in ARMS)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.net.features(images)
        return torch.cat([head(maps) for head in self.heads], 1)


def rows_of(net: RetrievalNet, benchmark: Benchmark) -> Iterator[Rows]:
    """Yield (images, arm, descriptors of the database, of the queries)."""
    files = benchmark.database_paths
    for way, (spec, scales) in WAYS.items():
        encode = for_inference(MultiScale(Heads(net), scales))
        parts = (
            np.split(extract(encode, batches, count), len(ARMS), axis=1)
            for batches, count in (
                (image_batches(files, spec), len(files)),
                (query_batches(benchmark, spec), len(benchmark.queries)),
            )
        )
        for arm, database, queries in zip(ARMS, *parts, strict=True):
            yield way, arm, unit(database), unit(queries)


def unit(rows: Descriptors) -> Descriptors:
    """Return rows of length 1: of several heads only all together are."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measured(net: RetrievalNet, sets: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield the mAP of each descriptor on each set."""
    for what in sets:
        benchmark = open_benchmark(what, paths.data())
        setting = benchmark.middle
        for way, arm, database, queries in rows_of(net, benchmark):
            most = min(SIZES[-1], len(database) - 1, database.shape[1])
            whole = principal_components(database).whitening(most, POWER)
            for size in SIZES:
                whiten = Whitening(whole.mean, whole.projection[:size]) if size else np.asarray
                scores = similarities(whiten(database), whiten(queries))
                found = evaluate(benchmark, scores, [setting])
                score = mean_average_precision(found, setting.name)
                about = {"descriptor": variant(arm).title, "images": way, "directions": size}
                yield about | {"set": benchmark.name, "mAP": score}


@click.command()
@click.argument("sets", nargs=-1, required=True)
@click.option("--backbone", default=PACKAGED, help="Another than that of `dagf search`.")
@click.option("--cut", default="", help="A node before its last map.")
@click.option("--weights", default="imagenet", help="The file of its weights.")
def main(sets: tuple[str, ...], backbone: str, cut: str, weights: str) -> None:
    """Evaluate on SETS, folders of labelled photographs or ground truths; keep the table.

    Its rows of other backbones and cuts stay.
    """
    net = RetrievalNet(BackboneSpec(backbone, cut, weights), variant("spoc")).eval()
    made = pd.DataFrame(measured(net, sets)).assign(backbone=f"{backbone} {cut}".strip())
    keys = ["backbone", "descriptor", "images", "directions"]
    table = made.pivot_table("mAP", keys, "set", sort=False)
    table = table.assign(mean=table.mean(axis=1)).round(2).reset_index()
    before = pd.read_csv(TABLE) if TABLE.exists() else table[:0]
    kept = before[before["backbone"] != table["backbone"][0]]
    with atomic_path(TABLE) as path:
        pd.concat([kept, table]).to_csv(path, index=False)
    click.echo(table.sort_values("mean", ascending=False).to_string(index=False))


if __name__ == "__main__":
    main()
