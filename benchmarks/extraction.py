"""Compare extraction with the field's usual loop and with the limit, the backbone's bare forward.

The usual loop is that of the field's repositories: one image at a time, float32, the photograph
decoded in full, resized by PIL, scaled for each scale by `interpolate`, one forward a scale. Much
of that code decodes every photograph twice; this loop decodes it once, so we gain nothing from
that. All three run in turns over the same photographs, part by part; a figure is the median over
the parts.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as fn

from benchmarks.timing import Figure, median_ratio, seconds
from dagf import paths
from dagf.collections.eight_bits import in_eight_bits
from dagf.collections.export import smallest_side, write_graph
from dagf.collections.index import GraphNet, some_images
from dagf.datasets.batches import image_batches, network_input
from dagf.datasets.decode import IMAGENET_MEAN, IMAGENET_STD, ImageSpec
from dagf.devices import device
from dagf.model.backbone import PACKAGED, BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.extract import MultiScale, extract, for_inference
from dagf.retrieval.graph import Graph
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.runs import RunStore, Untrained
from dagf.toytown.scene import STREAMS, photograph

SCALES = (1.0, 2**-0.5, 0.5)
SPEC = ImageSpec(512)
PHOTOGRAPHS, PARTS = 500, 5
GRAPHED = 100  # photographs that graphs are timed on
LARGE = 20  # photographs of 12 megapixels
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}
WANTED = {  # of the two figures
    "cpu": ({"least": 1.25}, {"least": 0.85}),
    "cuda": ({"least": 10.0}, {"least": 0.5}),
}


def network(name: str = "resnet18", arm: str = "gem") -> RetrievalNet:
    """A backbone with random weights, which take as long as any others, and a head."""
    torch.manual_seed(0)
    return RetrievalNet(BackboneSpec(name), variant(arm)).eval()


def encoder_of(name: str, weights: str = "none") -> Untrained:
    """A backbone under GeM, as a collection's encoder."""
    spec = BackboneSpec(name, weights=weights)
    config = RunConfig(variant("gem"), spec, SPEC, TrainSpec(), "", 0)
    return Untrained(config, RunStore(paths.runs()))


def by_graph(encoder: Untrained, files: Sequence[Path], eight_bits: bool = True) -> MultiScale:
    """The encoder as the graph of `dagf extract`; eight_bits: fitted to some of the files."""
    with TemporaryDirectory() as folder:
        whole, small = Path(folder) / "float.onnx", Path(folder) / "small.onnx"
        net = encoder.network()
        write_graph(encoder, net, whole, smallest_side(net, 1))
        if eight_bits:
            in_eight_bits(whole, some_images(files, SPEC), small)
        graph = Graph(small if eight_bits else whole)
        _ = graph.session  # before the file is gone
    return MultiScale(GraphNet(graph), SCALES)


def usual(net: nn.Module, files: Sequence[Path]) -> Tensor:
    """The field's usual loop: descriptors (N, D)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    device, found = next(net.parameters()).device, []
    with torch.no_grad():
        for file in files:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            image.thumbnail((SPEC.size, SPEC.size), Image.Resampling.LANCZOS)
            values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
            batch = ((values - mean) / std)[None].to(device)
            total: Tensor | float = 0.0
            for scale in SCALES:
                scaled = (
                    batch
                    if scale == 1
                    else fn.interpolate(batch, scale_factor=scale, mode="bilinear")
                )
                total = total + net(scaled)
            found.append(fn.normalize(torch.as_tensor(total)).cpu())
    return torch.cat(found)


def ours(net: nn.Module, files: Sequence[Path]) -> Tensor:
    """This project's extraction: descriptors (N, D)."""
    return torch.from_numpy(extract(net, image_batches(files, SPEC), len(files)))


def prepared(files: Sequence[Path], device: torch.device) -> list[Tensor]:
    """The backbone's inputs at every scale, in the batches of the extraction."""
    made = []
    for _, images in image_batches(files, SPEC):
        batch = network_input(images, device)
        for scale in SCALES:
            size = [max(1, round(side * scale)) for side in batch.shape[2:]]
            made.append(
                fn.interpolate(batch, size=size).contiguous(memory_format=torch.channels_last)
            )
    return made


def bare(backbone: nn.Module, inputs: Sequence[Tensor]) -> None:
    """The limit: nothing but the backbone's forward."""
    with torch.inference_mode():
        for batch in inputs:
            backbone(batch)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()


def parts(files: Sequence[Path]) -> list[list[Path]]:
    """The files in `PARTS` parts that are alike."""
    return [list(files[number::PARTS]) for number in range(PARTS)]


def against_usual_and_limit(files: Sequence[Path], what: str) -> list[Figure]:
    """Measure the speed relative to the usual loop, in float32, and relative to the limit."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = network().to(device)
    fast = for_inference(MultiScale(net, SCALES), device.type == "cuda")
    part = list(files[:8])
    usual(net, part), ours(fast, part)  # the first call allocates
    times = []
    for some in parts(files):
        inputs = prepared(some, device)
        backbone = cast(nn.Module, fast.network.backbone)
        works = (
            partial(ours, fast, some),
            partial(usual, net, some),
            partial(bare, backbone, inputs),
        )
        times.append([seconds(work) for work in works])
    mine, loop, limit = (statistics.median(column) for column in zip(*times, strict=True))
    each = len(files) / PARTS
    speed = {"images_per_second": each / mine, "seconds": mine}
    most, share = WANTED[device.type]
    return [
        {
            "what": f"extraction against the usual loop, {what}",
            "times_as_fast": statistics.median(b / a for a, b, _ in times),
            **most,
            "reference_seconds": loop,
            **speed,
        },
        {
            "what": f"extraction against the backbone's bare fused forward, {what}",
            "times_as_fast": statistics.median(c / a for a, _, c in times),
            **share,
            "reference_seconds": limit,
            **speed,
        },
    ]


def graphs_against_usual(files: Sequence[Path], what: str) -> Iterator[Figure]:
    """Measure the graphs of `dagf extract` on the CPU against the usual loop."""
    for name, title in ((PACKAGED, "EfficientNet-Lite0"), ("resnet50", "ResNet-50")):
        encoder = encoder_of(name)
        net = encoder.network()
        for eight_bits, kind in ((False, "a float graph"), (True, "an eight-bit graph")):
            fast = by_graph(encoder, files, eight_bits)
            yield {
                "what": f"extraction by {kind} against the usual loop, {what}, {title}",
                **({"least": 3.0} if eight_bits else {}),
                **in_turns(partial(ours, fast), partial(usual, net), parts(files)),
            }


def in_turns(
    work: Callable[[list[Path]], object],
    reference: Callable[[list[Path]], object],
    some: Sequence[list[Path]],
) -> dict[str, float]:
    """Time work and reference on lists of files: how many times as fast, and the medians."""
    work(some[0][:4]), reference(some[0][:4])  # the first call allocates
    times = [(seconds(partial(work, one)), seconds(partial(reference, one))) for one in some]
    return {
        "times_as_fast": statistics.median(b / a for a, b in times),
        "seconds": statistics.median(a for a, _ in times),
        "reference_seconds": statistics.median(b for _, b in times),
    }


def dagf_end_to_end(files: Sequence[Path], what: str) -> Figure:
    """Time whole extractions with the registered DAGF against GeM's, part by part in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gem, dagf = (
        for_inference(MultiScale(network(arm=arm).to(device), SCALES), device.type == "cuda")
        for arm in ("gem", "dagf")
    )
    part = list(files[:8])
    ours(dagf, part), ours(gem, part)  # the first call allocates
    times = [
        (seconds(partial(ours, dagf, some)), seconds(partial(ours, gem, some)))
        for some in parts(files)
    ]
    return {"what": f"DAGF / GeM, whole extraction, {what}", "most": 1.10, **median_ratio(times)}


def large_originals(folder: Path) -> list[Path]:
    """Make photographs of 12 megapixels, like a phone's: enlarged drawings with sensor noise."""
    chance, files = np.random.default_rng(0), []
    for number in range(LARGE):
        drawn = Image.fromarray(drawing(number, 256)).resize((4000, 3000))
        grain = chance.normal(0, 6, (3000, 4000, 1))
        pixels = np.clip(np.asarray(drawn) + grain, 0, 255).astype(np.uint8)
        files.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files


def against_usual_on_large_originals() -> Figure:
    """Compare `dagf extract` with the usual loop, which decodes all 12 megapixels."""
    cuda, encoder = torch.cuda.is_available(), encoder_of("resnet18")
    net = encoder.network().to("cuda" if cuda else "cpu")
    with TemporaryDirectory() as folder:
        files = large_originals(Path(folder))
        fast = for_inference(MultiScale(net, SCALES), True) if cuda else by_graph(encoder, files)
        measured = in_turns(partial(ours, fast), partial(usual, net), [files] * 3)
    how = "in bfloat16" if cuda else "by an eight-bit graph"
    what = f"extraction {how} against the usual loop, {LARGE} JPEGs of 12 megapixels"
    return {"what": what, "least": 5.0, **measured}


def drawing(number: int, size: int) -> NDArray[np.uint8]:
    """A drawing of Toytown, (size, size, 3)."""
    return photograph(2023, STREAMS["distractors"], number, 0, size, "distractor").image


def drawn_photographs(folder: Path) -> Iterator[Path]:
    """Stand-ins where no photographs are named: drawings of 384 x 512 pixels."""
    for number in range(PHOTOGRAPHS):
        file = folder / f"{number:03}.jpg"
        Image.fromarray(drawing(number, 512)[64:448]).save(file, quality=90)
        yield file


def figures(photographs: Path | None) -> Iterator[Figure]:
    """All figures of this file, over the photographs of a folder, or over drawings."""
    with TemporaryDirectory() as folder:
        if photographs:
            files, what = sorted(photographs.rglob("*.jpg"))[:PHOTOGRAPHS], "photographs"
        else:
            files, what = list(drawn_photographs(Path(folder))), "drawings of 384 x 512"
        where = f"{len(files)} {what}, longest side {SPEC.size}, {len(SCALES)} scales, ResNet-18"
        precise = f"{where}, {PRECISION[device()]}"
        yield from against_usual_and_limit(files, precise)
        yield dagf_end_to_end(files, precise)
        if not torch.cuda.is_available():
            yield from graphs_against_usual(files[:GRAPHED], where.rpartition(",")[0])
        yield against_usual_on_large_originals()
