"""Why two images match: where the network looks, what it keeps, and what a match rests on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import EigenCAM, GradCAM, LayerCAM
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.datasets.decode import Box, ImageSpec
from dagf.datasets.images import load_image, to_input
from dagf.model.network import Inspection, RetrievalNet

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """One image as the network sees it.

    pixels: (H, W, 3) uint8. attention, effective: (H, W), the attention map (None without one) and
    the effective weight a * |f|, enlarged to the image. kept: for each window its kept cells,
    (h, w) boolean, None for all. features: F, and attended: the map that is pooled, (1, C, h, w)
    each. descriptor: (D,), of unit length.
    """

    pixels: NDArray[np.uint8]
    attention: Plane | None
    effective: Plane
    kept: list[NDArray[np.bool_] | None]
    kept_fraction: list[float]
    features: Tensor
    attended: Tensor
    descriptor: Plane


@torch.no_grad()
def look(net: RetrievalNet, file: Path, spec: ImageSpec, box: Box | None = None) -> Look:
    """Return all that `net` makes of one image, or of a crop of it, from one forward pass."""
    image = load_image(file, spec, box)
    seen: Inspection = net.inspect(to_input(image)[None].to(next(net.parameters()).device))
    size = (image.shape[1], image.shape[2])
    return Look(
        pixels=image.permute(1, 2, 0).numpy(),
        attention=None if seen.attention is None else enlarge(seen.attention, size),
        effective=enlarge(seen.effective_weight, size),
        kept=[None if cells is None else cells[0, 0].cpu().numpy() for cells in seen.kept],
        kept_fraction=[float(share[0]) for share in seen.kept_fraction],
        features=seen.features,
        attended=seen.attended,
        descriptor=seen.descriptor[0].cpu().numpy(),
    )


def enlarge(plane: Tensor, size: tuple[int, int]) -> Plane:
    """Return a map (1, 1, h, w) at the image's size (H, W), bilinear."""
    large = fn.interpolate(plane, size=size, mode="bilinear", align_corners=False)
    return large[0, 0].cpu().numpy()


def contributions(net: RetrievalNet, seen: Look, other: Plane) -> Plane | None:
    """Return how much each cell of an image adds to its product with a vector (D,): (h, w).

    With another image's descriptor that product is their cosine; with `Whitening.toward` their
    whitened cosine, less what the mean descriptor has.

    The attended map times the gradient, the masks and the norms (R-MAC's of its regions, too) held
    as they are. So means, maxima, GeM, CroW and R-MAC grow with the map in proportion, and by
    Euler's theorem the cells add up to the product. NetVLAD assigns each cell by its direction:
    None.
    """
    scheme, attended = net.head.scale_and_mask, seen.attended.clone().requires_grad_()
    if not scheme.pooling.additive:
        return None
    with torch.enable_grad():
        scales = scheme.filters(attended)
        pooled = [scheme.pooling.proportional(scale, scheme.mask(scale)) for scale in scales]
        total = torch.stack([one / _length(one) for one in pooled]).sum(0)
        product = (total / _length(total)) @ torch.from_numpy(other).to(attended.device)
        (gradient,) = torch.autograd.grad(product.sum(), attended)
    return (gradient * attended.detach()).sum(1)[0].cpu().numpy()


def _length(vectors: Tensor) -> Tensor:
    return vectors.detach().norm(dim=1, keepdim=True).clamp(min=1e-12)


class CamTarget:
    """A Grad-CAM target: cosine to a descriptor that should match minus that to one that should not

    The difference asks what tells the two apart; the similarity also lights what all images share.
    """

    def __init__(self, positive: Plane, negative: Plane) -> None:
        self.direction = torch.from_numpy(positive - negative)

    def __call__(self, descriptor: Tensor) -> Tensor:
        """Return cos(., positive) - cos(., negative) of a unit descriptor (D,)."""
        return descriptor @ self.direction.to(descriptor)


class SettledEigenCAM(EigenCAM):  # type: ignore[misc]
    """EigenCAM (Muhammad and Yeasin, IJCNN 2020), bright where the activations are strong.

    The package centres the activations before its SVD, which leaves the component's sign to chance,
    and then cuts the negative half away. (The paper does not centre: there rectified activations
    settle the sign.)
    """

    def get_cam_image(self, *arguments: object, **options: object) -> Plane:
        """Return the package's projection (B, h, w), turned where it opposes the activations."""
        projection: Plane = super().get_cam_image(*arguments, **options)
        norm = np.linalg.norm(self.activations_and_grads.activations[0].numpy(), axis=1)
        agreement = (projection * norm).sum((1, 2), keepdims=True)  # the projection is centred
        return projection * np.where(agreement < 0, np.float32(-1), np.float32(1))


CAMS = {"Grad-CAM": GradCAM, "LayerCAM": LayerCAM, "EigenCAM": SettledEigenCAM}


def cams(net: RetrievalNet, features: Tensor, targets: Sequence[CamTarget]) -> dict[str, Plane]:
    """Return Grad-CAM, LayerCAM (Jiang et al., TIP 2021) and EigenCAM of F: (B, h, w) each.

    From F on they are the same maps as from the image, in a quarter of the time.
    """
    first, maps = nn.Identity(), {}  # where the Grad-CAM package hooks itself in
    model = nn.Sequential(first, net.head)
    with torch.enable_grad():
        start = features.detach().requires_grad_()
        for name, method in CAMS.items():
            with method(model=model, target_layers=[first]) as cam:
                maps[name] = cam(input_tensor=start, targets=list(targets))
    net.zero_grad()  # the package leaves the gradients of its targets in the parameters
    return maps
