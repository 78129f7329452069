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
    "alexnet",
    "convnext",
    "densenet",
    "efficientnet",
    "mobilenet",
    "squeezenet",
    "vgg",
)


class SmallBackbone(nn.Sequential):
    """Four residual stages, stride 8 in all, 128 channels: 96 px give a 12 x 12 map."""

    channels = 128

    def __init__(
        self, widths: tuple[int, ...] = (32, 48, 96, 128), strides: tuple[int, ...] = (2, 2, 1, 1)
    ) -> None:
        stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        inputs = (widths[0], *widths[:-1])
        super().__init__(
            stem, *(_Residual(*stage) for stage in zip(inputs, widths, strides, strict=True))
        )


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


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
    if spec.name == "small":
        small = SmallBackbone()
        if spec.cut or spec.weights == "imagenet":
            raise UserError(
                "backbone small has no node to cut at and no ImageNet weights; "
                "leave backbone.cut and .weights out"
            )
        if spec.pretrained:
            _load_weights(small, Path(spec.weights))
        return small, SmallBackbone.channels
    name = choose(
        "backbone", spec.name, ["small", *torchvision.models.list_models(module=torchvision.models)]
    )
    try:
        network = torchvision.models.get_model(
            name, weights="DEFAULT" if spec.weights == "imagenet" else None
        )
    except OSError as error:
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded ({error}); "
            "give a file of weights instead (--weights FILE)"
        ) from error
    if spec.weights not in ("none", "imagenet"):
        _load_weights(network, Path(spec.weights))
    backbone = _cut(network, name, spec.cut)
    with torch.inference_mode():
        shape = backbone.eval()(torch.zeros(1, 3, 64, 64)).shape
    if len(shape) != 4:
        raise UserError(
            f"node '{spec.cut}' of {name} is not a feature map but of shape {tuple(shape)}"
        )
    return backbone, shape[1]


def _cut(network: nn.Module, name: str, node: str) -> nn.Module:
    node = node or default_cut(network, name)
    if not node:
        raise UserError(
            f"backbone {name} has no default cut; name a node, e.g. backbone.cut: features.10"
        )
    choose(f"node of {name}", node, [path for path, _ in network.named_modules() if path])
    return _Cut(network, node)


def default_cut(network: nn.Module, name: str) -> str:
    """Return the node of the last map with spatial extent; '' for a network that is not known."""
    if name.startswith(WITH_FEATURES):
        *_, before, (last, module) = network.get_submodule("features").named_children()
        return f"features.{before[0] if isinstance(module, nn.MaxPool2d) else last}"
    return next((node for node in ("layer4", "trunk_output") if hasattr(network, node)), "")


def _load_weights(network: nn.Module, path: Path) -> None:
    read = load_file if path.suffix == ".safetensors" else _load_tensors
    try:
        network.load_state_dict(read(path))
    except FileNotFoundError as error:
        raise UserError(f"weights file {path} does not exist") from error
    except pickle.UnpicklingError as error:  # torch's own text advises to run the code in it
        raise UserError(
            f"weights file {path} is refused: it is damaged or holds more than tensors; "
            "save the state dict alone"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds, some of many lines
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"weights file {path} does not fit {type(network).__name__}: {reason[:300]}"
        ) from error


def _load_tensors(path: Path) -> dict[str, Tensor]:
    return torch.load(path, "cpu", weights_only=True)
