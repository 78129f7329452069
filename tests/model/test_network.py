import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dagf.model.attention_baselines import BASELINES
from dagf.model.backbone import BackboneSpec
from dagf.model.network import ORDERS, AttentiveHead, RetrievalNet, Variant
from dagf.model.variants import variant
from tests.fixtures import fails
from tests.model.modules import images, stirred

BOTH = Variant("both", spatial="evaluator", channel=True)


def test_every_intermediate_is_what_its_name_says() -> None:
    head, feature_map = stirred(AttentiveHead(16, variant("dagf"))), images(2, 16, 6, 5)
    found = head.inspect(feature_map)
    assert torch.equal(found.features, feature_map.relu())  # negatives are rectified first
    assert found.attention.shape == (2, 1, 6, 5)
    assert found.channel_weights.shape == (16,)
    weights = found.channel_weights.view(1, 16, 1, 1)
    torch.testing.assert_close(found.attended, weights * found.attention * found.features)
    assert [tuple(kept.shape) for kept in found.kept] == [(2, 1, 6, 5), (2, 1, 5, 4), (2, 1, 4, 3)]
    for share, kept in zip(found.kept_fraction, found.kept, strict=True):
        assert share.tolist() == pytest.approx([float(one.sum()) / one.numel() for one in kept])
    lengths = found.features.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(found.effective_weight, lengths * found.attention)
    assert torch.equal(head(feature_map), found.descriptor)


def test_the_baseline_keeps_all_and_weighs_by_length() -> None:
    found = AttentiveHead(16, variant("gem")).inspect(images(2, 16, 6, 5))
    assert [share.tolist() for share in found.kept_fraction] == [[1.0, 1.0]]
    assert torch.equal(found.attended, found.features)
    torch.testing.assert_close(found.effective_weight, found.features.norm(dim=1, keepdim=True))


def test_early_attention_weights_what_the_last_stage_reads() -> None:
    resnet = BackboneSpec("resnet18")
    fails("is for the small backbone: choose another", RetrievalNet, resnet, variant("dagf-early"))
    net = RetrievalNet(BackboneSpec("small"), variant("dagf-early")).eval()
    plain, batch = RetrievalNet(BackboneSpec("small"), variant("gem")).eval(), images(2, 3, 48, 48)
    plain.backbone.load_state_dict(net.backbone.state_dict())
    assert torch.equal(net.features(batch), plain.features(batch))  # before the first step
    stirred(net.early)
    *first, last = plain.backbone
    before = nn.Sequential(*first)(batch)
    torch.testing.assert_close(net.features(batch), last(2 * net.early(before) * before))
    other = copy.deepcopy(net)
    stirred(net.early)
    assert not torch.equal(net.features(batch), other.features(batch))
    assert net.inspect(batch).attention is None


def attended(head: AttentiveHead, feature_map: Tensor) -> Tensor:
    """The attended map of a stirred head, by the formula of its order."""
    features = feature_map.relu()
    weights = head.channel.weights
    weighted = features * weights.view(1, -1, 1, 1)
    a = head.spatial(weighted if head.order == "channel-spatial" else features)
    factor = 1 + a if head.residual else a
    return factor * features + weighted if head.order == "parallel" else factor * weighted


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_the_attended_map_is_that_of_the_formula(order: str, residual: bool) -> None:
    head = stirred(AttentiveHead(8, replace(BOTH, order=order, residual=residual)))
    feature_map = images(2, 8, 3, 4)
    found = head.inspect(feature_map)
    torch.testing.assert_close(found.attended, attended(head, feature_map))
    torch.testing.assert_close(found.channel_weights, head.channel.weights)
    with torch.no_grad():  # at w = 1 it is the length of an attended local feature
        head.channel.theta.fill_(torch.tensor(1.0).expm1().log())
    found = head.inspect(feature_map)
    torch.testing.assert_close(found.effective_weight, found.attended.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_stands_before_the_attentions_and_is_rectified(name: str) -> None:
    head = stirred(AttentiveHead(8, replace(BOTH, baseline=name))).eval()
    feature_map = images(2, 8, 5, 4)
    found = head.inspect(feature_map)
    torch.testing.assert_close(found.features, head.baseline(feature_map.relu()).relu())
    torch.testing.assert_close(found.attention, head.spatial(found.features))
    torch.testing.assert_close(found.attended, head.channel(found.attention * found.features))


def test_what_is_no_variant_is_one_line() -> None:
    """A misspelt name is suggested, and a learned score is not taken as a weight."""
    for field, value, message in [
        ("pooling", "gen", "unknown pooling 'gen': did you mean 'gem'"),
        ("baseline", "solr", "unknown attention baseline 'solr': did you mean 'solar'"),
        ("spatial", "evaluater", "did you mean 'evaluator'"),
        ("activation", "soft-plus", "did you mean 'softplus'"),
        ("window_kind", "averge", "did you mean 'average'"),
        ("order", "channel-spatia", "did you mean 'channel-spatial'"),
        ("mask", "summ", "unknown mask 'summ': did you mean 'sum'"),
    ]:
        fails(message, Variant, "x", **{field: value})
    for reading in ("evaluator", "gram", "gate"):
        says = f"reading {reading} gives scores: it needs an activation"
        fails(says, Variant, "x", spatial=reading, activation="none")


def test_a_ceiling_weights_the_map_by_the_share_of_landmark_in_each_cell() -> None:
    net = stirred(RetrievalNet(BackboneSpec("small"), variant("oracle"))).eval()
    plain = RetrievalNet(BackboneSpec("small"), variant("gem")).eval()
    plain.load_state_dict(net.state_dict())  # a mask has no parameters
    photographs = images(2, 3, 32, 32)
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, :8, 4:] = 1.0  # the first row of cells of 8 x 8 pixels, half of its first cell
    found = net.inspect(torch.cat([photographs, mask], 1))
    expected = torch.zeros(2, 1, 4, 4)
    expected[:, :, 0] = torch.tensor([0.5, 1.0, 1.0, 1.0])
    torch.testing.assert_close(found.attention, expected)
    torch.testing.assert_close(found.attended, expected * plain.backbone(photographs))
    assert torch.equal(net(photographs), plain(photographs))  # without a mask it is plain
    blind = plain(torch.cat([photographs, mask], 1))  # what is no ceiling does not see the mask
    torch.testing.assert_close(blind, plain(photographs))
