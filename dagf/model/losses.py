"""Losses and miners of pytorch-metric-learning, by the names they have there."""

import inspect
from collections.abc import Mapping
from typing import Any

from pytorch_metric_learning import losses, miners
from torch import nn

from dagf.common import UserError, choose


def make_loss(name: str, classes: int, dimensions: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The loss of that class name, e.g. 'CosFaceLoss' (the additive-margin soft-max) or 'ContrastiveLoss'.

    Classification losses get their number of classes and dimensions from here; their weights are
    parameters to train beside the network's. Raises `UserError` for an unknown name or option.
    """
    return _make("loss", losses, name, options, {"num_classes": classes, "embedding_size": dimensions})


def make_miner(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The miner of that class name, e.g. 'MultiSimilarityMiner': (embeddings, labels) -> pairs or triplets."""
    return _make("miner", miners, name, options, {})


def _make(kind: str, module: Any, name: str, options: Mapping[str, Any] | None, known: Mapping[str, Any]) -> nn.Module:
    names = [key for key, value in vars(module).items() if inspect.isclass(value)]
    made = getattr(module, choose(kind, name, names))
    accepted = {
        parameter
        for base in made.__mro__
        if base not in (nn.Module, object)
        for parameter in inspect.signature(base.__init__).parameters
    } - {"self", "args", "kwargs"}
    for option in options or {}:
        choose(f"option of {name}", option, accepted)
    try:
        return made(**{key: value for key, value in known.items() if key in accepted}, **(options or {}))
    except TypeError as error:
        raise UserError(f"{kind} {name} cannot be made from these options: {error}") from error
