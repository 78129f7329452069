"""The two attentions of DAGF: *where* to look (spatial), *which feature maps* count (channel).

Throughout, F is a non-negative feature map of shape (B, C, H, W), f_ij in R^C its local feature at
cell ij, and g = GAP(F) its global average. The paper (Zhu et al., IJNS 33(3), 2023) is public as an
abstract only, so every formula here is *our reading* of a sentence of it; the README and the
reports say so too.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

REDUCTION = 8  # of a bottleneck
SHARP = 8.0  # times as steep as a sigmoid


class Reading(nn.Module):
    """A reading of the spatial attention, made for C channels: F (B, C, H, W) -> (B, 1, H, W).

    learned: whether it has parameters and gives scores e, which an activation turns into weights a;
    without parameters it gives the weights themselves.
    """

    learned = True

    def __init__(self, channels: int) -> None:
        super().__init__()


class RegionEvaluator(Reading):
    """Reading A: "model the relation between channels as a region evaluator".

    The *global information* g passes through a bottleneck that relates the channels to each other.
    The result is a vector q in R^C, the evaluator, against which each local feature is scored:

        q = W2 tanh(W1 g + b1),    e_ij = <q, f_ij> / sqrt(C) + b0

    W2 starts at zero, so that a fresh network equals one without attention. Ancestors: the cascaded
    attention of NAN (Yang et al., CVPR 2017) and APANet (Zhu et al., ACM MM 2018).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.squeeze = nn.Linear(channels, max(1, channels // REDUCTION))
        self.relate = nn.Linear(self.squeeze.out_features, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.relate.weight)

    def forward(self, features: Tensor) -> Tensor:
        evaluator = self.relate(torch.tanh(self.squeeze(features.mean((2, 3)))))
        return _inner_product(evaluator, features) + self.bias


class DrawnEvaluator(RegionEvaluator):
    """Reading A from another start: W2 is drawn like any other layer, so that e varies at once."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.relate.reset_parameters()


class ChannelRelation(Reading):
    """Reading B: the channel-relation matrix itself is the evaluator.

    With X the C x HW matrix of F, rows L2-normalised, and a learned temperature s (0.1 at the
    start):

        R = softmax(X X^T / s) in R^{C x C},    v = R g,    e_ij = <v, f_ij> / sqrt(C) + b0

    Ancestors: DANet (Fu et al., CVPR 2019) and GLAM's global channel attention (Song et al., WACV
    2022).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.1)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        rows = fn.normalize(features.flatten(2), dim=2)
        relation = torch.softmax(rows @ rows.transpose(1, 2) / self.log_temperature.exp(), dim=2)
        evaluator = (relation @ features.mean((2, 3)).unsqueeze(2)).squeeze(2)
        return _inner_product(evaluator, features) + self.bias


class GatedReadout(Reading):
    """Reading C: an SE gate relates the channels, a learned 1x1 read-out scores the cells.

        s = sigmoid(W2 relu(W1 g)),    e_ij = <u, s * f_ij> + b0,    u learned from zero

    Ancestors: SE (Hu et al., CVPR 2018) and CBAM (Woo et al., ECCV 2018).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.squeeze = nn.Linear(channels, max(1, channels // REDUCTION), bias=False)
        self.excite = nn.Linear(self.squeeze.out_features, channels, bias=False)
        self.readout = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(fn.relu(self.squeeze(features.mean((2, 3))))))
        return torch.einsum("bc,bchw->bhw", self.readout * gate, features).unsqueeze(1) + self.bias


class FeatureNorm(Reading):
    """Reading E, without parameters: the length of the local feature, as in HOW (ECCV 2020).

    a_ij = (sum_c f_ijc^2 + 1e-10)^{1/2}
    """

    learned = False

    def forward(self, features: Tensor) -> Tensor:
        return (features.square().sum(1, keepdim=True) + 1e-10).sqrt()


class CroWWeight(Reading):
    """Reading F, without parameters: CroW's spatial weight (Kalantidis et al., ECCVW 2016).

        S = sum_c F_c,    a_ij = (S_ij / (sum_ij S_ij^2)^{1/2})^{1/2}

    A dead cell gets 0, as does every cell of a dead map.
    """

    learned = False

    def forward(self, features: Tensor) -> Tensor:
        return crow_weight(features)


def crow_weight(features: Tensor) -> Tensor:
    """Return CroW's spatial weight, as in `CroWWeight`: (B, C, H, W) -> (B, 1, H, W)."""
    total = features.sum(1, keepdim=True)
    share = total / torch.linalg.vector_norm(total, dim=(2, 3), keepdim=True).clamp(min=1e-12)
    alive = share > 0  # the root is infinitely steep at 0: dead cells stay out of the gradient
    return torch.where(alive, share.where(alive, 1.0).sqrt(), 0.0)


def _inner_product(evaluator: Tensor, features: Tensor) -> Tensor:
    """Return <evaluator, f_ij> / sqrt(C): (B, C) and (B, C, H, W) -> (B, 1, H, W)."""
    product = torch.einsum("bc,bchw->bhw", evaluator, features).unsqueeze(1)
    return product / math.sqrt(features.shape[1])


def _softmax_over_positions(scores: Tensor) -> Tensor:
    """Return the soft-max over the cells times their number: mean 1, as GeM's clamp has a scale."""
    cells = scores.shape[2] * scores.shape[3]
    return torch.softmax(scores.flatten(2), dim=2).view_as(scores) * cells


READINGS: dict[str, type[Reading]] = {
    "evaluator": RegionEvaluator,
    "drawn": DrawnEvaluator,
    "gram": ChannelRelation,
    "gate": GatedReadout,
    "norm": FeatureNorm,
    "crow": CroWWeight,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "sharp": lambda scores: torch.sigmoid(SHARP * scores),
    "softplus": fn.softplus,
    "softmax": _softmax_over_positions,
    "none": lambda weights: weights,  # for readings that give weights rather than scores
}


class SpatialAttention(nn.Module):
    """Spatial attention: "evaluates the local features and assigns them new weights".

    `reading` names how the score e_ij comes about (`READINGS`), `activation` how it becomes a
    weight a_ij >= 0 (`ACTIVATIONS`; "none" where the reading is a weight already).
    """

    def __init__(
        self, channels: int, reading: str = "evaluator", activation: str = "sigmoid"
    ) -> None:
        super().__init__()
        self.evaluate = READINGS[reading](channels)
        self.activation = ACTIVATIONS[activation]

    def forward(self, features: Tensor) -> Tensor:
        """F of shape (B, C, H, W) -> weights a of shape (B, 1, H, W); the attended map is a * F.

        A dead cell (f_ij = 0) gets activation(b0) from a learned reading, not 0: look at
        a_ij * |f_ij| as well.
        """
        return self.activation(self.evaluate(features))


class ChannelAttention(nn.Module):
    """Channel attention: "a vector with trainable parameters" weights each feature map.

    y_c = w_c x_c with w = softplus(theta) > 0, and w = 1 at the start. As w > 0, pooling commutes
    with it (P(w * F) = w * P(F) for MAC, SPoC and, away from its clamp, GeM) and the MAX-Mask does
    not see it: the module re-scales the pooled vector. A full-rank whitening straight after would
    absorb it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((channels,), math.log(math.e - 1)))

    @property
    def weights(self) -> Tensor:
        """w of shape (C,), all positive."""
        return fn.softplus(self.theta)

    def forward(self, features: Tensor) -> Tensor:
        """F of shape (B, C, H, W) -> w * F of the same shape."""
        return features * self.weights.view(1, -1, 1, 1)
