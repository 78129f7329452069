"""Attention of other papers, to compare with: modules F -> F' of the same shape (B, C, H, W).

The head rectifies what they return, as GeM and the masks are defined on F' >= 0 while SOLAR, GLAM
and DELF can go below. SE, CBAM and ECA are timm's.
"""

import math
from collections.abc import Callable

import torch
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.model.backbone import normed

REDUCTION = 8  # of GLAM's 1x1 convolutions


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what each of N queries takes of M values: sum_j softmax_j <k_j, q_i> v_j.

    query (B, D, N), key (B, D, M), value (B, E, M) -> (B, E, N).
    """
    return value @ torch.softmax(key.transpose(1, 2) @ query, dim=1)


class SOLAR(nn.Module):
    """Second-order attention: each cell is completed by those it resembles (Ng et al., ECCV 2020).

        z = softmax(f^T g / sqrt(M)) h,    F' = F + v(z)

    f, g, h: C -> M = C/2 and v: M -> C are 1x1 convolutions, f and g with batch norm and ReLU. v
    starts at zero, so that a fresh network equals one without.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(1, channels // 2)
        self.f, self.g = (nn.Sequential(*normed(channels, middle, 1), nn.ReLU()) for _ in range(2))
        self.h = nn.Conv2d(channels, middle, 1)
        self.v = nn.Conv2d(middle, channels, 1)
        for parameter in self.v.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        f, g, h = (one(features).flatten(2) for one in (self.f, self.g, self.h))
        z = attend(f / math.sqrt(f.shape[1]), g, h)
        return features + self.v(z.reshape(*z.shape[:2], *features.shape[2:]))


class LocalChannel(nn.Module):
    """GLAM's local channel attention, as ECA's: A = sigmoid(conv_3(GAP F)), (B, C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.near = _over_channels()

    def forward(self, features: Tensor) -> Tensor:
        gate = torch.sigmoid(self.near(features.mean((2, 3)).unsqueeze(1)))
        return gate.transpose(1, 2).unsqueeze(3)


class LocalSpatial(nn.Module):
    """GLAM's local spatial attention: context around each cell, from 1x1 to 7x7.

    With X = conv_1(F) in R^{C/8}, A = conv_1([X, conv_3(X), conv_5(X), conv_7(X)]), (B, 1, H, W);
    5x5 and 7x7 are 3x3 convolutions dilated by 2 and 3. A has any sign, as nothing follows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(1, channels // REDUCTION)
        self.squeeze = nn.Conv2d(channels, middle, 1)
        self.around = nn.ModuleList(
            nn.Conv2d(middle, middle, 3, padding=d, dilation=d) for d in (1, 2, 3)
        )
        self.readout = nn.Conv2d(4 * middle, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        squeezed = self.squeeze(features)
        around = [context(squeezed) for context in self.around]
        return self.readout(torch.cat([squeezed, *around], dim=1))


class GlobalChannel(nn.Module):
    """GLAM's global channel attention: each channel attends to all channels.

    With q, k = sigmoid(conv_3(GAP F)) in R^C,

        G_c = sum_d A_dc F_d,    A_dc = softmax_d(k_d q_c)
    """

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = _over_channels(), _over_channels()

    def forward(self, features: Tensor) -> Tensor:
        average = features.mean((2, 3)).unsqueeze(1)
        query, key = torch.sigmoid(self.query(average)), torch.sigmoid(self.key(average))
        planes = features.flatten(2).transpose(1, 2)
        return attend(query, key, planes).transpose(1, 2).reshape(features.shape)


class GlobalSpatial(nn.Module):
    """GLAM's global spatial attention, a non-local block: each cell attends to all cells.

    With 1x1 convolutions q, k, v: C -> C/8 and u: C/8 -> C,

        G_i = u(sum_j A_ji v_j),    A_ji = softmax_j <k_j, q_i>
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(1, channels // REDUCTION)
        self.query, self.value = nn.Conv2d(channels, middle, 1), nn.Conv2d(channels, middle, 1)
        self.key = nn.Conv2d(channels, middle, 1, bias=False)  # a bias would cancel in the soft-max
        self.expand = nn.Conv2d(middle, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        query, key, value = (one(features).flatten(2) for one in (self.query, self.key, self.value))
        mixed = attend(query, key, value)
        return self.expand(mixed.reshape(*mixed.shape[:2], *features.shape[2:]))


class GLAM(nn.Module):
    """Local and global attention, each to channels and to positions (GLAM, Song et al., WACV 2022).

    local:  L  = A_c * F + F,    F_l = A_s * L + L        (`LocalChannel`, `LocalSpatial`)
    global: G  = G_c * F,        F_g = G_s * G + G        (`GlobalChannel`, `GlobalSpatial`)
    F' = w_l F_l + w_g F_g + w_0 F,    w the soft-max of three learned numbers, equal at the start
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local_channel, self.local_spatial = LocalChannel(), LocalSpatial(channels)
        self.global_channel, self.global_spatial = GlobalChannel(), GlobalSpatial(channels)
        self.fusion = nn.Parameter(torch.zeros(3))

    def forward(self, features: Tensor) -> Tensor:
        local_map = self.local_channel(features) * features + features
        local_map = self.local_spatial(features) * local_map + local_map
        global_map = self.global_channel(features) * features
        global_map = self.global_spatial(features) * global_map + global_map
        of_local, of_global, of_input = torch.softmax(self.fusion, dim=0)
        return of_local * local_map + of_global * global_map + of_input * features


class DELF(nn.Module):
    """DELF's attention (Noh et al., ICCV 2017), without global information, as DOLG uses it.

        X = BN(conv F),    a = softplus(conv(relu(X))),    F' = a * X / |X|

    where |.| is the length of each local feature.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(*normed(channels, channels, 1))
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        embedded = self.embed(features)
        return fn.softplus(self.score(torch.relu(embedded))) * fn.normalize(embedded, dim=1)


def _over_channels() -> nn.Conv1d:
    """Return a convolution over three neighbouring channels: (B, 1, C) -> (B, 1, C)."""
    return nn.Conv1d(1, 1, 3, padding=1)


BASELINES: dict[str, Callable[[int], nn.Module]] = {  # each takes the number of channels
    "solar": SOLAR,
    "glam": GLAM,
    "delf": DELF,
    # SE (Hu et al., CVPR 2018): F' = sigmoid(W2 relu(W1 GAP F)) * F
    "se": SEModule,
    # CBAM (Woo et al., ECCV 2018): channels from mean and maximum, then cells by a convolution
    "cbam": CbamModule,
    # ECA (Wang et al., CVPR 2020): F' = sigmoid(conv_k(GAP F)) * F, k growing with log C
    "eca": EcaModule,
}
