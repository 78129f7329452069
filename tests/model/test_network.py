import dataclasses
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from dagf.common import UserError
from dagf.model.network import AttentiveHead, Inspection, MapEncoder, RetrievalNet
from dagf.model.pooling import GeM
from dagf.model.scale_mask import MaxMask
from dagf.model.trunks import DEFAULT_CUTS, TrunkSpec, make_trunk
from dagf.model.variants import VARIANTS, Variant, variant


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(net: nn.Module) -> nn.Module:
    """Every learned number moved off its start, so that no module is the identity by chance."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source)
    return net


# --- variants ---------------------------------------------------------------------------------------------------


def choices(one: Variant) -> tuple[object, ...]:
    return tuple(value for key, value in dataclasses.asdict(one).items() if key != "title")


def test_there_is_one_dagf_and_it_has_all_modules() -> None:
    full = variant("dagf")
    assert full.spatial == "evaluator"
    assert full.activation == "sigmoid"
    assert full.channel
    assert full.windows == (1, 2, 3)
    assert full.mask == "max"
    assert full.pooling == "gem"
    head = AttentiveHead(8, full)
    assert head.spatial is not None
    assert head.channel is not None
    assert isinstance(head.scale_and_mask.mask, MaxMask)
    assert isinstance(head.scale_and_mask.pooling, GeM)
    assert [name for name, one in VARIANTS.items() if "dagf" in (name + one.title).lower()] == ["dagf"]


def test_no_two_variants_are_the_same() -> None:
    assert len({choices(one) for one in VARIANTS.values()}) == len(VARIANTS)
    assert len({one.title for one in VARIANTS.values()}) == len(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_variant_leaves_out_stays_off(name: str) -> None:
    made_of, feature_map = VARIANTS[name], images(2, 16, 6, 5).requires_grad_()
    found: Inspection = stirred(AttentiveHead(16, made_of))(feature_map)
    assert (found.attention is not None) == (made_of.spatial is not None)
    assert (found.channel_weights is not None) == made_of.channel
    assert len(found.kept) == len(made_of.windows)
    assert all((kept is not None) == (made_of.mask == "max") for kept in found.kept)
    torch.testing.assert_close(found.descriptor.norm(dim=1), torch.ones(2))
    found.descriptor[:, 0].sum().backward()
    assert feature_map.grad is not None
    assert torch.isfinite(feature_map.grad).all()


# --- one pass ---------------------------------------------------------------------------------------------------


def test_every_intermediate_is_what_its_name_says() -> None:
    head, feature_map = stirred(AttentiveHead(16, variant("dagf"))), images(2, 16, 6, 5)
    found = head(feature_map)
    assert torch.equal(found.features, feature_map.relu())  # negative activations are rectified first
    assert found.attention.shape == (2, 1, 6, 5)
    assert found.channel_weights.shape == (16,)
    weights = found.channel_weights.view(1, 16, 1, 1)
    torch.testing.assert_close(found.attended, weights * found.attention * found.features)
    assert [tuple(kept.shape) for kept in found.kept] == [(2, 1, 6, 5), (2, 1, 5, 4), (2, 1, 4, 3)]
    for share, kept in zip(found.kept_fraction, found.kept, strict=True):
        assert share.tolist() == pytest.approx([float(kept[b].sum()) / kept[b].numel() for b in range(2)])
    lengths = torch.tensor(
        [[[float(found.features[b, :, i, j].norm()) for j in range(5)] for i in range(6)] for b in range(2)]
    )
    torch.testing.assert_close(found.effective_weight[:, 0], lengths * found.attention[:, 0])
    assert torch.equal(MapEncoder(head)(feature_map), found.descriptor)


def test_the_baseline_keeps_all_and_weighs_by_length() -> None:
    found = AttentiveHead(16, variant("gem"))(images(2, 16, 6, 5))
    assert found.attention is None
    assert found.kept == [None]
    assert [share.tolist() for share in found.kept_fraction] == [[1.0, 1.0]]
    assert torch.equal(found.attended, found.features)
    torch.testing.assert_close(found.effective_weight, found.features.norm(dim=1, keepdim=True))


def test_spatial_attention_comes_first() -> None:
    """The evaluator sees the map before the channel weights do."""
    head = stirred(AttentiveHead(16, variant("dagf")))
    before = head(images(2, 16, 6, 5))
    with torch.no_grad():
        head.channel.theta.add_(torch.linspace(-2, 2, 16))
    after = head(images(2, 16, 6, 5))
    assert torch.equal(after.attention, before.attention)
    assert not torch.allclose(after.descriptor, before.descriptor)


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (17, 9), (96, 64)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    net = RetrievalNet(TrunkSpec("small"), "dagf").eval()
    with torch.inference_mode():
        found = net.inspect(images(2, 3, *size))
        assert torch.equal(net(images(2, 3, *size)), found.descriptor)
    assert found.features.shape == (2, 128, -(-size[0] // 8), -(-size[1] // 8))
    torch.testing.assert_close(found.descriptor.norm(dim=1), torch.ones(2))


def test_images_of_a_batch_do_not_see_each_other() -> None:
    net = stirred(RetrievalNet(TrunkSpec("small"), "dagf")).eval()
    batch = images(3, 3, 40, 48)
    with torch.inference_mode():
        torch.testing.assert_close(net(batch)[1:2], net(batch[1:2]), rtol=0, atol=1e-5)


def test_the_state_comes_back() -> None:
    net = stirred(RetrievalNet(TrunkSpec("small"), "dagf"))
    net(images(4, 3, 32, 32))  # moves the batch norms
    copy = RetrievalNet(TrunkSpec("small"), "dagf")
    assert not torch.allclose(copy.eval()(images(2, 3, 32, 32)), net.eval()(images(2, 3, 32, 32)))
    copy.load_state_dict(net.state_dict())
    assert torch.equal(copy(images(2, 3, 32, 32)), net(images(2, 3, 32, 32)))


# --- trunks -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk() -> Callable[[str], tuple[nn.Module, int]]:
    made: dict[str, tuple[nn.Module, int]] = {}

    def get(name: str) -> tuple[nn.Module, int]:
        if name not in made:
            made[name] = make_trunk(TrunkSpec(name))
        return made[name]

    return get


TRUNKS = {
    "small": (128, 8),
    "resnet18": (512, 32),
    "mobilenet_v2": (1280, 32),
    "mobilenet_v3_small": (576, 32),
    "squeezenet1_0": (512, 16),
    "efficientnet_b0": (1280, 32),
    "convnext_tiny": (768, 32),
    "regnet_y_400mf": (440, 32),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_gives_a_map_that_grows_with_the_image(
    trunk: Callable[[str], tuple[nn.Module, int]], name: str
) -> None:
    network, channels = trunk(name)
    assert channels == TRUNKS[name][0]
    encode, stride = AttentiveHead(channels, variant("dagf")), TRUNKS[name][1]
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
    """For all of torchvision: the node is there, and only pooling and the classifier come after it."""
    tails = {"avgpool", "classifier", "fc", "flatten", "dropout", "pool"}
    seen = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        family = max((prefix for prefix in DEFAULT_CUTS if name.startswith(prefix)), key=len, default="")
        if not family or name.startswith("regnet"):  # regnets compute their widths, which no meta device can
            continue
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torchvision.models.get_model(name, weights=None)
        order = [path for path, module in network.named_modules() if not list(module.children())]
        cut = DEFAULT_CUTS[family]
        within = [index for index, path in enumerate(order) if path == cut or path.startswith(f"{cut}.")]
        assert within, f"{name} has no {cut}"
        for path in order[within[-1] + 1 :]:
            pools = isinstance(network.get_submodule(path), nn.MaxPool2d)
            assert pools or path.split(".")[0] in tails, f"{name}: {path} comes after {cut}"
        seen.add(family)
    assert seen == set(DEFAULT_CUTS) - {"regnet"}


def test_a_trunk_can_be_cut_earlier() -> None:
    network, channels = make_trunk(TrunkSpec("mobilenet_v2", "features.13"))
    assert channels == 96
    assert network(images(1, 3, 64, 64)).shape == (1, 96, 4, 4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TrunkSpec("resnet81"), "unknown trunk 'resnet81': did you mean 'resnet18'"),
        (TrunkSpec("smal"), "did you mean 'small'"),
        (TrunkSpec("resnet18", "layer9"), "unknown node of resnet18 'layer9': did you mean 'layer"),
        (TrunkSpec("resnet18", "fc"), r"node 'fc' of resnet18 is not a feature map but of shape \(1, 1000\)"),
        (TrunkSpec("mnasnet0_5"), "trunk mnasnet0_5 has no default cut; name a node"),
        (TrunkSpec("small", "3"), "trunk small has no node to cut at"),
        (TrunkSpec("small", weights="imagenet"), "trunk small has .* no ImageNet weights"),
    ],
)
def test_a_wrong_trunk_is_one_line(spec: TrunkSpec, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_trunk(spec)
    assert "\n" not in str(caught.value)


def test_a_misspelt_variant_is_suggested() -> None:
    with pytest.raises(UserError, match="unknown variant 'dagff': did you mean 'dagf'"):
        RetrievalNet(TrunkSpec("small"), "dagff")


def test_no_network_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(UserError, match=r"ImageNet weights of resnet18 .*no route to host.* give a file"):
        make_trunk(TrunkSpec("resnet18", weights="imagenet"))
