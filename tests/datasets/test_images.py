"""Decoding: every kind of file and pixel, what is broken, crops and sizes."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from dagf.datasets import decode
from dagf.datasets.decode import Box, ImageSpec, find_images, geometry
from dagf.datasets.images import exact_mask, has_mask, load_image, to_input
from tests.fixtures import fails
from tests.pictures import BLUE, GREEN, RED, WHITE, close, quarters, save, smooth

TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_90 TRANSVERSE ROTATE_270"
# EXIF orientation -> how an upright picture is stored
UNDO = dict(enumerate((None, *(Image.Transpose[name] for name in TURNS.split())), 1))
sides = st.integers(1, 5000)
ends = st.floats(-6000, 6000) | st.just(float("nan"))


def stored(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """A picture as a turned camera stores it, and the EXIF that says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = UNDO[orientation]
    return (upright if undo is None else upright.transpose(undo)), exif


def corners(image: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(image[:, y, x].tolist()) for y in (2, -3) for x in (2, -3)]


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".heic"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Once, also where the container of a phone's HEIC turns the picture, too."""
    picture, exif = stored(quarters(80, 64), orientation)
    lossy = {".jpg": {"quality": 95, "subsampling": 0}, ".heic": {"quality": 95}}.get(suffix)
    how = lossy or {"lossless": True}
    path = save(picture, tmp_path / f"a{suffix}", exif=exif.tobytes(), **how)
    found = load_image(path)
    assert found.shape == (3, 64, 80)
    assert lossy or close(found, quarters(80, 64))
    assert np.allclose(corners(found), [RED, GREEN, BLUE, WHITE], atol=12)
    assert np.allclose(corners(load_image(path, box=(40, 0, 80, 32))), [GREEN] * 4, atol=12)


@pytest.mark.parametrize("kind", ["text", "profile"])
def test_large_texts_and_profiles_of_a_png_are_no_damage(tmp_path: Path, kind: str) -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("edits", "x" * 2**22, zip=True)
    more = {"pnginfo": about} if kind == "text" else {"icc_profile": bytes(2**22)}
    path = save(quarters(80, 64), tmp_path / "a.png", **more)
    assert close(load_image(path), quarters(80, 64))


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_exif_does_not_turn_what_has_a_box_for_it(tmp_path: Path, suffix: str) -> None:
    """ISO/IEC 23008-12: a decoder applies irot and imir, and EXIF is for information."""
    exif = Image.Exif()
    exif[0x0128] = 6  # of the form that an orientation has; that would be written as a box
    path = save(quarters(80, 64), tmp_path / f"a{suffix}", exif=exif.tobytes(), quality=95)
    data, order = path.read_bytes(), "<" if exif.tobytes()[6:8] == b"II" else ">"
    other, turned = (struct.pack(f"{order}HHIH", tag, 3, 1, 6) for tag in (0x0128, 0x0112))
    assert data.count(other) == 1
    path.write_bytes(data.replace(other, turned))
    assert np.allclose(corners(load_image(path)), [RED, GREEN, BLUE, WHITE], atol=20)


def test_images_are_found_by_what_is_decoded(tmp_path: Path) -> None:
    """Each once, by its ending; what is left out is told."""
    home, empty = tmp_path / "photos", tmp_path / "empty"
    for folder in home / "album.jpg", empty:  # a folder by the name of a photograph
        folder.mkdir(parents=True)
    names = ["a2.jfif", "a10.JPE", "c.hif", "d.mpo", "e.jp2", "f.apng", "g.pgm", "album.jpg/h.tif"]
    kinds = ["JPEG", "JPEG", "HEIF", "MPO", "JPEG2000", "PNG", "PPM", "TIFF"]
    for name, kind in zip(names, kinds, strict=True):
        quarters().convert("L" if kind == "PPM" else "RGB").save(home / name, kind)
        assert load_image(home / name).shape == (3, 24, 40)
    for name in ("notes.txt", "clip.mov", "album.jpg/README", "album.jpg/._a.jpg"):
        (home / name).touch()
    gone = [home / name for name in ("album.jpg/2019", "gone.png")]  # a folder's link, an image's
    for link in gone:
        link.symlink_to("nothing")
    (home / "same.jpg").symlink_to("a2.jfif")
    (tmp_path / "link").symlink_to(home / "album.jpg")  # what is in it is counted once, too
    found = find_images([home / "album.jpg", tmp_path / "link", home, home / "a2.jfif"])
    assert found.files == [home / name for name in (names[-1], *names[:-1])]
    dead = {f"cannot read {link} (it leads nowhere)" for link in gone}
    left = "1 hidden, 3 of other kinds (.mov, .txt, no ending), 4 there twice"
    last = f"6 images; left out: {left}, 4 that cannot be read"
    *unread, said = found.lines(["x", "y"])
    assert ({*unread}, len(unread), said) == ({*dead, "x", "y"}, 4, last)
    assert find_images([home / "a2.jfif"]).lines() == []
    assert find_images([home / "notes.txt"]).files == [home / "notes.txt"]  # named: it is tried
    fails(r"there is no image in .*empty \(of 0 files none\)", find_images, [empty])
    (empty / ".a.jpg").touch()
    fails(r"no image in .*empty \(of 0 files none; 1 are hidden\)", find_images, [empty])
    fails(r"no image in .*none \(No such file", find_images, [tmp_path / "none"])


CLEAR = quarters(8, 8).quantize(4)
CLEAR.info["transparency"] = bytes(4)
PIXELS = [
    (Image.new("L", (4, 3), 128), ".jpg .png .tiff", (128,) * 3),
    (Image.new("1", (4, 3), 1), ".png", WHITE),
    (quarters(8, 8).quantize(4), ".png .gif", RED),
    (CLEAR, ".png", WHITE),
    (Image.new("LA", (4, 3), (0, 0)), ".png", WHITE),
    (Image.new("RGBA", (4, 3), (255, 0, 0, 51)), ".png .tiff", (255, 204, 204)),
    (Image.new("CMYK", (4, 3), (0, 255, 255, 0)), ".jpg .tiff", RED),
    (Image.new("YCbCr", (4, 3), (76, 84, 255)), ".jpg", RED),
]


@pytest.mark.parametrize(("picture", "endings", "expected"), PIXELS)
def test_every_kind_of_pixel_becomes_rgb(
    tmp_path: Path, picture: Image.Image, endings: str, expected: tuple[int, ...]
) -> None:
    for ending in endings.split():
        found = load_image(save(picture, tmp_path / f"a{ending}"))
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert np.allclose(found[:, 0, 0].tolist(), expected, atol=3)


GREYS = [(0, 0, 65535), (256, 1, 65535), (32768, 128, 65535), (65535, 255, 65535)]
GREYS += [(2048, 128, 4095), (4095, 255, 4095), (512, 128, 1023), (8192, 128, 16383)]


@pytest.mark.parametrize(("value", "expected", "most"), GREYS)
def test_sixteen_bits_are_scaled(tmp_path: Path, value: int, expected: int, most: int) -> None:
    """By the bits that the brightest pixel needs: cameras keep 12 of them in 16."""
    array = np.full((2, 2), value, np.uint16)
    array[1, 1] = most
    paths = [save(Image.fromarray(array), tmp_path / name) for name in ("a.png", "a.tiff")]
    paths.append(tmp_path / "a.pgm")
    paths[-1].write_bytes(b"P5 2 2 65535\n" + array.astype(">u2").tobytes())
    for path in paths:
        assert load_image(path).flatten().tolist() == [expected, expected, expected, 255] * 3


@pytest.mark.parametrize("most", [1.0, 255.0, 65535.0, 100_000.0])
def test_thirty_two_bits_are_scaled_by_their_range(tmp_path: Path, most: float) -> None:
    shares = np.array([[0, 0.5], [1, float("nan")]], np.float32) * np.float32(most)
    for array in (shares, np.nan_to_num(shares).astype(np.int32)):
        if array.dtype == np.float32 or most > 255:  # integers are of 10 bits at least
            path = save(Image.fromarray(array), tmp_path / "a.tiff")
            assert np.allclose(load_image(path)[0], [[0, 128], [255, 0]], atol=1)


def encoded(image: Image.Image, kind: str) -> bytes:
    image.save(stream := io.BytesIO(), kind)
    return stream.getvalue()


BROKEN = {
    "empty": (b"", "it is damaged or no image"),
    "half.jpg": (encoded(smooth(200, 100), "JPEG")[:1500], "truncated"),
    "half.png": (encoded(smooth(200, 100), "PNG")[:1500], "truncated"),
    "bomb.ppm": (b"P6 60000 60000 255\n" + bytes(100), "exceeds limit of 300000000"),
    "postscript.jpg": (encoded(quarters(), "EPS"), "it is damaged or no image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_with_name_and_remedy(tmp_path: Path, name: str) -> None:
    data, why = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(data)
    fails(rf"^cannot decode {path} .*{why}.*leave it out$", load_image, path, ImageSpec(64))
    fails(r"a\.jpg does not exist: check", load_image, tmp_path / "a.jpg")


@pytest.mark.parametrize("broken", [b"MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03", b"no header of a TIFF"])
def test_broken_exif_is_ignored(tmp_path: Path, broken: bytes) -> None:
    path = save(quarters(), tmp_path / "a.jpg", exif=b"Exif\0\0" + broken)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside tests, where PIL's remarks are not shown
        assert load_image(path).shape == (3, 24, 40)


def test_the_crop_comes_before_the_resize(tmp_path: Path) -> None:
    """A crop to the red quarter holds no other colour; its scale is the whole image's."""
    path, box = save(quarters(400, 240), tmp_path / "a.png"), (0, 0, 200, 120)
    says = r"a\.png: box .* has no pixel of the 400 x 240 image"
    fails(says, load_image, path, box=(400, 0, 500, 5))
    assert close(load_image(path, ImageSpec(100), box), np.full((30, 50, 3), RED, np.uint8))
    assert load_image(path, ImageSpec(100, resize_crop=False), box).shape == (3, 120, 200)
    assert load_image(path, ImageSpec(100, "squash"), box).shape == (3, 100, 100)
    expected = smooth(400, 240).crop((10, 20, 311, 200)).resize((75, 45), Image.Resampling.LANCZOS)
    path = save(smooth(400, 240), tmp_path / "b.png")
    assert close(load_image(path, ImageSpec(100), (10.4, 19.6, 310.7, 200)), expected)


@pytest.mark.parametrize("box", [None, (401.0, 103.0, 1450.0, 877.5)])
@pytest.mark.parametrize("spec", [ImageSpec(90), ImageSpec(50, "squash"), ImageSpec(320)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_decode_gives_the_same_picture(
    tmp_path: Path, spec: ImageSpec, box: Box | None, orientation: int
) -> None:
    upright = smooth(1501, 1003)
    picture, exif = stored(upright, orientation)
    jpeg = save(picture, tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    exact = save(upright, tmp_path / "a.png", compress_level=0)
    reduced, full = load_image(jpeg, spec, box), load_image(exact, spec, box)
    plan = geometry(1501, 1003, spec, box)
    assert reduced.shape == full.shape == (3, plan.height, plan.width)
    assert (reduced.int() - full.int()).abs().max() <= 6


def test_no_large_image_is_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("RGB", (8700, 5800), GREEN), tmp_path / "a.jpg")
    decoded, to_rgb = list[tuple[int, int]](), decode._to_rgb
    monkeypatch.setattr(decode, "_to_rgb", lambda one: decoded.append(one.size) or to_rgb(one))
    assert load_image(path, ImageSpec(362)).shape == (3, 241, 362)
    load_image(path, ImageSpec(362), (0, 0, 4000, 4000))
    load_image(path, ImageSpec(362, resize_crop=False), (0, 0, 10, 10))
    assert decoded == [(1088, 725), (1088, 725), (8700, 5800)]


@given(sides, sides, st.tuples(ends, ends, ends, ends), st.integers(1, 2000), st.booleans())
def test_geometry(width: int, height: int, box: Box, size: int, resize_crop: bool) -> None:
    spec = ImageSpec(size, resize_crop=resize_crop)
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2 and x1 < width and y1 < height and x2 > 0 and y2 > 0):
        fails("has no pixel", geometry, width, height, spec, box)
        return
    crop, new_width, new_height = geometry(width, height, spec, box)
    left, top, right, bottom = crop
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - max(x1, 0)) <= 1
    assert abs(bottom - min(y2, height)) <= 1
    factor = min(1.0, size / max(width, height)) if resize_crop else 1.0
    for new, old in ((new_width, right - left), (new_height, bottom - top)):
        assert abs(new - old * factor) <= (0.5 if old * factor >= 0.5 else 1)
    assert geometry(width, height, ImageSpec(size, "squash"), box) == (crop, size, size)
    whole, infinity = geometry(width, height, spec), float("inf")
    assert whole.crop == (0, 0, width, height)
    assert geometry(width, height, spec, (0, 0, width, height)).crop == whole.crop
    around = geometry(width, height, ImageSpec(size), (-infinity, -3.5, infinity, height + 0.7))
    assert around == geometry(width, height, ImageSpec(size))
    assert max(around.width, around.height) == min(size, max(width, height))


def test_an_exact_mask_comes_with_the_image_or_blanks_the_rest(tmp_path: Path) -> None:
    for folder in ("jpg", "masks"):
        (tmp_path / "test" / folder).mkdir(parents=True)
    file, mask = (tmp_path / "test" / folder / "a.png" for folder in ("jpg", "masks"))
    Image.new("RGB", (8, 4), (10, 200, 30)).save(file)
    landmark = Image.new("1", (8, 4))
    landmark.paste(1, (4, 0, 8, 4))  # the right half
    landmark.save(mask)
    assert not has_mask(file)  # of somebody's photographs a folder `masks` may be anything
    (tmp_path / "spec.json").touch()  # of a Toytown
    assert has_mask(file)
    cells = load_image(file, ImageSpec(8, truth="cells"))
    assert cells.shape == (4, 4, 8)
    assert cells[3].tolist() == [[0] * 4 + [255] * 4] * 4
    values = to_input(cells)
    assert values[3].tolist() == [[0.0] * 4 + [1.0] * 4] * 4
    torch.testing.assert_close(values[:3], to_input(cells[:3]))
    pixels = load_image(file, ImageSpec(8, truth="pixels"))
    assert pixels[:, 0, 4].tolist() == [10, 200, 30]
    assert to_input(pixels)[:, 0, 0].abs().max() < 0.02  # the mean of ImageNet
    # A query is cropped to its box, all of which counts; as does an image without a mask.
    query = load_image(file, ImageSpec(8, truth="cells"), (0, 0, 4, 4))
    assert query[3].min() == 255
    mask.unlink()
    assert load_image(file, ImageSpec(8, truth="cells"))[3].min() == 255


def test_boxes_are_the_exact_mask_of_a_photograph(tmp_path: Path) -> None:
    """In upright pixels of the file, their union; cut at the edge; whatever the size asked for."""
    (tmp_path / "deep" / "jpg").mkdir(parents=True)
    turned, other = tmp_path / "deep" / "jpg" / "a.jpg", tmp_path / "deep" / "b.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turned by a quarter: 16 wide, 32 high
    Image.new("RGB", (32, 16)).save(turned, exif=exif)
    Image.new("RGB", (8, 8)).save(other)
    lines = ["deep/jpg/a.jpg,one,0,0,8,8", "deep/jpg/a.jpg,one,4,4,12,8"]
    lines += ["deep/jpg/a.jpg,one,0,24,16.4,33", "deep/b.png,two,3,3,3,3"]  # the last is empty
    text = "\n".join(["file,instance,x1,y1,x2,y2", *lines])
    (tmp_path / "boxes.csv").write_text(text)
    expected = np.zeros((32, 16), np.uint8)
    expected[:8, :8] = expected[4:8, 4:12] = expected[24:] = 255
    assert np.array_equal(exact_mask(turned), expected)
    cells = load_image(turned, ImageSpec(8, "squash", truth="cells"))[3].numpy()
    shares = expected.reshape(8, 4, 8, 2).mean((1, 3))
    assert np.allclose(cells, shares, atol=1)
    assert has_mask(turned)
    assert not has_mask(other) and exact_mask(other) is None
    (tmp_path / "boxes.csv").write_text(text.replace("0,24,16.4,33", "0,0,16,32"))
    assert np.min(exact_mask(turned)) == 255
