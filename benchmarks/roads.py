"""Faster roads on a CPU: what each gains in time, and what it costs in mAP on photographs.

Each is compared with the extraction as it is (folded, channels last, float32), in turns over the
same images. Times and mAP are those of MobileNetV2 with GeM off the shelf, at three scales.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import nn

from benchmarks.extraction import SCALES, SPEC, by_graph, encoder_of
from benchmarks.timing import Figure, ratio, seconds
from dagf.datasets import decode
from dagf.datasets.batches import image_batches, network_input, query_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.decode import Box, ImageSpec
from dagf.datasets.folder import load_folder
from dagf.devices import has_bfloat16
from dagf.retrieval.extract import MultiScale, extract, for_inference
from dagf.retrieval.metrics import evaluate_positions, mean_average_precision, stream_positions

ROUNDS = 5
ENLARGED = 4  # times: photographs of the size that a phone takes, whose decoding is reduced
BATCH = 16


def per_query(encode: nn.Module, benchmark: Benchmark, spec: ImageSpec) -> float:
    """mAP (per cent) of an encoder."""
    files = benchmark.database_paths
    rows = extract(encode, image_batches(files, spec), len(files))
    asked = extract(encode, query_batches(benchmark, spec), len(benchmark.queries))
    found = evaluate_positions(benchmark, stream_positions(benchmark, rows, asked))
    return mean_average_precision(found, benchmark.settings[0].name)


def compiled(encode: Any) -> nn.Module:
    """Compile the encoder's backbone by torch.compile; the first call of each size is slow."""
    encode.network.backbone.compile()
    return encode


def figures(folder: Path, weights: Path) -> Iterator[Figure]:
    """Measure each road: its time over the extraction's as it is, and its mAP on the folder."""
    encoder = encoder_of("mobilenet_v2", str(weights))
    net = MultiScale(encoder.network(), SCALES)
    plain, benchmark = for_inference(net), replace(load_folder(folder), distractors=())
    smaller = ImageSpec(max(1, max(_size(benchmark)) * 3 // 4))
    roads: dict[str, tuple[nn.Module, ImageSpec]] = {
        "torch.compile": (compiled(for_inference(net)), SPEC),
        "int8 by onnxruntime": (by_graph(encoder, benchmark.database_paths), SPEC),
        "three quarters of the size": (plain, smaller),
        "one scale": (for_inference(MultiScale(net.network)), SPEC),
    }
    if has_bfloat16():  # elsewhere it takes many times as long
        roads["bfloat16"] = for_inference(net, half=True), SPEC
    files = benchmark.database_paths[:BATCH]
    yield {
        "what": "as it is: folded, channels last, float32",
        "mAP": per_query(plain, benchmark, SPEC),
    }
    for name, (encode, spec) in roads.items():
        first = seconds(partial(run, encode, files, spec))
        timed = ratio(partial(run, encode, files, spec), partial(run, plain, files, SPEC), ROUNDS)
        yield {
            "what": f"{name} / as it is, MobileNetV2, {len(files)} photographs",
            "first_seconds": first,
            **timed,
        }
        yield {"what": f"{name}: judged", "mAP": per_query(encode, benchmark, spec)}
    yield from reduced_decoding(plain, benchmark)


def run(encode: nn.Module, files: list[Path], spec: ImageSpec) -> None:
    """Extract the files' descriptors in batches of one size."""
    for _, batch in image_batches(files, spec, batch=BATCH):
        with torch.inference_mode():
            encode(network_input(batch, torch.device("cpu")))


def _size(benchmark: Benchmark) -> tuple[int, int]:
    with Image.open(benchmark.database_paths[0]) as image:
        return image.size


def reduced_decoding(encode: nn.Module, benchmark: Benchmark) -> list[Figure]:
    """Measure mAP on enlarged photographs, their JPEGs decoded at reduced size and in full."""
    spec = ImageSpec(max(_size(benchmark)) * 10 // 19)  # a quarter leaves 1.9 times as many pixels
    what = f"photographs {ENLARGED} times as large, decoded"
    with TemporaryDirectory() as place:
        larger = enlarged(benchmark, Path(place))
        reduced = per_query(encode, larger, spec)
        with patch.object(decode, "_DRAFT_MARGIN", math.inf):
            full = per_query(encode, larger, spec)
    return [
        {"what": f"{what} at reduced size", "mAP": reduced},
        {"what": f"{what} in full", "mAP": full},
    ]


def enlarged(benchmark: Benchmark, folder: Path) -> Benchmark:
    """Enlarge the benchmark's photographs `ENLARGED` times a side, as JPEGs below `folder`."""
    for file in {*benchmark.database, *(query.file for query in benchmark.queries)}:
        with Image.open(benchmark.root / file) as opened:
            image = opened.convert("RGB")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        image.resize((image.width * ENLARGED, image.height * ENLARGED)).save(
            folder / file, "JPEG", quality=95
        )
    queries = [replace(query, box=query.box and larger(*query.box)) for query in benchmark.queries]
    return replace(benchmark, root=folder, queries=tuple(queries))


def larger(left: float, top: float, right: float, bottom: float) -> Box:
    """Return a box of the enlarged photograph."""
    return left * ENLARGED, top * ENLARGED, right * ENLARGED, bottom * ENLARGED
