import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from dagf.errors import UserError
from dagf.model.backbone import (
    WITH_FEATURES,
    BackboneSpec,
    SmallBackbone,
    default_cut,
    make_backbone,
)
from dagf.model.network import AttentiveHead, RetrievalNet
from dagf.model.variants import variant
from tests.fixtures import fails

from .test_network import images, stirred

BACKBONES = {
    "small": (128, 8), "resnet18": (512, 32), "mobilenet_v2": (1280, 32),
    "mobilenet_v3_small": (576, 32), "squeezenet1_0": (512, 16), "efficientnet_b0": (1280, 32),
    "convnext_tiny": (768, 32), "regnet_y_400mf": (440, 32),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_a_map_that_grows_with_the_image(name: str) -> None:
    network, channels = make_backbone(BackboneSpec(name))
    assert channels == BACKBONES[name][0]
    encode, stride = AttentiveHead(channels, variant("dagf")), BACKBONES[name][1]
    with torch.inference_mode():
        for height, width in [(64, 96), (131, 70)]:
            found = encode.inspect(network(images(1, 3, height, width)))
            assert found.features.shape[:2] == (1, channels)
            assert found.features.shape[2] == pytest.approx(height / stride, abs=1.5)
            assert found.features.shape[3] == pytest.approx(width / stride, abs=1.5)
            assert found.features.min() >= 0
            assert found.features.max() > 0
            torch.testing.assert_close(found.descriptor.norm(dim=1), torch.ones(1))


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
        if not (cut := default_cut(network, name)):
            continue
        families.add(family)
        order = [path for path, module in network.named_modules() if not list(module.children())]
        within = [at for at, path in enumerate(order) if f"{path}.".startswith(f"{cut}.")]
        for path in order[within[-1] + 1 :]:
            pools = isinstance(network.get_submodule(path), nn.MaxPool2d)
            assert pools or path.split(".")[0] in tails, f"{name}: {path} comes after {cut}"
    assert families == {*WITH_FEATURES, "resnet", "resnext", "wide"}


def test_a_backbone_can_be_cut_earlier() -> None:
    network, channels = make_backbone(BackboneSpec("mobilenet_v2", "features.13"))
    assert channels == 96
    assert network(images(1, 3, 64, 64)).shape == (1, 96, 4, 4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BackboneSpec("resnet81"), "unknown backbone 'resnet81': did you mean 'resnet18'"),
        (BackboneSpec("smal"), "did you mean 'small'"),
        (BackboneSpec("resnet18", "layer9"), "unknown node of resnet18 'layer9': did you mean"),
        (BackboneSpec("resnet18", "fc"), r"node 'fc' .* but of shape \(1, 1000\)"),
        (BackboneSpec("mnasnet0_5"), "backbone mnasnet0_5 has no default cut; name a node"),
        (BackboneSpec("small", "3"), "backbone small has no node to cut at"),
        (BackboneSpec("small", weights="imagenet"), "backbone small has .* no ImageNet weights"),
    ],
)
def test_a_wrong_backbone_is_one_line(spec: BackboneSpec, message: str) -> None:
    fails(message, make_backbone, spec)


def test_no_network_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(UserError, match=r"ImageNet weights of resnet18 .*no route.* give a file"):
        make_backbone(BackboneSpec("resnet18", weights="imagenet"))


@pytest.mark.parametrize("name", ["squeezenet1_0", "small"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path: Path, name: str, suffix: str) -> None:
    small = name == "small"
    network = SmallBackbone() if small else torchvision.models.get_model(name, weights=None)
    network = stirred(network)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    found, _ = make_backbone(BackboneSpec(name, weights=str(path)))
    reference = network.eval() if small else network.eval().features
    with torch.inference_mode():
        expected = reference(images(1, 3, 64, 64))
        torch.testing.assert_close(found.eval()(images(1, 3, 64, 64)), expected)
        fresh = make_backbone(BackboneSpec(name))[0].eval()
        assert not torch.allclose(fresh(images(1, 3, 64, 64)), expected)


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("raise SystemExit('code in the weights was run')",)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    other = torchvision.models.get_model("squeezenet1_1", weights=None).state_dict()
    contents: dict[str, object] = {
        "code-in-zip.pth": Malicious(), "list.pth": [1, 2], "other.pth": other, "missing.pth": None,
        "code.pth": pickle.dumps(Malicious(), 2), "empty.pth": b"", "text.pth": b"<html>404</html>",
        "missing.safetensors": None, "text.safetensors": b"<html>404</html>",
    }  # fmt: skip
    for name, content in contents.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        said = "does not fit SqueezeNet: .*[a-z]{3}"
        said = "does not exist" if content is None else said
        said = "does not fit .*; save the state dict alone" if "code" in name else said
        fails(f"{name} {said}", make_backbone, BackboneSpec("squeezenet1_0", weights=str(path)))


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
