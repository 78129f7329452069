"""RetrievalNet: image -> feature map -> attended map -> kept cells at several scales -> descriptor."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dagf.model.attention import ChannelAttention, SpatialAttention
from dagf.model.pooling import POOLINGS
from dagf.model.scale_mask import ScaleAndMask
from dagf.model.trunks import TrunkSpec, make_trunk
from dagf.model.variants import Variant, variant


@dataclass(frozen=True)
class Inspection:
    """Every intermediate of one forward pass, for plots and scores.

    features: F, (B, C, H, W), rectified. attention: a, (B, 1, H, W), or None without spatial attention.
    channel_weights: w, (C,), or None without channel attention. attended: w * a * F, (B, C, H, W).
    kept: for each window k the kept cells, (B, 1, H-k+1, W-k+1) boolean, None for all. descriptor:
    (B, C), unit length.
    """

    features: Tensor
    attention: Tensor | None
    channel_weights: Tensor | None
    attended: Tensor
    kept: list[Tensor | None]
    descriptor: Tensor

    @property
    def effective_weight(self) -> Tensor:
        """a_ij * |f_ij|, (B, 1, H, W): what a cell contributes (a dead cell has attention, but no effect)."""
        norm = self.features.norm(dim=1, keepdim=True)
        return norm if self.attention is None else self.attention * norm

    @property
    def kept_fraction(self) -> list[Tensor]:
        """For each window the share of cells that its mask keeps, (B,)."""
        ones = self.descriptor.new_ones(len(self.descriptor))
        return [ones if cells is None else cells.float().mean((1, 2, 3)) for cells in self.kept]


class AttentiveHead(nn.Module):
    """From a feature map to a descriptor: the two attentions *cascaded*, then the scale and mask scheme.

    Spatial attention comes first, as in the abstract; that the order matters is a question for the ablation.
    """

    def __init__(self, channels: int, made_of: Variant) -> None:
        super().__init__()
        self.spatial = SpatialAttention(channels, made_of.spatial, made_of.activation) if made_of.spatial else None
        self.channel = ChannelAttention(channels) if made_of.channel else None
        self.scale_and_mask = ScaleAndMask(
            POOLINGS[made_of.pooling](), made_of.windows, made_of.window_kind, made_of.mask
        )

    def forward(self, feature_map: Tensor) -> Inspection:
        """The trunk's map (B, C, H, W) -> `Inspection`, whose `descriptor` is (B, C), unit length.

        Negative activations (linear bottlenecks, SiLU, GELU trunks) are rectified first: the evaluator's
        inner product, GeM and the MAX-Mask are all defined on F >= 0.
        """
        features = torch.relu(feature_map)
        attention = self.spatial(features) if self.spatial else None
        attended = features if attention is None else attention * features
        attended = self.channel(attended) if self.channel else attended
        descriptor, kept = self.scale_and_mask(attended)
        weights = self.channel.weights if self.channel else None
        return Inspection(features, attention, weights, attended, kept, descriptor)


class RetrievalNet(nn.Module):
    """A trunk and an `AttentiveHead`: images (B, 3, H, W) of any size -> unit descriptors (B, C).

    >>> net = RetrievalNet(TrunkSpec("small"), "dagf").eval()
    >>> net(torch.zeros(2, 3, 96, 64)).shape
    torch.Size([2, 128])
    """

    def __init__(self, trunk: TrunkSpec, head: str | Variant = "dagf") -> None:
        super().__init__()
        self.trunk, self.channels = make_trunk(trunk)
        self.keep_batch_norm = trunk.pretrained
        self.head = AttentiveHead(self.channels, variant(head) if isinstance(head, str) else head)

    def inspect(self, images: Tensor) -> Inspection:
        """Everything that happens to `images` on the way to their descriptors, in one forward pass."""
        return self.head(self.trunk(images))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised as ImageNet's -> unit descriptors (B, C)."""
        return self.inspect(images).descriptor

    def train(self, mode: bool = True) -> "RetrievalNet":
        """Training mode; the batch norms of a pre-trained trunk stay as they were learned (as in the field)."""
        super().train(mode)
        if self.keep_batch_norm:
            self.trunk.eval()
        return self


class MapEncoder(nn.Module):
    """A head alone, for cached feature maps: maps (B, C, H, W) -> unit descriptors (B, C)."""

    def __init__(self, head: AttentiveHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, feature_map: Tensor) -> Tensor:
        """The trunk's maps -> unit descriptors."""
        return self.head(feature_map).descriptor
