"""An encoder as one ONNX file: images in, descriptors out, without PyTorch and this package.

The graph takes any batch, height and width, or images of one size. It is compared with the network
before it is kept.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

import dagf
from dagf.datasets.decode import IMAGENET_MEAN, IMAGENET_STD
from dagf.datasets.images import to_input
from dagf.errors import UserError
from dagf.files import atomic_path
from dagf.model.network import RetrievalNet
from dagf.model.pooling import POOLINGS
from dagf.model.scale_mask import MASKS
from dagf.retrieval.graph import INPUT, OUTPUT, Graph
from dagf.study.runs import Head, Run

AXES = {0: "batch", 2: "height", 3: "width"}
# The largest difference of a number of a descriptor, whose length is 1: sums are rounded in another
# order. That may also make another cell the greatest of a channel, and a mask then keeps that one.
TOLERANCE, WITH_MASK = 1e-4, 2e-3
SMALLEST = 32  # pixels; some backbones have nothing left of a smaller image


def write_onnx(run: Run, path: Path) -> str:
    """Write a run as the ONNX file `path`: `images` (B, 3, H, W) -> unit `descriptors` (B, D).

    Return what was written, in a line. Raises as `write_graph` does.
    """
    net = run.network()
    least = smallest_side(net, max(run.variant.windows))
    found = write_graph(run, net, path, least)
    return (
        f"{path}: images (batch, 3, height, width) from {least} pixels a side on -> descriptors "
        f"(batch, {net.dimensions}); largest difference {found:.0e}"
    )


def write_graph(
    encoder: Head, net: RetrievalNet, path: Path, side: int, only: bool = False
) -> float:
    """Write an encoder as a graph; return the largest difference of its descriptors' numbers.

    Images are float32, normalised as by `to_input`, of at least `side` pixels a side, or of just as
    many (`only`), which is made faster, and runs so; how, and what the encoder is, stands in the
    metadata of the file.

    Raises `UserError` for a variant that no such graph can hold, an operator that ONNX lacks, and
    descriptors that differ by more than rounding; nothing is written then.
    """
    made_of = encoder.variant
    name = f"run {encoder.id} ({made_of.title})" if encoder.id else made_of.title
    cannot = f"{name} cannot be exported"
    if not (only or POOLINGS[made_of.pooling].any_size):
        raise UserError(f"{cannot}: the regions of its pooling follow from the size of the map")
    if not MASKS[made_of.mask].repeatable:
        raise UserError(f"{cannot}: its mask keeps other cells in every pass")
    # No two sides alike, and no batch of 1: they would be fixed.
    shapes = [(2, side, side)] if only else [(2, side + 64, side + 96), (1, side, 2 * side + 5)]
    try:
        program = _program(net, shapes[0], {0: "batch"} if only else AXES)
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter wraps it in pages of advice
            cause = cause.__cause__
        raise UserError(f"{cannot}: {str(cause).splitlines()[0][:300]}") from error
    program.model.metadata_props.update(
        {
            "run": encoder.id,
            "dagf": dagf.__version__,
            "variant": made_of.title,
            "backbone": encoder.config.backbone.name,
            "input": f"{INPUT}: float32 (batch, 3, height, width), RGB, each channel "
            "(value / 255 - mean) / std",
            "output": f"{OUTPUT}: float32 (batch, {net.dimensions}), unit length",
            "mean": json.dumps(IMAGENET_MEAN),
            "std": json.dumps(IMAGENET_STD),
            "image": json.dumps(asdict(encoder.config.image)),
            "smallest_side": str(side),
        }
    )
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)
        found = difference(net, temporary, shapes)
        bound = TOLERANCE if made_of.mask == "none" else WITH_MASK
        if not found <= bound:  # written so that NaN fails it
            raise UserError(
                f"{cannot}: as ONNX its descriptors differ by {found:.1e}, more than {bound:g}; "
                f"{path} was not written: try the versions of constraints.txt"
            )
    return found


@torch.inference_mode()
def smallest_side(net: RetrievalNet, window: int) -> int:
    """Return the smallest side of an image whose map is not smaller than the largest window.

    The network cuts a window to a smaller map (`ScaleFilters`); a graph, of one form, does not.
    """
    return next(
        side
        for side in count(SMALLEST)
        if min(net.features(torch.zeros(1, 3, side, side)).shape[2:]) >= window
    )


def _program(
    net: RetrievalNet, shape: tuple[int, int, int], axes: dict[int, str]
) -> torch.onnx.ONNXProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of its own inside
        names: Any = {"input_names": [INPUT], "output_names": [OUTPUT]}
        example = (_pictures(*shape),)
        program = torch.onnx.export(net, example, dynamic_shapes=(axes,), verbose=False, **names)
    assert program is not None  # it is None for the older exporter alone
    for node in program.model.graph:
        node.metadata_props.clear()  # each holds the paths of our sources on this machine
    return program


@torch.inference_mode()
def difference(net: RetrievalNet, file: Path, shapes: Sequence[tuple[int, int, int]]) -> float:
    """Return the largest difference between network and graph, over batches of such shapes."""
    graph, images = Graph(file), [_pictures(*shape) for shape in shapes]
    found = [np.abs(graph(one.numpy()) - net(one).numpy()).max() for one in images]
    return float(np.max(found))


def _pictures(batch: int, height: int, width: int) -> Tensor:
    """Return images as the network takes them; smooth ones: in noise every cell would be alike."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, height // 8 + 1, width // 8 + 1, generator=random)
    fine = fn.interpolate(coarse, (height, width), mode="bilinear")
    return to_input((255 * fine).to(torch.uint8))
