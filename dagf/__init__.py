"""Deep Attentive Global Features (DAGF) for image retrieval: the method, its evaluation, its study.

What a user needs comes with `import dagf`, each name loaded when it is first used:

>>> model = dagf.load()
>>> database = dagf.embed(model, ["castle.jpg", "church.jpg"])
>>> scores, rows = dagf.search(database, dagf.embed(model, ["query.jpg"]), k=2)
"""

from importlib import import_module
from typing import Any

__version__ = "1.1.0"

_MODULES = {
    "api": ("Model", "load", "embed"),
    "retrieval.search": ("search",),
    "retrieval.metrics": ("average_precision",),
    "model.network": ("RetrievalNet", "Inspection", "Variant"),
    "model.variants": ("VARIANTS", "variant"),
    "model.backbone": ("BackboneSpec",),
    "model.attention": ("SpatialAttention", "RegionEvaluator", "ChannelAttention"),
    "model.scale_mask": ("ScaleFilters", "MaxMask"),
    "model.pooling": ("GeM",),
    "errors": ("UserError",),
}
_HOMES = {name: f"dagf.{module}" for module, names in _MODULES.items() for name in names}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dagf' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
