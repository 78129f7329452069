import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from dagf.model.attention_baselines import BASELINES, GLAM, SOLAR
from tests.model.modules import numbers, some_map, stirred

Parameters = dict[str, np.ndarray]
Slow = Callable[[np.ndarray, Parameters], np.ndarray]
SHAPE = (2, 16, 3, 4)


def made(name: str, channels: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return stirred(BASELINES[name](channels)).double().eval()


def softmax(values: list[float]) -> list[float]:
    exponents = [math.exp(value) for value in values]
    return [one / sum(exponents) for one in exponents]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def cells_of(image: np.ndarray) -> list[np.ndarray]:
    return [image[:, i, j] for i, j in np.ndindex(*image.shape[1:])]


def linear(p: Parameters, name: str, x: np.ndarray) -> np.ndarray:
    weight = p[f"{name}.weight"]
    return weight.reshape(weight.shape[:2]) @ x + p.get(f"{name}.bias", 0)


def batch_norm(p: Parameters, name: str, x: np.ndarray) -> np.ndarray:
    scale = p[f"{name}.weight"] / np.sqrt(p[f"{name}.running_var"] + 1e-5)
    return (x - p[f"{name}.running_mean"]) * scale + p[f"{name}.bias"]


def along_channels(p: Parameters, name: str, x: np.ndarray) -> list[float]:
    """A convolution over three neighbouring channels, then a sigmoid; 0 beyond the ends."""
    kernel, padded = p[f"{name}.weight"].flatten(), [0.0, *x, 0.0]
    sums = [sum(kernel[t] * padded[c + t] for t in range(3)) for c in range(len(x))]
    return [sigmoid(one + float(p[f"{name}.bias"][0])) for one in sums]


def slow_solar(image: np.ndarray, p: Parameters) -> np.ndarray:
    def projected(name: str, x: np.ndarray) -> np.ndarray:
        return np.maximum(batch_norm(p, f"{name}.1", linear(p, f"{name}.0", x)), 0)

    cells, out = cells_of(image), []
    for x in cells:
        f = projected("f", x)
        shares = softmax([f @ projected("g", other) / math.sqrt(len(f)) for other in cells])
        z = sum(share * linear(p, "h", other) for share, other in zip(shares, cells, strict=True))
        out.append(x + linear(p, "v", z))
    return np.stack(out, 1).reshape(image.shape)


def slow_delf(image: np.ndarray, p: Parameters) -> np.ndarray:
    out = []
    for cell in cells_of(image):
        x = batch_norm(p, "embed.1", linear(p, "embed.0", cell))
        a = math.log1p(math.exp(float(linear(p, "score", np.maximum(x, 0))[0])))
        out.append(a * x / np.linalg.norm(x))
    return np.stack(out, 1).reshape(image.shape)


def slow_local_channel(image: np.ndarray, p: Parameters) -> np.ndarray:
    return np.array(along_channels(p, "near", image.mean((1, 2)))).reshape(-1, 1, 1)


def slow_local_spatial(image: np.ndarray, p: Parameters) -> np.ndarray:
    _, height, width = image.shape
    squeezed = {(i, j): linear(p, "squeeze", image[:, i, j]) for i, j in np.ndindex(height, width)}
    out = np.empty((1, height, width))
    for i, j in squeezed:
        parts = [squeezed[i, j]]
        for index, spread in enumerate((1, 2, 3)):
            weight, total = p[f"around.{index}.weight"], p[f"around.{index}.bias"].copy()
            for a, b in itertools.product(range(3), repeat=2):
                near = (i + spread * (a - 1), j + spread * (b - 1))
                if near in squeezed:
                    total = total + weight[:, :, a, b] @ squeezed[near]
            parts.append(total)
        out[0, i, j] = linear(p, "readout", np.concatenate(parts))[0]
    return out


def slow_global_channel(image: np.ndarray, p: Parameters) -> np.ndarray:
    average = image.mean((1, 2))
    query, key = along_channels(p, "query", average), along_channels(p, "key", average)
    shares = np.array([softmax([offered * asked for offered in key]) for asked in query])
    return np.einsum("cd,dij->cij", shares, image)


def slow_global_spatial(image: np.ndarray, p: Parameters) -> np.ndarray:
    cells, out = cells_of(image), []
    for x in cells:
        query = linear(p, "query", x)
        shares = softmax([linear(p, "key", other) @ query for other in cells])
        values = np.stack([linear(p, "value", other) for other in cells], 1)
        out.append(linear(p, "expand", values @ shares))
    return np.stack(out, 1).reshape(image.shape)


BRANCHES: dict[str, Slow] = {
    "local_channel": slow_local_channel,
    "local_spatial": slow_local_spatial,
    "global_channel": slow_global_channel,
    "global_spatial": slow_global_spatial,
}


def slow_glam(image: np.ndarray, p: Parameters) -> np.ndarray:
    part = {
        branch: slow(
            image,
            {name.removeprefix(f"{branch}."): value for name, value in p.items() if branch in name},
        )
        for branch, slow in BRANCHES.items()
    }
    local = part["local_channel"] * image + image
    local = part["local_spatial"] * local + local
    everywhere = part["global_channel"] * image
    everywhere = part["global_spatial"] * everywhere + everywhere
    weights = softmax(list(p["fusion"]))
    return weights[0] * local + weights[1] * everywhere + weights[2] * image


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (2, 5)])
@pytest.mark.parametrize(
    ("name", "slow"), [("solar", slow_solar), ("delf", slow_delf), ("glam", slow_glam)]
)
def test_against_the_slow_loop(name: str, slow: Slow, size: tuple[int, int]) -> None:
    module, features = made(name), some_map(2, 16, *size)
    expected = np.stack([slow(image, numbers(module)) for image in features.numpy()])
    np.testing.assert_allclose(module(features).detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_fresh_solar_equals_none() -> None:
    assert torch.equal(SOLAR(16).double()(some_map(*SHAPE)), some_map(*SHAPE))


def test_glam_starts_with_equal_parts_and_can_be_none() -> None:
    module = GLAM(16).double()
    assert torch.softmax(module.fusion, 0).tolist() == pytest.approx([1 / 3] * 3)
    with torch.no_grad():
        module.fusion.copy_(torch.tensor([-60.0, -60.0, 60.0]))
    torch.testing.assert_close(module(some_map(*SHAPE)), some_map(*SHAPE))


@pytest.mark.parametrize(("size", "channels"), [((5, 7), 4), ((2, 3), 96), ((1, 1), 32)])
@pytest.mark.parametrize("name", BASELINES)
def test_images_do_not_see_each_other(name: str, size: tuple[int, int], channels: int) -> None:
    module, features = made(name, channels), some_map(3, channels, *size)
    found = module(features)
    assert found.shape == features.shape
    torch.testing.assert_close(found[1:2], module(features[1:2]))
