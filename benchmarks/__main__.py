"""Measure speed on this machine: `make bench`, or `python -m benchmarks [PHOTOGRAPHS]`.

Machines are noisy, so a cost is the median ratio of two things measured in turns in the same run.
`benchmarks/results.json` keeps the figures of the last run.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import click
import torch
from torch import nn

from benchmarks import extraction, reranking, roads, searching
from benchmarks.timing import Figure, ratio
from dagf.console import HEADLESS, cores
from dagf.files import write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import AttentiveHead, RetrievalNet
from dagf.model.variants import VARIANTS, variant
from dagf.study.provenance import machine
from dagf.toytown.generate import ToytownSpec

RESULTS = Path(__file__).with_name("results.json")


def dagf_against_gem(batch: int = 8, size: int = 224) -> Figure:
    """Time a forward pass of the registered DAGF against GeM's, on one ResNet-18."""
    torch.manual_seed(0)
    gem, dagf = (
        _placed(RetrievalNet(BackboneSpec("resnet18"), variant(arm))) for arm in ("gem", "dagf")
    )
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        measured = ratio(lambda: dagf(images), lambda: gem(images))
    return {
        "what": f"DAGF / GeM, forward, ResNet-18, {batch} images of {size} px",
        "most": 1.10,
        **measured,
    }


def _placed(net: nn.Module) -> nn.Module:
    return net.eval().to(memory_format=torch.channels_last)


def modules() -> Iterator[Figure]:
    """What the modules of DAGF cost: in a network, and each head by itself."""
    yield dagf_against_gem()
    yield from heads_against_gem()


def heads_against_gem(batch: int = 32, channels: int = 128, cells: int = 12) -> Iterator[Figure]:
    """Time each head's forward pass against GeM's, on maps of the `cpu` profile's size."""
    maps = torch.relu(torch.randn(batch, channels, cells, cells)).to(
        memory_format=torch.channels_last
    )
    gem = AttentiveHead(channels, VARIANTS["gem"]).eval()
    for name, made_of in VARIANTS.items():
        head = AttentiveHead(channels, made_of).eval()
        with torch.inference_mode():
            measured = ratio(partial(head, maps), partial(gem, maps))
        what = f"head {name} / head gem, {batch} maps {channels} x {cells} x {cells}"
        yield {"what": what, "head": name, **measured}


DRAW = """
import pathlib, sys, time
from dagf.toytown.generate import ToytownSpec, make_toytown
started = time.perf_counter()
make_toytown(ToytownSpec(), pathlib.Path(sys.argv[1]))
print(time.perf_counter() - started)
"""


def toytown_speed() -> Figure:
    """Time the drawing of the `cpu` profile's Toytown, with JPEGs, masks and records, on all cores.

    It runs in its own process: workers import what the main module imports, here PyTorch.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", DRAW, folder]
        done = subprocess.run(
            command, check=True, env={**os.environ, HEADLESS: "1"}, capture_output=True, text=True
        )
        images = len(list(Path(folder).rglob("*.jpg")))
    return {
        "what": f"Toytown, {images} images of {ToytownSpec().size} px, {cores()} cores",
        "least": 600,
        "images_per_second": images / float(done.stdout),
    }


def shown(one: Figure) -> dict[str, str]:
    """Put a figure into words: what it is, its value (and how it grows), and its bounds."""
    if "times_as_fast" in one:
        figure = f"{one['times_as_fast']:.2f}x as fast"
    elif "ratio" in one:
        figure = f"{one['ratio']:.3f}x"
    elif "images_per_second" in one:
        figure = f"{one['images_per_second']:.0f} images/s"
    elif "mAP" in one:
        figure = f"{one['mAP']:.2f} mAP"
    else:
        figure = f"{one['seconds']:.1f} s" if "seconds" in one else f"{one['bytes'] / 1e6:.0f} MB"
    if "time_exponent" in one:
        peak = one["peak_bytes"][-1] / 2**20
        figure += (
            f"; time ~ N^{one['time_exponent']:.1f}"
            f", peak {peak:.0f} MiB ~ N^{one['memory_exponent']:.1f}"
        )
    if "offline_seconds" in one:
        figure += (
            f", offline {one['offline_seconds']:.2f} s"
            f", a query {1000 * one['query_seconds']:.1f} ms"
        )
    bounds = [
        f"{sign} {one[key]:g}" for key, sign in (("least", ">="), ("most", "<=")) if key in one
    ]
    return {"what": one["what"], "figure": figure, "wanted": "".join(bounds)}


def steps(
    photographs: Path | None, weights: Path | None
) -> dict[str, Callable[[], Iterable[Figure]]]:
    """All that is measured, one step after the other."""
    made: dict[str, Callable[[], Iterable[Figure]]] = {
        "search and judging": searching.figures,
        "extraction": partial(extraction.figures, photographs),
    }
    if photographs and weights:
        made["faster roads"] = partial(roads.figures, photographs, weights)
    return made | {
        "drawing Toytown": lambda: [toytown_speed()],
        "what the modules cost": modules,
        "re-ranking": reranking.figures,
    }


def measure(planned: dict[str, Callable[[], Iterable[Figure]]]) -> Iterator[Figure]:
    """Every figure with its words, told on the screen as soon as it is there."""
    for number, (name, work) in enumerate(planned.items(), 1):
        click.echo(f"{number} of {len(planned)}: {name}", err=True)
        for one in work():
            words = shown(one)
            wanted = f"  (wanted: {words['wanted']})" if words["wanted"] else ""
            click.echo(f"{words['figure']:>20}  {words['what']}{wanted}")
            yield one | words


@click.command()
@click.argument(
    "photographs", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--weights",
    type=click.Path(exists=True, path_type=Path),
    help="Of MobileNetV2: faster roads are judged, too.",
)
def main(photographs: Path | None, weights: Path | None) -> None:
    """Run everything (a quarter of an hour on two cores), print a line each, keep the figures.

    PHOTOGRAPHS: a folder of JPEGs to extract; drawings stand in for it. With --weights it needs a
    labels.csv.
    """
    if weights and not photographs:
        raise click.UsageError("--weights are for a folder of photographs: name one")
    figures = [*measure(steps(photographs, weights))]
    write_json(RESULTS, {"machine": machine(torch.get_num_threads()), "figures": figures})


if __name__ == "__main__":
    main()
