"""The named variants: which modules a descriptor is made of, as data.

Exactly one of them is called `dagf`; nothing else is "full DAGF". What a variant leaves out stays off.
"""

from dataclasses import dataclass

from dagf.common import choose


@dataclass(frozen=True)
class Variant:
    """One descriptor: the modules between the trunk's feature map and the vector.

    spatial: a reading of the spatial attention (`dagf.model.attention.READINGS`), None for none.
    channel: whether the channel vector is on. windows, window_kind: the scale filters. mask: 'max' or
    'none'. pooling: 'gem', 'spoc' or 'mac'.
    """

    title: str
    pooling: str = "gem"
    spatial: str | None = None
    activation: str = "sigmoid"
    channel: bool = False
    windows: tuple[int, ...] = (1,)
    window_kind: str = "max"
    mask: str = "none"

    @property
    def attentive(self) -> bool:
        """Whether it has an attention module, which means nothing before it is trained."""
        return self.spatial is not None or self.channel

    @property
    def trainable(self) -> bool:
        """Whether it has parameters of its own, so that it can be trained on a frozen trunk."""
        return self.attentive or self.pooling == "gem"


VARIANTS: dict[str, Variant] = {
    "mac": Variant("MAC", pooling="mac"),
    "spoc": Variant("SPoC", pooling="spoc"),
    "gem": Variant("GeM"),
    "spatial": Variant("GeM + spatial", spatial="evaluator"),
    "spatial-gram": Variant("GeM + spatial (gram)", spatial="gram"),
    "spatial-gate": Variant("GeM + spatial (gate)", spatial="gate"),
    "channel": Variant("GeM + channel", channel=True),
    "attention": Variant("GeM + spatial + channel", spatial="evaluator", channel=True),
    "scale-mask": Variant("GeM + scale and mask", windows=(1, 2, 3), mask="max"),
    "scale-mask-spoc": Variant("SPoC + scale and mask", pooling="spoc", windows=(1, 2, 3), mask="max"),
    "dagf": Variant("DAGF", spatial="evaluator", channel=True, windows=(1, 2, 3), mask="max"),
}


def variant(name: str) -> Variant:
    """The variant of that name; a `UserError` suggests the nearest one."""
    return VARIANTS[choose("variant", name, VARIANTS)]
