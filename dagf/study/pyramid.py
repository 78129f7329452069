"""A head that sees images shrunk: one scale of an image pyramid, its maps cached as any others."""

from dataclasses import dataclass

from torch import Tensor, nn

from dagf.model.network import RetrievalNet, Variant
from dagf.retrieval.extract import resized
from dagf.study.runs import Head


class Shrink(nn.Module):
    """Resize images (B, 3, H, W) to `scale` times their sides."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, scale * H, scale * W)."""
        return resized(images, self.scale)


@dataclass(frozen=True)
class Shrunk:
    """A head on images of `scale` times their sides."""

    head: Head
    scale: float
    frozen = True

    @property
    def variant(self) -> Variant:
        """The descriptor that its network gives."""
        return self.head.variant

    @property
    def weights_id(self) -> str:
        """What names all that is cached of it."""
        return f"{self.head.weights_id}-{self.scale:g}"

    @property
    def backbone_id(self) -> str:
        """What names its maps."""
        return f"{self.head.backbone_id}-{self.scale:g}"

    def network(self) -> RetrievalNet:
        """Return the network, which shrinks images first."""
        net = self.head.network()
        net.backbone = nn.Sequential(Shrink(self.scale), net.backbone)
        return net


OneScale = Head | Shrunk  # what has maps of its own
