import argparse
import pickle
import re
import socket
import warnings
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from dagf.datasets.decode import IMAGENET_MEAN, IMAGENET_STD
from dagf.errors import UserError
from dagf.files import file_sha256
from dagf.model import backbone as module
from dagf.model.backbone import PACKAGED, BackboneSpec, SmallBackbone, make_backbone
from dagf.model.network import AttentiveHead, RetrievalNet, feature_map
from dagf.model.variants import variant
from tests.fixtures import Code, fails
from tests.model.modules import images, stirred

BACKBONES = {
    "small": (128, 8), "resnet18": (512, 32), "mobilenet_v2": (1280, 32),
    "mobilenet_v3_small": (576, 32), "squeezenet1_0": (512, 16), "efficientnet_b0": (1280, 32),
    "convnext_tiny": (768, 32), "regnet_y_400mf": (440, 32), "timm:resnet18": (512, 32),
    "timm:convnext_atto": (320, 32), PACKAGED: (1280, 32),
}  # fmt: skip
RAMP = {71: 0.2182, 113: 0.1979, 425: 0.1892, 1157: 0.1827}  # the most of a ramp's descriptor
State = dict[str, torch.Tensor]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_a_map_that_grows_with_the_image(name: str) -> None:
    network, _, channels = make_backbone(BackboneSpec(name))
    assert channels == BACKBONES[name][0]
    encode, stride = AttentiveHead(channels, variant("dagf")), BACKBONES[name][1]
    with torch.inference_mode():
        for height, width in [(64, 96), (131, 70)]:
            found = encode.inspect(network(images(1, 3, height, width)))
            assert found.features.shape[:2] == (1, channels)
            assert found.features.shape[2] == pytest.approx(height / stride, abs=1.5)
            assert found.features.shape[3] == pytest.approx(width / stride, abs=1.5)
            assert found.features.max() > 0


def test_the_default_cut_of_each_family_is_its_last_map() -> None:
    """Only pooling and the classifier come after it."""
    tails = {"avgpool", "classifier", "fc", "flatten", "dropout", "pool"}
    names = torchvision.models.list_models(module=torchvision.models)
    firsts = {re.match("[a-z]+", name)[0]: name for name in reversed(names)}
    del firsts["regnet"]  # computes its widths, which no meta device can
    families = set()
    for family, name in firsts.items():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torchvision.models.get_model(name, weights=None)
        try:
            cut = module.default_cut(network, name)
        except UserError:
            continue
        families.add(family)
        order = [path for path, module in network.named_modules() if not list(module.children())]
        within = [at for at, path in enumerate(order) if f"{path}.".startswith(f"{cut}.")]
        for path in order[within[-1] + 1 :]:
            pools = isinstance(network.get_submodule(path), nn.MaxPool2d)
            assert pools or path.split(".")[0] in tails, f"{name}: {path} comes after {cut}"
    assert families == {*module.WITH_FEATURES, "resnet", "resnext", "wide"}


@pytest.mark.parametrize(
    ("name", "cut", "shape", "rectified"),
    [
        ("mobilenet_v2", "features.13", (96, 4, 4), False),
        (PACKAGED, "blocks.4", (112, 4, 4), False),
        (PACKAGED, "blocks.5.0.bn1", (672, 4, 4), True),
        (PACKAGED, "bn2", (1280, 2, 2), True),
    ],
)
def test_a_backbone_can_be_cut_anywhere(
    name: str, cut: str, shape: tuple[int, ...], rectified: bool
) -> None:
    network, _, channels = make_backbone(BackboneSpec(name, cut))
    found = network(images(1, 3, 64, 64))
    assert (channels, *found.shape[1:]) == (shape[0], *shape)
    assert (found.min() >= 0) == rectified


@pytest.mark.parametrize(
    ("name", "cut", "stage"),
    [
        ("resnet18", "layer3", ("layer4",)),
        (PACKAGED, "blocks.4", ("blocks.5", "blocks.6", "conv_head", "bn2")),
    ],
)
def test_a_last_stage_goes_on_where_the_backbone_ends(
    name: str, cut: str, stage: tuple[str, ...], tmp_path: Path
) -> None:
    """With the weights of the same file: together they are the network that is not divided."""
    file = "imagenet"
    if name != PACKAGED:
        file = str(tmp_path / "weights.pth")
        torch.save(stirred(torchvision.models.get_model(name, weights=None)).state_dict(), file)
    whole = RetrievalNet(BackboneSpec(name, weights=file), variant("gem")).eval()
    net = RetrievalNet(BackboneSpec(name, cut, file, stage), variant("gem")).train()
    assert not net.stage.training  # pretrained batch norms stay as they are
    seen = images(2, 4, 64, 96)
    maps = feature_map(net.backbone, seen).detach()
    with torch.inference_mode():
        assert net.features(seen).shape == whole.features(seen).shape  # with the exact mask
        for found in net(seen), net.on_maps(maps):
            torch.testing.assert_close(found, whole(seen), rtol=1e-4, atol=1e-4)
    net.on_maps(maps).sum().backward()
    assert all(one.grad is None for one in net.backbone.parameters())
    assert all(one.grad is not None for one in net.stage.parameters())


def test_weights_that_come_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the one known; all of timm's network has its weights, and its own colours."""
    monkeypatch.setattr(socket, "socket", None)  # nothing is downloaded
    file = Path(str(resources.files(module.PACKAGE[0]) / module.PACKAGE[1]))
    assert file_sha256(file) == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    whole = timm.create_model(PACKAGED.removeprefix(module.TIMM)).eval()
    values = torch.load(file, weights_only=True).values()
    whole.load_state_dict(dict(zip(whole.state_dict(), values, strict=True)))
    net = RetrievalNet(BackboneSpec(PACKAGED, weights="imagenet"), variant("gem")).eval()
    mean, deviation = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])[..., None, None]
    with torch.inference_mode():
        for height, width in ((96, 96), (97, 70)):
            pixels = torch.rand(2, 3, height, width)
            expected = whole.forward_features((pixels - 0.5) / 0.5)
            found = net.backbone((pixels - mean) / deviation)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        row = torch.arange(96) / 95
        ramp = torch.stack(
            [row.expand(96, 96), row[:, None].expand(96, 96), 1 - row.expand(96, 96)]
        )
        (descriptor,) = net((ramp[None] - mean) / deviation)
    values, places = (found.tolist() for found in descriptor.topk(len(RAMP)))
    assert dict(zip(places, values, strict=True)) == pytest.approx(RAMP, abs=1e-3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BackboneSpec("resnet81"), "unknown backbone 'resnet81': did you mean 'resnet18'"),
        (BackboneSpec("smal"), "did you mean 'small'"),
        (BackboneSpec("tf_efficientnet_lite0"), "did you mean 'timm:tf_efficientnet_lite0'"),
        (BackboneSpec("timm:resnet81"), "unknown backbone 'timm:resnet81': .* timm:resnet51q"),
        (BackboneSpec("timm:resnet18.best"), r"weights of timm:resnet18.best could not .*\(best\)"),
        (BackboneSpec("timm:vit_tiny_patch16_224"), "vit_tiny_patch16_224 cannot be cut at a map"),
        (BackboneSpec("resnet18", "layer9"), "unknown node of resnet18 'layer9': did you mean"),
        (BackboneSpec("resnet18", "layer3", stage=("layer5",)), "resnet18 'layer5': did you mean"),
        (BackboneSpec("resnet18", "layer2", stage=("layer4",)), "resnet18 cannot be cut at a map"),
        (BackboneSpec("resnet18", "fc"), r"node 'fc' .* but of shape \(1, 1000\)"),
        (BackboneSpec("mnasnet0_5"), "backbone mnasnet0_5 has no default cut; name a node"),
        (BackboneSpec("small", stage=("4",)), "leave backbone.cut, .stage and .weights out"),
        (BackboneSpec("small", "3"), "backbone small has no node to cut at"),
        (BackboneSpec("small", weights="imagenet"), "backbone small has .* no ImageNet weights"),
    ],
)
def test_a_wrong_backbone_is_one_line(spec: BackboneSpec, message: str) -> None:
    fails(message, make_backbone, spec)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18"])
def test_no_network_is_told_with_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, progress: bool = False, **__: object) -> None:
        assert not progress  # no terminal: no bar
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    says = rf"ImageNet weights of {name} .*no route.* give a file"
    fails(says, make_backbone, BackboneSpec(name, weights="imagenet"))


def renamed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


VALUES = [np.float64(0.5), np.float32(1), np.int64(2), np.bool_(True), Path("/runs"), Path("a")]
VALUES += [datetime.now(UTC), datetime.now() - datetime(2020, 1, 1), defaultdict(list, {"a": [1]})]
AS_PEOPLE_HAVE_THEM: dict[str, Callable[[State], object]] = {
    "as they are": lambda state: state,
    "parallel": lambda state: {"epoch": 3, "state_dict": renamed(state, "module.")},
    "compiled": lambda state: renamed(state, "_orig_mod.model."),
    "compiled inside": lambda state: {
        key.replace("features.3.", "features.3._orig_mod.module."): v for key, v in state.items()
    },
    "with options": lambda state: {"model": state, "args": argparse.Namespace(rate=1)},
    "with values": lambda state: {"model": state, "values": VALUES},
    "with a head": lambda state: renamed(state, "backbone.") | {"head.p": torch.ones(1)},
    "two copies": lambda state: {"student": state, "teacher": renamed(state, "backbone.")},
    "other classes": lambda state: state | {"classifier.1.weight": torch.ones(7, 512, 1, 1)},
    "no classifier": lambda state: {k: v for k, v in state.items() if k.startswith("features.")},
}


@pytest.mark.parametrize("kind", [*AS_PEOPLE_HAVE_THEM, "TorchScript", "safetensors"])
def test_weights_as_people_have_them(tmp_path: Path, kind: str) -> None:
    network, path = torchvision.models.squeezenet1_1(weights=None).eval(), tmp_path / "weights.pth"
    if kind == "TorchScript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated
            torch.jit.trace(network, images(1, 3, 64, 64)).save(path)
    elif kind == "safetensors":
        save_file(network.state_dict(), path := tmp_path / "weights.safetensors")
    else:
        torch.save(AS_PEOPLE_HAVE_THEM[kind](network.state_dict()), path)
    found, *_ = make_backbone(BackboneSpec("squeezenet1_1", weights=str(path)))
    with torch.inference_mode():
        expected = network.features(images(1, 3, 64, 64))
        torch.testing.assert_close(found(images(1, 3, 64, 64)), expected)


def test_what_differs_in_weights_is_named(tmp_path: Path) -> None:
    state, path = SmallBackbone().state_dict(), tmp_path / "small.pth"
    first = next(iter(state))
    without = {name: value for name, value in state.items() if "num_batches" not in name}
    spec = BackboneSpec("small", weights=str(path))
    mistakes: dict[str, State] = {
        f"it lacks {first} under 'net.'": renamed({k: state[k] for k in [*state][1:]}, "net."),
        f"its {first} is \\(1,\\), not \\(32, 3, 3, 3\\)": state | {first: torch.ones(1)},
        "another network, which has 3.more": state | {"3.more": torch.ones(1)},
        "no layer has a name such as .* begins with fc": {"fc": torch.ones(1)},
        "no layer has a name such as .* begins with nothing": {},
    }
    for said, values in mistakes.items():
        torch.save(values, path)
        fails(f"small.pth does not fit small: .*{said}", make_backbone, spec)
    torch.save(without, path)  # as older files are
    found = make_backbone(spec)[0].state_dict()
    assert all(found[name].equal(value) for name, value in without.items())


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    other = torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()
    code = Code(tmp_path / "fired")
    contents: dict[str, object] = {
        "code-in-zip.pth": code, "list.pth": [1, 2], "other.pth": other, "missing.pth": None,
        "code.pth": pickle.dumps(code, 2), "empty.pth": b"", "text.pth": b"<html>404</html>",
        "missing.safetensors": None, "text.safetensors": b"<html>404</html>",
    }  # fmt: skip
    for name, content in contents.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        said = "does not fit squeezenet1_0: .*[a-z]{3}"
        said = "does not exist" if content is None else said
        said = "does not fit .*; save the state dict alone" if "code" in name else said
        fails(f"{name} {said}", make_backbone, BackboneSpec("squeezenet1_0", weights=str(path)))
    assert not code.file.exists()


def test_batch_norms_of_a_pretrained_backbone_stay(tmp_path: Path) -> None:
    torch.save(SmallBackbone().state_dict(), tmp_path / "small.pth")
    for weights, moves in ((str(tmp_path / "small.pth"), False), ("none", True)):
        net = RetrievalNet(BackboneSpec("small", weights=weights), variant("gem")).train()
        before = {name: value.clone() for name, value in net.backbone.named_buffers()}
        net(images(4, 3, 32, 32))
        buffers = net.backbone.named_buffers()
        moved = any(not torch.equal(before[name], value) for name, value in buffers)
        assert moved is moves
        assert net.backbone.training is moves
        assert net.head.training
        assert not net.eval().training
