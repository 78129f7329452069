import dataclasses
from itertools import pairwise

import pytest
import torch

from dagf.model.backbone import BackboneSpec
from dagf.model.network import AttentiveHead, Inspection, RetrievalNet, Variant
from dagf.model.variants import VARIANTS, variant
from tests.model.modules import images, stirred


def choices(one: Variant) -> dict[str, object]:
    return {key: value for key, value in dataclasses.asdict(one).items() if key != "title"}


def test_there_is_one_dagf_and_it_has_all_modules() -> None:
    full = Variant("DAGF", "gem", "evaluator", "sigmoid", True, (1, 2, 3), "max", "max")
    assert variant("dagf") == full
    assert (full.order, full.residual, full.baseline) == ("spatial-channel", False, None)
    assert [name for name, one in VARIANTS.items() if one.title == "DAGF"] == ["dagf"]


def test_no_two_variants_are_the_same() -> None:
    assert len({tuple(choices(one).values()) for one in VARIANTS.values()}) == len(VARIANTS)
    assert len({one.title for one in VARIANTS.values()}) == len(VARIANTS)


@pytest.mark.parametrize(
    "steps",
    [
        ["gem", "spatial", "attention", "dagf"],
        ["gem", "channel", "attention"],
        ["gem", "windows", "scale-mask"],
        ["gem", "mask", "scale-mask"],
        ["scale-mask-average", "scale-mask", "scale-mask-spoc"],
        ["spatial-softplus", "spatial", "spatial-softmax"],
        ["spatial", "spatial-residual"],
        ["spatial-gram", "spatial", "spatial-gate"],
        ["channel-spatial", "attention", "parallel"],
        ["attention", "dagf", "dagf-spoc"],
        *[["gem", baseline] for baseline in ("solar", "glam", "se", "cbam", "eca")],
        ["spoc", "delf"],
    ],
)
def test_arms_that_are_compared_differ_in_one_module(steps: list[str]) -> None:
    of_module = dict.fromkeys(("window_kind", "windows", "mask"), "scale and mask")
    for one, other in pairwise(map(variant, steps)):
        different = {key for key, value in choices(one).items() if value != choices(other)[key]}
        assert len({of_module.get(key, key) for key in different}) == 1, (one, other)


@pytest.mark.parametrize("name", VARIANTS)
def test_trainable_and_attentive_follow_from_the_parameters(name: str) -> None:
    head = AttentiveHead(16, VARIANTS[name])
    assert VARIANTS[name].trainable == bool(list(head.parameters()))
    names = [key for key, _ in head.named_parameters()]
    assert VARIANTS[name].attentive == any(not key.startswith("scale_and_mask") for key in names)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_variant_leaves_out_stays_off(name: str) -> None:
    made_of = VARIANTS[name]
    head = stirred(AttentiveHead(16, made_of))
    found: Inspection = head.inspect(images(2, 16, 6, 5))
    spatial = made_of.spatial is not None and not made_of.early
    assert (found.attention is not None) == spatial
    assert (found.channel_weights is not None) == made_of.channel
    assert (head.baseline is not None) == (made_of.baseline is not None)
    assert len(found.kept) == len(made_of.windows)
    assert all((kept is not None) == (made_of.mask != "none") for kept in found.kept)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_dead_map_is_no_accident(name: str) -> None:
    features = torch.zeros(2, 16, 3, 4, requires_grad=True)
    descriptor = AttentiveHead(16, VARIANTS[name])(features)
    descriptor.sum().backward()
    assert descriptor.isfinite().all() and features.grad.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    head = stirred(AttentiveHead(64, VARIANTS[name]))
    descriptor = head(images(3, 64, 6, 5).requires_grad_())
    (descriptor * images(*descriptor.shape, seed=2)).sum().backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        unseen = VARIANTS[name].activation == "softmax" and key == "spatial.evaluate.bias"
        assert unseen or parameter.grad.abs().max() > 1e-6, key


@pytest.mark.parametrize("name", ["dagf", "netvlad", "glam"])
def test_the_network_says_how_long_its_descriptors_are(name: str) -> None:
    net = RetrievalNet(BackboneSpec("small"), variant(name)).eval()
    assert net.dimensions == (16 if name == "netvlad" else 1) * net.channels
    assert net(images(2, 3, 40, 24)).shape == (2, net.dimensions)
