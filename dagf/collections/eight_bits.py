"""A graph whose convolutions work in eight bits, several times as fast where the CPU has VNNI.

Weights have a scale a channel. Activations have one each, fitted to some images: what lies beyond
a quantile of them is cut off. The first and the last convolutions, sums and the head stay in float.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from dagf.retrieval.graph import INPUT

FIRST, LAST = 2, 1  # convolutions that stay in float
CUT = 1e-4  # share of an activation's values that is cut off at either end
SAMPLED = 200_000  # values of an activation that a quantile is taken of
KINDS = ("Conv", "Clip", "Relu", "MaxPool")
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")  # what multiplies bytes at once


def eight_bits_pay() -> bool:
    """Whether this CPU multiplies bytes several times as fast as floats."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in VNNI)


def in_eight_bits(graph: Path, images: Iterable[NDArray[np.float32]], path: Path) -> None:
    """Write a graph as one in eight bits, fitted to batches of images (B, 3, H, W)."""
    with TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(graph, ready, skip_symbolic_shape=True)  # batch norms are folded
        model = onnx.load(ready)
    nodes = list(model.graph.node)
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    floats = [*convolutions[:FIRST], *convolutions[-LAST:]]
    after = nodes.index(convolutions[-1])
    plain = {output for node in floats for output in node.output}
    chosen = [
        node
        for node in nodes[:after]
        if node.op_type in KINDS and node not in floats and node.input[0] not in plain
    ]
    tensors = dict.fromkeys(name for node in chosen for name in (node.input[0], *node.output))
    spans = TensorsData(CalibrationMethod.Percentile, _spans(model, [*tensors], images))
    names = [node.name for node in chosen]
    kinds = QuantType.QInt8, QuantType.QUInt8
    made = QDQQuantizer(model, True, False, *kinds, spans, names, [], KINDS, {})
    made.quantize_model()
    made.model.save_model_to_file(str(path), False)


def _spans(
    model: onnx.ModelProto, names: list[str], images: Iterable[NDArray[np.float32]]
) -> dict[str, TensorData]:
    """Return from where to where the values of tensors go, but for `CUT` of them."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    kind = onnx.TensorProto.FLOAT
    told.graph.output.extend(onnx.helper.make_tensor_value_info(n, kind, None) for n in names)
    session = onnxruntime.InferenceSession(told.SerializeToString())
    found = defaultdict[str, list[NDArray[np.float64]]](list)
    for batch in images:
        for name, values in zip(names, session.run(names, {INPUT: batch}), strict=True):
            some = values.ravel()[:: max(1, values.size // SAMPLED)]
            found[name].append(np.quantile(some, (CUT, 1 - CUT)))
    means = {name: np.mean(pairs, 0).astype(np.float32) for name, pairs in found.items()}
    return {name: TensorData(lowest=low, highest=high) for name, (low, high) in means.items()}
