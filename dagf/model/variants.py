"""The named variants: which modules a descriptor is made of, as data.

Exactly one of them is called `dagf`; nothing else is "full DAGF". What a variant leaves out stays
off.
"""

from dataclasses import replace
from functools import partial

from dagf.errors import choose
from dagf.model.network import Variant

spatial = partial(Variant, spatial="evaluator")
both = partial(Variant, spatial="evaluator", channel=True)
scaled = partial(Variant, windows=(1, 2, 3), mask="max")
DAGF = both("DAGF", windows=(1, 2, 3), mask="max")

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
    "spatial": spatial("GeM + spatial"),
    "spatial-gram": Variant("GeM + spatial (gram)", spatial="gram"),
    "spatial-gate": Variant("GeM + spatial (gate)", spatial="gate"),
    "spatial-norm": Variant("GeM + spatial (norm)", spatial="norm", activation="none"),
    "spatial-crow": Variant("GeM + spatial (CroW)", spatial="crow", activation="none"),
    "spatial-softplus": spatial("GeM + spatial (softplus)", activation="softplus"),
    "spatial-softmax": spatial("GeM + spatial (softmax)", activation="softmax"),
    "spatial-residual": spatial("GeM + spatial (residual)", residual=True),
    # the channel attention, and the two together
    "channel": Variant("GeM + channel", channel=True),
    "attention": both("GeM + spatial + channel"),
    "channel-spatial": both("GeM + spatial + channel (channel first)", order="channel-spatial"),
    "parallel": both("GeM + spatial + channel (parallel)", order="parallel"),
    # the scale and mask scheme
    "windows": Variant("GeM + scales", windows=(1, 2, 3)),
    "mask": Variant("GeM + mask", mask="max"),
    "scale-mask": scaled("GeM + scale and mask"),
    "scale-mask-average": scaled("GeM + scale and mask (average windows)", window_kind="average"),
    "scale-mask-spoc": scaled("SPoC + scale and mask", pooling="spoc"),
    # the whole, and the whole with one choice made otherwise
    "dagf": DAGF,
    "dagf-average": replace(DAGF, title="DAGF (average windows)", window_kind="average"),
    "dagf-spoc": replace(DAGF, title="DAGF (SPoC)", pooling="spoc"),
    "dagf-sharp": replace(DAGF, title="DAGF (sharp sigmoid)", activation="sharp"),
    "dagf-drawn": replace(DAGF, title="DAGF (evaluator not at zero)", spatial="drawn"),
    "dagf-early": replace(DAGF, title="DAGF (spatial before the last stage)", early=True),
    # not DAGF: the attention is told where the landmark is, in training
    "spatial-taught": spatial("GeM + spatial, taught", taught=True),
    "dagf-taught": replace(DAGF, title="DAGF, taught", taught=True),
    # ceilings: what a perfect attention would reach, given the landmark's exact mask
    "oracle": Variant("GeM + exact mask", truth="cells", learned_as="gem"),
    "oracle-scale-mask": scaled(
        "GeM + exact mask + scale and mask", truth="cells", learned_as="scale-mask"
    ),
    "oracle-pixels": Variant("GeM, all else blanked", truth="pixels", learned_as="gem"),
    "oracle-trained": Variant("GeM trained with the exact mask", truth="cells"),
}


def variant(name: str) -> Variant:
    """Return the variant of that name; a `UserError` suggests the nearest one."""
    return VARIANTS[choose("variant", name, VARIANTS)]
