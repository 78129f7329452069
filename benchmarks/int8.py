"""Quantise a backbone to int8 by onnxruntime, as PyTorch plans to delete its own quantisation.

Weights have a scale a channel, activations one each, calibrated on their least and largest values
on some photographs. The head stays in float32. Weights trained for int8 lose less than others.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from dagf.collections.export import AXES, INPUT, OUTPUT
from dagf.console import cores
from dagf.datasets.batches import image_batches, network_input
from dagf.datasets.decode import ImageSpec
from dagf.retrieval.extract import MultiScale

EXAMPLE = (2, 3, 96, 128)  # no two of them alike: they would be one axis


class _Backbone(nn.Module):
    """A backbone that onnxruntime works out on all cores: images (B, 3, H, W) -> its map."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def forward(self, images: Tensor) -> Tensor:
        (found,) = self.session.run([OUTPUT], {INPUT: _plain(images)})
        return torch.from_numpy(found)


class _Seen(CalibrationDataReader):
    """The inputs that the scales are fitted to, one after the other."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        images = next(self.batches, None)
        return None if images is None else {INPUT: _plain(images)}


def in_eight_bits(encode: MultiScale, seen: Sequence[Path], spec: ImageSpec) -> MultiScale:
    """An encoder of `for_inference`, its backbone in eight bits fitted to the images `seen`."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of its own inside
        whole, ready, small = (
            Path(folder) / f"{name}.onnx" for name in ("whole", "ready", "small")
        )
        backbone = encode.network.backbone
        program = torch.onnx.export(
            backbone, (torch.zeros(EXAMPLE),), input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=(AXES,), verbose=False,
        )  # fmt: skip
        program.save(whole, external_data=False)
        quant_pre_process(whole, ready, skip_symbolic_shape=True)
        inputs = _Seen(
            network_input(images, torch.device("cpu"))
            for _, images in image_batches(seen, spec, batch=8)
        )
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(ready, small, inputs, per_channel=True, **kinds)
        encode.network.backbone = _Backbone(small)
    return encode


def _plain(images: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(images.numpy())
