"""Small pictures that several rooms' tests share."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIZES = [(32, 24), (24, 32), (40, 40), (64, 48), (16, 32)]  # under a limit of 32 two become one


def quarters(width: int = 40, height: int = 24) -> Image.Image:
    """Red, green / blue, white: every turn and flip of it looks different."""
    image = Image.new("RGB", (width, height), RED)
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), GREEN)
    draw.rectangle((0, height // 2, width // 2 - 1, height), BLUE)
    draw.rectangle((width // 2, height // 2, width, height), WHITE)
    return image


def smooth(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - 4 * x), x * 2 - 1]
    return Image.fromarray(np.stack([(wave * 110 + 128).astype(np.uint8) for wave in waves], 2))


def varied(folder: Path) -> list[Path]:
    """Write 23 pictures that all differ, of five sizes in turn."""
    pictures = [smooth(*SIZES[number % 5]).rotate(7 * number) for number in range(23)]
    return [save(one, folder / f"{number:02}.png") for number, one in enumerate(pictures)]


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def close(found: torch.Tensor, expected: Image.Image | np.ndarray, within: float = 0.0) -> bool:
    other = torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    return found.shape == other.shape and (found.int() - other.int()).abs().max().item() <= within
