"""Losses of pytorch-metric-learning by their names there, and one of ours."""

import inspect
from typing import Any

from pytorch_metric_learning import losses, reducers
from torch import Tensor, nn

from dagf.errors import UserError, choose


class TupleContrastiveLoss(losses.ContrastiveLoss):  # type: ignore[misc]  # the library is untyped
    """The contrastive loss of Hadsell et al. (CVPR 2006), as in Radenovic et al. (TPAMI 2019).

    1/2 d^2 of a positive pair and 1/2 max(0, margin - d)^2 of a negative one, summed over all pairs
    and divided by the number of positive ones: the mean over tuples of one positive. The library's
    own is linear in d.
    """

    def __init__(self, neg_margin: float = 0.7) -> None:
        super().__init__(neg_margin=neg_margin, reducer=reducers.SumReducer())

    def get_per_pair_loss(self, pair_dists: Tensor, pos_or_neg: str) -> Tensor:
        """Distances (N,) of 'pos' or 'neg' pairs -> their losses (N,)."""
        return 0.5 * super().get_per_pair_loss(pair_dists, pos_or_neg) ** 2

    def _compute_loss(
        self, pos_pair_dist: Tensor, neg_pair_dist: Tensor, indices_tuple: tuple[Tensor, ...]
    ) -> Any:
        parts = super()._compute_loss(pos_pair_dist, neg_pair_dist, indices_tuple)
        for part in parts.values():
            part["losses"] = part["losses"] / max(1, len(indices_tuple[0]))
        return parts


OWN = {"TupleContrastiveLoss": TupleContrastiveLoss}


def make_loss(name: str, classes: int, dimensions: int, /, **options: Any) -> nn.Module:
    """Return the loss of that class name, e.g. 'CosFaceLoss' (the additive-margin soft-max).

    Classification losses get their number of classes and dimensions from here; their weights are
    parameters to train beside the network's. Raise `UserError` for an unknown name or option.
    """
    named = vars(losses) | OWN
    choose("loss", name, [key for key, value in named.items() if inspect.isclass(value)])
    bases = [base for base in named[name].__mro__ if base not in (nn.Module, object)]
    accepted = set().union(*(inspect.signature(base.__init__).parameters for base in bases))
    for option in options:
        choose(f"option of {name}", option, accepted - {"self", "args", "kwargs"})
    known = {"num_classes": classes, "embedding_size": dimensions}
    try:
        return named[name](**{key: known[key] for key in known if key in accepted}, **options)
    except TypeError as error:
        raise UserError(f"loss {name} cannot be made from these options: {error}") from error
