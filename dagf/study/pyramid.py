"""A head that sees images shrunk: one scale of an image pyramid, its maps cached as any others."""

from dataclasses import dataclass

from dagf.model.network import RetrievalNet, Variant
from dagf.retrieval.extract import resized
from dagf.study.runs import Head


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
        """Return the network, whose backbone sees images (B, 3, H, W) shrunk."""
        net = self.head.network()
        net.backbone.register_forward_pre_hook(lambda _, seen: resized(seen[0], self.scale))
        return net


OneScale = Head | Shrunk  # what has maps of its own
