"""`dagf.datasets.images`: crops and sizes. What files hold is in test_images.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dagf.datasets import images
from dagf.datasets.benchmark import Box
from dagf.datasets.images import ImageSpec, geometry, load_image, to_input
from dagf.errors import UserError
from tests.retrieval.pictures import GREEN, RED, close, quarters, save, smooth

shared_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


def test_the_whole_image_is_never_enlarged(tmp_path: Path) -> None:
    path = save(smooth(60, 40), tmp_path / "a.png")
    assert close(load_image(path, ImageSpec(100)), smooth(60, 40))
    assert load_image(path, ImageSpec(30)).shape == (3, 20, 30)
    assert load_image(path, ImageSpec(90, "squash")).shape == (3, 90, 90)


def test_a_resize_averages(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = load_image(save(Image.fromarray(stripes), tmp_path / "a.png"), ImageSpec(16))
    assert (found.int() - 128).abs().max() < 25


def test_the_crop_comes_before_the_resize(tmp_path: Path) -> None:
    """Cropped to its red quarter, an image holds no trace of the other colours; its scale is the whole image's."""
    path = save(quarters(400, 240), tmp_path / "a.png")
    found = load_image(path, ImageSpec(100), (0, 0, 200, 120))
    assert close(found, np.full((30, 50, 3), RED, np.uint8))
    assert load_image(path, ImageSpec(100, resize_crop=False), (0, 0, 200, 120)).shape == (
        3,
        120,
        200,
    )
    assert load_image(path, ImageSpec(100, "squash"), (0, 0, 200, 120)).shape == (3, 100, 100)
    expected = smooth(400, 240).crop((10, 20, 311, 200)).resize((75, 45), Image.Resampling.LANCZOS)
    path = save(smooth(400, 240), tmp_path / "b.png")
    assert close(load_image(path, ImageSpec(100), (10.4, 19.6, 310.7, 200)), expected)


@pytest.mark.parametrize("box", [None, (401.0, 103.0, 1450.0, 877.5), (3.0, 5.0, 350.0, 166.0)])
@pytest.mark.parametrize("spec", [ImageSpec(90), ImageSpec(50, "squash"), ImageSpec(320)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_decode_gives_the_same_picture(
    tmp_path: Path, spec: ImageSpec, box: Box | None, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = smooth(1501, 1003)
    options = {"quality": 95, "subsampling": 0}
    jpeg = save(picture, tmp_path / "a.jpg", exif=exif, **options)
    turned = picture.transpose(images._TURNS[orientation]) if orientation > 1 else picture
    exact = save(turned, tmp_path / "a.png", compress_level=0)
    reduced, full = load_image(jpeg, spec, box), load_image(exact, spec, box)
    plan = geometry(turned.width, turned.height, spec, box)
    assert reduced.shape == full.shape == (3, plan.height, plan.width)
    assert (reduced.int() - full.int()).abs().max() <= 6


def test_fifty_megapixels_are_not_decoded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(Image.new("RGB", (8700, 5800), GREEN), tmp_path / "a.jpg")
    decoded: list[tuple[int, int]] = []
    to_rgb = images._to_rgb

    def spy(image: Image.Image) -> Image.Image:
        decoded.append(image.size)
        return to_rgb(image)

    monkeypatch.setattr(images, "_to_rgb", spy)
    assert load_image(path, ImageSpec(362)).shape == (3, 241, 362)
    load_image(path, ImageSpec(362), (0, 0, 4000, 4000))
    load_image(path, ImageSpec(362, resize_crop=False), (0, 0, 10, 10))
    assert decoded == [(1088, 725), (1088, 725), (8700, 5800)]


sides = st.integers(1, 5000)
ends = st.floats(-6000, 6000)


@given(sides, sides, st.tuples(ends, ends, ends, ends), st.integers(1, 2000), st.booleans())
def test_geometry(width: int, height: int, box: Box, size: int, resize_crop: bool) -> None:
    spec = ImageSpec(size, resize_crop=resize_crop)
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2 and x1 < width and y1 < height and x2 > 0 and y2 > 0):
        with pytest.raises(UserError, match="has no pixel"):
            geometry(width, height, spec, box)
        return
    (left, top, right, bottom), new_width, new_height = geometry(width, height, spec, box)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - max(x1, 0)) <= 1
    assert abs(bottom - min(y2, height)) <= 1
    factor = min(1.0, size / max(width, height)) if resize_crop else 1.0
    assert abs(new_width - (right - left) * factor) <= (
        0.5 if (right - left) * factor >= 0.5 else 1
    )
    assert abs(new_height - (bottom - top) * factor) <= (
        0.5 if (bottom - top) * factor >= 0.5 else 1
    )
    assert geometry(width, height, ImageSpec(size, "squash"), box) == (
        (left, top, right, bottom),
        size,
        size,
    )


@given(sides, sides, st.integers(1, 6000))
def test_a_box_around_everything_is_no_box(width: int, height: int, size: int) -> None:
    spec, infinity = ImageSpec(size), float("inf")
    whole = geometry(width, height, spec)
    assert whole.crop == (0, 0, width, height)
    assert max(whole.width, whole.height) == min(size, max(width, height))
    assert geometry(width, height, spec, (0, 0, width, height)) == whole
    assert geometry(width, height, spec, (-infinity, -3.5, infinity, height + 0.7)) == whole


@shared_folder
@given(st.integers(1, 70), st.integers(1, 70), st.data())
def test_what_is_planned_is_what_comes(
    tmp_path: Path, width: int, height: int, data: st.DataObject
) -> None:
    left, top = data.draw(st.floats(-9, width - 0.1)), data.draw(st.floats(-9, height - 0.1))
    box = (
        left,
        top,
        max(left, 0) + data.draw(st.floats(0.1, 90)),
        max(top, 0) + data.draw(st.floats(0.1, 90)),
    )
    size, suffix = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([".png", ".jpg"]))
    path = save(smooth(width, height), tmp_path / f"a{suffix}")
    for spec in (
        None,
        ImageSpec(size),
        ImageSpec(size, "squash"),
        ImageSpec(size, resize_crop=False),
    ):
        plan = geometry(width, height, spec, box)
        assert load_image(path, spec, box).shape == (3, plan.height, plan.width)


@pytest.mark.parametrize(
    "box",
    [
        (10, 0, 20, 5),
        (0, 10, 5, 20),
        (-9, 0, 0, 5),
        (5, 5, 5, 9),
        (5, 5, 2, 9),
        (float("nan"), 0, 1, 1),
    ],
)
def test_a_box_outside_names_the_file(tmp_path: Path, box: Box) -> None:
    path = save(Image.new("RGB", (10, 10)), tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: box .* has no pixel of the 10 x 10 image"):
        load_image(path, box=box)


def test_a_wrong_spec_is_refused() -> None:
    with pytest.raises(UserError, match="image size 0"):
        ImageSpec(0)
    with pytest.raises(UserError, match="known: longest, squash"):
        ImageSpec(5, "shortest")  # type: ignore[arg-type]


def test_input_has_the_mean_and_deviation_of_imagenet() -> None:
    image = (
        torch.arange(2 * 3 * 4 * 32, dtype=torch.int64)
        .remainder(256)
        .to(torch.uint8)
        .reshape(2, 3, 4, 32)
    )
    values = to_input(image)
    assert values.dtype == torch.float32
    mean, std = (
        torch.tensor(one)[:, None, None] for one in (images.IMAGENET_MEAN, images.IMAGENET_STD)
    )
    assert torch.equal((255 * (values * std + mean)).round().to(torch.uint8), image)
    grey = (torch.tensor(images.IMAGENET_MEAN) * 255).round().to(torch.uint8)[:, None, None]
    assert to_input(grey).abs().max() < 0.01
