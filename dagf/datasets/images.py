"""Images as tensors, the network's input, and what is exactly known of where their instance is."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dagf.datasets.decode import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Box,
    ImageSpec,
    Truth,
    decode,
    geometry,
    image_size,
)
from dagf.datasets.folder import boxes_of


def load_image(path: Path, spec: ImageSpec | None = None, box: Box | None = None) -> Tensor:
    """Return an image of `decode`, uint8 (3, H, W); (4, H, W) with its exact mask.

    Raise `UserError` as `decode`.
    """
    found = torch.from_numpy(decode(path, spec, box)).permute(2, 0, 1).contiguous()
    if spec is None or spec.truth == "none":
        return found
    return with_truth(found, exact_mask(path) if box is None else None, spec.truth)


def exact_mask(path: Path) -> Image.Image | None:
    """Return what is exactly known of where in an upright image the instance is; None if nothing.

    Greyscale, 255 where it is seen. Of Toytown a PNG in `masks`, beside the image's folder; of
    photographs their boxes (`boxes_of`).
    """
    if file := _mask_file(path):
        with Image.open(file) as opened:
            return opened.convert("L")
    if not (boxes := boxes_of(path)):
        return None
    mask = Image.new("L", image_size(path))
    for box in boxes:
        mask.paste(255, geometry(*mask.size, box=box).crop)
    return mask


def has_mask(path: Path) -> bool:
    """Whether it is exactly known where in an image the instance is."""
    return bool(_mask_file(path) or boxes_of(path))


def _mask_file(path: Path) -> Path | None:
    """Return the mask of a drawing. What a user keeps in a folder of this name may be anything."""
    file = path.parent.parent / "masks" / f"{path.stem}.png"
    drawn = any((folder / "spec.json").is_file() for folder in [*path.parents][2:4])
    return file if drawn and file.is_file() else None


def with_truth(image: Tensor, mask: Image.Image | None, truth: Truth) -> Tensor:
    """Return an image uint8 (3, H, W) as `ImageSpec.truth` says; without a mask all counts."""
    share = torch.full_like(image[:1], 255)
    if mask is not None:
        resized = mask.resize((image.shape[2], image.shape[1]), Image.Resampling.BOX)
        share = torch.from_numpy(np.array(resized))[None]
    if truth == "cells":
        return torch.cat([image, share])
    blank = torch.tensor(IMAGENET_MEAN)[:, None, None] * 255  # 0 as network input
    return torch.where(share > 127, image, blank.to(torch.uint8))


def to_input(image: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 of ImageNet mean 0 and standard deviation 1 per channel.

    A fourth channel, an exact mask, becomes the share of each pixel that is landmark.
    """
    given = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=image.device)
    mean, std = given[..., None, None]
    values = image.float() / 255
    colours = (values[..., :3, :, :] - mean) / std
    return colours if image.shape[-3] == 3 else torch.cat([colours, values[..., 3:, :, :]], -3)
