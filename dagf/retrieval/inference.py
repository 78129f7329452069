"""What a network makes of batches: a copy of it that is fast, several scales, and the descriptors."""

import copy
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as fn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dagf.console import progress
from dagf.datasets.batches import Batch, network_input
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import Descriptors

M = TypeVar("M", bound=nn.Module)
Extracted_ = tuple[NDArray[np.int64], NDArray[np.float32]]


class MultiScale(nn.Module):
    """A network at several image scales: the mean of the unit descriptors, normalised again.

    scales: factors of the image's sides, e.g. (1, 2**-0.5, 0.5) of cnnimageretrieval. All scales are made
    from one decoded image.
    """

    def __init__(self, network: nn.Module, scales: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.network = network
        self.scales = scales

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit descriptors (B, D)."""
        return fn.normalize(
            torch.stack([self.network(_scaled(images, scale)) for scale in self.scales]).mean(0)
        )


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return fn.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def for_inference(encode: M, half: bool = False) -> M:
    """A copy of a network, or of a module with networks in it, that gives the same descriptors faster.

    In the backbone of every `RetrievalNet` the batch norms become part of the convolutions before them, and weights lie
    channels last. The copy is for inference: it is in evaluation mode, has no gradients, and later changes of the
    original are not in it. half: the backbone works in bfloat16, the head in float32 as always.
    """
    encode = copy.deepcopy(encode).eval().requires_grad_(False)
    for module in list(encode.modules()):
        if isinstance(module, RetrievalNet):
            folded = fold_batch_norms(module.backbone)
            module.backbone = _Half(folded) if half else folded
    return encode.to(memory_format=torch.channels_last)


class _Half(nn.Module):
    """A backbone in bfloat16."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.backbone(images)


class _Tracer(fx.Tracer):
    """Follows a backbone down to the layers of PyTorch and to torchvision's operators, which it leaves whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        operator = m.__module__.startswith("torchvision.ops") and not isinstance(m, nn.Sequential)
        return operator or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms(backbone: nn.Module) -> fx.GraphModule:
    """A backbone in evaluation mode whose convolutions have taken in the batch norms that follow them.

    What stands otherwise (before its convolution, after a sum, a convolution that is read twice) stays as it is. The
    modules of `backbone` serve in the result and must not be used any more.
    """
    graph = _Tracer().trace(backbone)
    modules = dict(backbone.named_modules())
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        name, norm_name = str(before.target), str(node.target)
        convolution, norm = modules[name], modules[norm_name]
        alone = called.count(name) == called.count(norm_name) == 1
        if alone and isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            backbone.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    return fx.GraphModule(backbone, graph)


def encoded(encode: nn.Module, batches: Iterable[Batch]) -> Iterator[Extracted_]:
    """Row numbers and descriptors (B, D), float32, of the batches of `image_batches` or `FeatureMaps`, in order.

    encode: images or maps (B, ., H, W) -> unit descriptors (B, D), run on the device of its parameters, in
    evaluation mode and without gradients.
    """
    encode.eval()
    device = next((parameter.device for parameter in encode.parameters()), torch.device("cpu"))
    running: tuple[NDArray[np.int64], Tensor] | None = None
    for rows, images in batches:
        with torch.inference_mode():
            found = encode(network_input(images, device)).float()
        if running:  # fetched once the next batch is on its way: fetching waits for a GPU
            yield running[0], running[1].cpu().numpy()
        running = rows, found
    if running:
        yield running[0], running[1].cpu().numpy()


def extract(
    encode: nn.Module, batches: Iterable[Batch], count: int, what: str = "extracting"
) -> Descriptors:
    """Descriptors (count, D), float32, of batches that cover `count` rows: `encoded`, with a progress bar."""
    out: NDArray[np.float32] | None = None
    for rows, found in progress(
        encoded(encode, batches), what, count, amount=lambda part: len(part[0])
    ):
        out = np.empty((count, found.shape[1]), np.float32) if out is None else out
        out[rows] = found
    return np.empty((0, 0), np.float32) if out is None else out
