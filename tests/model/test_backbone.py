import re
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from dagf.errors import UserError
from dagf.model.backbone import WITH_FEATURES, BackboneSpec, default_cut, make_backbone
from dagf.model.network import AttentiveHead
from dagf.model.variants import variant

from .test_network import images


@pytest.fixture(scope="module")
def backbone() -> Callable[[str], tuple[nn.Module, int]]:
    made: dict[str, tuple[nn.Module, int]] = {}

    def get(name: str) -> tuple[nn.Module, int]:
        if name not in made:
            made[name] = make_backbone(BackboneSpec(name))
        return made[name]

    return get


BACKBONES = {
    "small": (128, 8),
    "resnet18": (512, 32),
    "mobilenet_v2": (1280, 32),
    "mobilenet_v3_small": (576, 32),
    "squeezenet1_0": (512, 16),
    "efficientnet_b0": (1280, 32),
    "convnext_tiny": (768, 32),
    "regnet_y_400mf": (440, 32),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_a_map_that_grows_with_the_image(
    backbone: Callable[[str], tuple[nn.Module, int]], name: str
) -> None:
    network, channels = backbone(name)
    assert channels == BACKBONES[name][0]
    encode, stride = AttentiveHead(channels, variant("dagf")), BACKBONES[name][1]
    with torch.inference_mode():
        for height, width in [(64, 96), (131, 70)]:
            found = encode(network(images(1, 3, height, width)))
            assert found.features.shape[:2] == (1, channels)
            assert abs(found.features.shape[2] - height / stride) <= 1.5
            assert abs(found.features.shape[3] - width / stride) <= 1.5
            assert found.features.min() >= 0
            assert found.features.max() > 0
            torch.testing.assert_close(found.descriptor.norm(dim=1), torch.ones(1))


def test_every_default_cut_is_the_last_map() -> None:
    """For all of torchvision: only pooling and the classifier come after it."""
    tails = {"avgpool", "classifier", "fc", "flatten", "dropout", "pool"}
    families = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        if name.startswith("regnet"):  # computes its widths, which no meta device can
            continue
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torchvision.models.get_model(name, weights=None)
        cut = default_cut(network, name)
        if not cut:
            continue
        families.add(re.match("[a-z]+", name)[0])
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
        (
            BackboneSpec("resnet18", "layer9"),
            "unknown node of resnet18 'layer9': did you mean 'layer",
        ),
        (
            BackboneSpec("resnet18", "fc"),
            r"node 'fc' of resnet18 is not a feature map but of shape \(1, 1000\)",
        ),
        (BackboneSpec("mnasnet0_5"), "backbone mnasnet0_5 has no default cut; name a node"),
        (BackboneSpec("small", "3"), "backbone small has no node to cut at"),
        (BackboneSpec("small", weights="imagenet"), "backbone small has .* no ImageNet weights"),
    ],
)
def test_a_wrong_backbone_is_one_line(spec: BackboneSpec, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_backbone(spec)
    assert "\n" not in str(caught.value)


def test_no_network_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(
        UserError, match=r"ImageNet weights of resnet18 .*no route to host.* give a file"
    ):
        make_backbone(BackboneSpec("resnet18", weights="imagenet"))
