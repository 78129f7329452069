"""Backbones: the convolutional networks whose feature map everything else reads.

Any convolutional classifier of torchvision, cut at a named feature map, or `SmallBackbone`, which
learns from nothing on two cores. A backbone maps images (B, 3, H, W), normalised as ImageNet's, to
(B, C, h, w).
"""

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import list_models
from torchvision.models.feature_extraction import create_feature_extractor

from dagf.errors import UserError, choose


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone: its name, the node to cut at ('' for the default), and its weights.

    weights: 'none' (random), 'imagenet' (torchvision's default weights, downloaded once) or a file
    with a state dict (.pth or .safetensors).
    """

    name: str = "small"
    cut: str = ""
    weights: str = "none"

    @property
    def pretrained(self) -> bool:
        """Whether it starts from learned weights; then its batch norms stay in evaluation mode."""
        return self.weights != "none"


# Families of torchvision whose `features` end with the last map, or with a max pooling after it.
WITH_FEATURES = (
    *("alexnet", "convnext", "densenet", "efficientnet"),
    *("mobilenet", "squeezenet", "vgg"),
)


class SmallBackbone(nn.Sequential):
    """Four residual stages, stride 8 in all, 128 channels: 96 px give a 12 x 12 map."""

    channels = 128

    def __init__(self) -> None:
        stages = (32, 32, 2), (32, 48, 2), (48, 96, 1), (96, 128, 1)
        stem = nn.Sequential(*normed(3, 32, 3, 2), nn.ReLU())
        super().__init__(stem, *(_Residual(*stage) for stage in stages))


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *normed(inputs, outputs, 3, stride), nn.ReLU(), *normed(outputs, outputs, 3)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*normed(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def normed(inputs: int, outputs: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """Return a convolution that keeps the map's size at stride 1, and its batch norm."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


class _Cut(nn.Module):
    """A torchvision network up to one named node."""

    def __init__(self, network: nn.Module, node: str) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # the tracer notes that train and eval modes differ: by the dropout after the cut
            warnings.simplefilter("ignore")
            self.layers = create_feature_extractor(network, {node: "map"})

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)["map"]


def make_backbone(spec: BackboneSpec) -> tuple[nn.Module, int]:
    """Return the backbone and the number of channels of its map.

    Raise `UserError` for an unknown network or node, and for weights that do not fit.
    """
    name = choose("backbone", spec.name, ["small", *list_models(module=torchvision.models)])
    if name == "small":
        if spec.cut or spec.weights == "imagenet":
            raise UserError(
                "backbone small has no node to cut at and no ImageNet weights; "
                "leave backbone.cut and .weights out"
            )
        return _with_weights(SmallBackbone(), spec.weights), SmallBackbone.channels
    try:
        pretrained = "DEFAULT" if spec.weights == "imagenet" else None
        network = torchvision.models.get_model(name, weights=pretrained)
    except OSError as error:
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded ({error}); "
            "give a file of weights instead (--weights FILE)"
        ) from error
    node = spec.cut or default_cut(network, name)
    if not node:
        raise UserError(
            f"backbone {name} has no default cut; name a node, e.g. backbone.cut: features.10"
        )
    choose(f"node of {name}", node, [path for path, _ in network.named_modules() if path])
    backbone = _Cut(_with_weights(network, spec.weights), node)
    with torch.inference_mode():
        shape = backbone.eval()(torch.zeros(1, 3, 64, 64)).shape
    if len(shape) != 4:
        raise UserError(f"node '{node}' of {name} is not a feature map but of shape {tuple(shape)}")
    return backbone, shape[1]


def default_cut(network: nn.Module, name: str) -> str:
    """Return the node of the last map with spatial extent; '' for a network that is not known."""
    if name.startswith(WITH_FEATURES):
        *_, before, (last, module) = network.get_submodule("features").named_children()
        return f"features.{before[0] if isinstance(module, nn.MaxPool2d) else last}"
    return next((node for node in ("layer4", "trunk_output") if hasattr(network, node)), "")


def _with_weights(network: nn.Module, weights: str) -> nn.Module:
    """Return the network with the weights of a file, if `weights` names one."""
    if weights in ("none", "imagenet"):
        return network
    if not Path(weights).is_file():
        raise UserError(f"weights file {weights} does not exist: check the spelling")
    try:
        tensors = weights.endswith(".safetensors")
        state = load_file(weights) if tensors else torch.load(weights, "cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # torch and safetensors raise many kinds, some of many lines
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # whose text advises to run the code in it
            reason = "it is damaged or holds more than tensors; save the state dict alone"
        raise UserError(
            f"weights file {weights} does not fit {type(network).__name__}: {reason}"
        ) from error
    return network
