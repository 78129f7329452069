"""The named variants: which modules a descriptor is made of, as data.

Exactly one of them is called `dagf`; nothing else is "full DAGF". What a variant leaves out stays
off.
"""

from dataclasses import replace

from dagf.errors import choose
from dagf.model.network import Variant

DAGF = Variant("DAGF", spatial="evaluator", channel=True, windows=(1, 2, 3), mask="max")

VARIANTS: dict[str, Variant] = {
    # other aggregations
    "mac": Variant("MAC", pooling="mac"),
    "spoc": Variant("SPoC", pooling="spoc"),
    "gem": Variant("GeM"),
    "rmac": Variant("R-MAC", pooling="rmac"),
    "crow": Variant("CroW", pooling="crow"),
    "netvlad": Variant("NetVLAD", pooling="netvlad"),
    # other attentions
    "solar": Variant("GeM + SOLAR", baseline="solar"),
    "glam": Variant("GeM + GLAM", baseline="glam"),
    "delf": Variant("SPoC + DELF", pooling="spoc", baseline="delf"),
    "se": Variant("GeM + SE", baseline="se"),
    "cbam": Variant("GeM + CBAM", baseline="cbam"),
    "eca": Variant("GeM + ECA", baseline="eca"),
    # the spatial attention and its readings
    "spatial": Variant("GeM + spatial", spatial="evaluator"),
    "spatial-gram": Variant("GeM + spatial (gram)", spatial="gram"),
    "spatial-gate": Variant("GeM + spatial (gate)", spatial="gate"),
    "spatial-norm": Variant("GeM + spatial (norm)", spatial="norm", activation="none"),
    "spatial-crow": Variant("GeM + spatial (CroW)", spatial="crow", activation="none"),
    "spatial-softplus": Variant(
        "GeM + spatial (softplus)", spatial="evaluator", activation="softplus"
    ),
    "spatial-softmax": Variant(
        "GeM + spatial (softmax)", spatial="evaluator", activation="softmax"
    ),
    "spatial-residual": Variant("GeM + spatial (residual)", spatial="evaluator", residual=True),
    # the channel attention, and the two together
    "channel": Variant("GeM + channel", channel=True),
    "attention": Variant("GeM + spatial + channel", spatial="evaluator", channel=True),
    "channel-spatial": Variant(
        "GeM + spatial + channel (channel first)",
        spatial="evaluator",
        channel=True,
        order="channel-spatial",
    ),
    "parallel": Variant(
        "GeM + spatial + channel (parallel)", spatial="evaluator", channel=True, order="parallel"
    ),
    # the scale and mask scheme
    "windows": Variant("GeM + scales", windows=(1, 2, 3)),
    "mask": Variant("GeM + mask", mask="max"),
    "scale-mask": Variant("GeM + scale and mask", windows=(1, 2, 3), mask="max"),
    "scale-mask-average": Variant(
        "GeM + scale and mask (average windows)",
        windows=(1, 2, 3),
        window_kind="average",
        mask="max",
    ),
    "scale-mask-spoc": Variant(
        "SPoC + scale and mask", pooling="spoc", windows=(1, 2, 3), mask="max"
    ),
    # the whole, and the whole with one choice made otherwise
    "dagf": DAGF,
    "dagf-average": replace(DAGF, title="DAGF (average windows)", window_kind="average"),
    "dagf-spoc": replace(DAGF, title="DAGF (SPoC)", pooling="spoc"),
}


def variant(name: str) -> Variant:
    """Return the variant of that name; a `UserError` suggests the nearest one."""
    return VARIANTS[choose("variant", name, VARIANTS)]
