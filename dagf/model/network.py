"""RetrievalNet: image -> feature map -> attended map -> kept cells at several scales -> vector."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.errors import UserError, choose
from dagf.model.attention import ACTIVATIONS, READINGS, ChannelAttention, SpatialAttention
from dagf.model.attention_baselines import BASELINES
from dagf.model.backbone import BackboneSpec, LastStage, SmallBackbone, make_backbone
from dagf.model.pooling import POOLINGS
from dagf.model.scale_mask import MASKS, WINDOW_KINDS, ScaleAndMask

ORDERS = ("spatial-channel", "channel-spatial", "parallel")


@dataclass(frozen=True)
class Variant:
    """One descriptor: the modules between the backbone's feature map and the vector.

    spatial: a reading of the spatial attention (`READINGS`), None for none. activation: how its
    score becomes a weight (`ACTIVATIONS`), 'none' where it is one. channel: whether the channel
    vector is on. windows, window_kind: the scale filters (`WINDOW_KINDS`). mask: one of `MASKS`.
    pooling: one of `POOLINGS`. residual: whether spatial attention gives f + a f instead of a f.
    order: how the two attentions are put together (`ORDERS`). baseline: the attention of another
    paper (`BASELINES`), None for none. early: whether the spatial attention stands before the last
    stage of the small backbone rather than after it. taught: whether it learns from exact masks,
    too, by a cross-entropy beside the loss: not DAGF, but what it could learn. truth: what a
    perfect attention would know, given with the images (`dagf.datasets.images`): a ceiling.
    learned_as: the variant whose training it shares, '' for its own.

    Raise `UserError` for a name that is not known, and for a learned score taken as a weight.
    """

    title: str
    pooling: str = "gem"
    spatial: str | None = None
    activation: str = "sigmoid"
    channel: bool = False
    windows: tuple[int, ...] = (1,)
    window_kind: str = "max"
    mask: str = "none"
    residual: bool = False
    order: str = "spatial-channel"
    baseline: str | None = None
    early: bool = False
    taught: bool = False
    truth: Literal["none", "cells", "pixels"] = "none"
    learned_as: str = ""

    def __post_init__(self) -> None:
        choose("pooling", self.pooling, POOLINGS)
        choose("activation", self.activation, ACTIVATIONS)
        choose("window kind", self.window_kind, WINDOW_KINDS)
        choose("mask", self.mask, MASKS)
        choose("order of the attentions", self.order, ORDERS)
        if self.baseline is not None:
            choose("attention baseline", self.baseline, BASELINES)
        if self.spatial is not None:
            reading = READINGS[choose("reading of the spatial attention", self.spatial, READINGS)]
            if reading.learned and self.activation == "none":
                raise UserError(f"reading {self.spatial} gives scores: it needs an activation")

    @property
    def attentive(self) -> bool:
        """Whether it has an attention module that means nothing before it is trained."""
        learned = self.spatial is not None and READINGS[self.spatial].learned and not self.early
        return learned or self.channel or self.baseline is not None

    @property
    def trainable(self) -> bool:
        """Whether it has parameters of its own, so that it can be trained on a frozen backbone."""
        return self.attentive or POOLINGS[self.pooling].learned


@dataclass(frozen=True)
class Inspection:
    """Every intermediate of one forward pass, for plots and scores.

    features: F, (B, C, H, W), rectified, after the attention baseline if there is one. attention:
    a, (B, 1, H, W), or None without spatial attention. channel_weights: w, (C,), or None without
    channel attention. attended: what is pooled, (B, C, H, W): w * a * F in the cascade. gain: by
    how much the attention scales a cell where w = 1, (B, 1, H, W) or None: a itself, or 1 + a where
    F is added. kept: for each window k the kept cells, (B, 1, H-k+1, W-k+1) boolean, None for all.
    descriptor: (B, D), unit length.
    """

    features: Tensor
    attention: Tensor | None
    channel_weights: Tensor | None
    attended: Tensor
    gain: Tensor | None
    kept: list[Tensor | None]
    descriptor: Tensor

    @property
    def effective_weight(self) -> Tensor:
        """a_ij * |f_ij|, (B, 1, H, W): a dead cell has attention, but no effect."""
        norm = self.features.norm(dim=1, keepdim=True)
        return norm if self.gain is None else self.gain * norm

    @property
    def kept_fraction(self) -> list[Tensor]:
        """For each window the share of cells that its mask keeps, (B,)."""
        ones = self.descriptor.new_ones(len(self.descriptor))
        return [ones if cells is None else cells.float().mean((1, 2, 3)) for cells in self.kept]


class AttentiveHead(nn.Module):
    """Feature map -> descriptor: the attentions *cascaded*, then the scale and mask scheme.

    Spatial attention comes first, as in the abstract; `Variant.order` has the other ways, with F'
    the spatially attended map (a * F, or F + a * F in the residual form):

        spatial-channel  w * F'
        channel-spatial  w * F', but a is found on w * F
        parallel         F' + w * F

    In parallel the two maps are summed, as multiplying both weights in would be the cascade again.

    A ceiling (`Variant.truth` "cells") has the exact mask in place of a learned attention: the
    channel of the map after the backbone's C, where there is one.
    """

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        self.channels, self.exact = channels, variant.truth == "cells"
        self.baseline = BASELINES[variant.baseline](channels) if variant.baseline else None
        self.spatial: nn.Module | None = None
        if variant.spatial and not variant.early:
            self.spatial = SpatialAttention(channels, variant.spatial, variant.activation)
        self.channel = ChannelAttention(channels) if variant.channel else None
        self.residual, self.order = variant.residual, variant.order
        pooling, windows = POOLINGS[variant.pooling](channels), variant.windows
        self.scale_and_mask = ScaleAndMask(pooling, windows, variant.window_kind, variant.mask)
        self.dimensions = pooling.multiple * channels

    def inspect(self, feature_map: Tensor) -> Inspection:
        """Return every intermediate of one pass over a map (B, C or C + 1, H, W).

        Negative activations (linear bottlenecks, SiLU, GELU backbones) are rectified first, as are
        those of a baseline: the evaluator's inner product, GeM and the masks are defined on F >= 0.
        Under autocast only the backbone is in half precision: GeM's powers underflow in it, and the
        gradients of their roots are then infinite.
        """
        with torch.autocast(feature_map.device.type, enabled=False):
            half = feature_map.dtype in (torch.float16, torch.bfloat16)
            rectified = torch.relu(feature_map.float() if half else feature_map)
            features, exact = rectified[:, : self.channels], rectified[:, self.channels :]
            features = torch.relu(self.baseline(features)) if self.baseline else features
            attended, attention, gain = self._attend(features, exact)
            descriptor, kept = self.scale_and_mask(attended)
            weights = self.channel.weights if self.channel else None
        return Inspection(features, attention, weights, attended, gain, kept, descriptor)

    def forward(self, feature_map: Tensor) -> Tensor:
        """A map as `feature_map` gives it -> unit descriptors (B, `dimensions`)."""
        return self.inspect(feature_map).descriptor

    def _attend(
        self, features: Tensor, exact: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """F and the exact mask -> the attended map, the attention a and the gain of each cell."""
        channel = self.channel or nn.Identity()
        if self.exact and exact.shape[1]:
            return channel(exact * features), exact, exact
        if self.spatial is None:
            return channel(features), None, None
        attention = self.spatial(channel(features) if self.order == "channel-spatial" else features)
        gain = 1 + attention if self.residual else attention
        if self.channel and self.order == "parallel":
            return gain * features + channel(features), attention, 1 + gain
        return channel(gain * features), attention, gain


def feature_map(layers: nn.Module, images: Tensor, channels: int = 3) -> Tensor:
    """Return a backbone's map (B, C, h, w) of images (B, 3, H, W), normalised as ImageNet's.

    One more channel of the images, an exact mask, becomes one of the map: its mean in each cell.
    The same of a last stage, which reads a map of so many channels.
    """
    found = layers(images[:, :channels])
    if images.shape[1] == channels:
        return found
    mask = fn.adaptive_avg_pool2d(images[:, channels:], found.shape[2:])
    return torch.cat([found, mask.to(found.dtype)], 1)


class StagedHead(nn.Module):
    """A last stage and the head, which are trained together on the maps of a frozen backbone."""

    def __init__(self, stage: LastStage, head: AttentiveHead) -> None:
        super().__init__()
        self.stage, self.head = stage, head

    def inspect(self, maps: Tensor) -> Inspection:
        """Return every intermediate after the stage, of maps (B, C or C + 1, H, W) before it."""
        return self.head.inspect(feature_map(self.stage, maps, self.stage.inputs))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C or C + 1, H, W) of the backbone -> unit descriptors (B, D)."""
        return self.inspect(maps).descriptor


class RetrievalNet(nn.Module):
    """A backbone and an `AttentiveHead`: images (B, 3, H, W) of any size -> descriptors (B, D).

    stage: the last one, where it is trained with the head on cached maps, else None. channels: C,
    of the map that the head reads. dimensions: D, of the descriptor; C for all but NetVLAD.

    >>> net = RetrievalNet(BackboneSpec("small"), variant("dagf")).eval()
    >>> net(torch.zeros(2, 3, 96, 64)).shape
    torch.Size([2, 128])
    """

    def __init__(self, backbone: BackboneSpec, variant: Variant) -> None:
        super().__init__()
        self.backbone, self.stage, self.channels = make_backbone(backbone)
        self.keep_batch_norm = backbone.pretrained
        self.head = AttentiveHead(self.channels, variant)
        self.dimensions = self.head.dimensions
        self.early: SpatialAttention | None = None
        if variant.early and variant.spatial:
            if not isinstance(self.backbone, SmallBackbone):
                raise UserError(f"{variant.title} is for the small backbone: choose another head")
            channels = self.backbone.before_last
            self.early = SpatialAttention(channels, variant.spatial, variant.activation)
            self.backbone[-1].register_forward_pre_hook(self._attend_early)

    def _attend_early(self, _: nn.Module, features: tuple[Tensor]) -> tuple[Tensor]:
        """What the last stage reads: 2 a * F, which is F before the first step."""
        assert self.early
        return (2 * self.early(features[0]) * features[0],)

    def inspect(self, images: Tensor) -> Inspection:
        """Return every intermediate of one forward pass; images as `forward` takes them."""
        return self.head.inspect(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return what the head reads (`feature_map`)."""
        found = feature_map(self.backbone, images)
        return found if self.stage is None else feature_map(self.stage, found, self.stage.inputs)

    @property
    def on_maps(self) -> AttentiveHead | StagedHead:
        """What reads the backbone's map: the head, after the last stage where there is one."""
        return self.head if self.stage is None else StagedHead(self.stage, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Images, as `feature_map` takes them -> unit descriptors (B, D)."""
        return self.head(self.features(images))

    def train(self, mode: bool = True) -> "RetrievalNet":
        """Set the mode; batch norms of a pretrained backbone stay as learned, as in the field."""
        super().train(mode)
        if self.keep_batch_norm:
            for layers in filter(None, [self.backbone, self.stage]):
                layers.eval()
        return self
