import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from dagf.datasets import images
from dagf.datasets.images import ImageSpec, load_image
from dagf.errors import UserError
from tests.retrieval.pictures import BLUE, GREEN, RED, WHITE, close, quarters, save, smooth


def corners(image: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(image[:, y, x].tolist()) for y in (2, -3) for x in (2, -3)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    turn = images._TURNS.get(orientation)
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = quarters() if turn is None else quarters().transpose(undo.get(orientation, turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossy = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    path = save(stored, tmp_path / f"a{suffix}", exif=exif, lossless=True, **lossy)
    found = load_image(path)
    assert found.shape == (3, 24, 40)
    assert close(found, quarters(), within=120 if suffix == ".jpg" else 0)
    assert np.allclose(corners(found), [RED, GREEN, BLUE, WHITE], atol=12)
    assert np.allclose(corners(load_image(path, box=(20, 0, 40, 12))), [GREEN] * 4, atol=12)


MODES: dict[str, Callable[[], Image.Image]] = {
    "L": lambda: Image.new("L", (4, 3), 128),
    "1": lambda: Image.new("1", (4, 3), 1),
    "P": lambda: quarters(8, 8).quantize(4),
    "LA": lambda: Image.new("LA", (4, 3), (0, 0)),
    "RGBA": lambda: Image.new("RGBA", (4, 3), (255, 0, 0, 51)),
    "CMYK": lambda: Image.new("CMYK", (4, 3), (0, 255, 255, 0)),
    "YCbCr": lambda: Image.new("YCbCr", (4, 3), (76, 84, 255)),
    "I;16": lambda: Image.fromarray(np.full((3, 4), 32896, np.uint16)),
    "F": lambda: Image.fromarray(np.full((3, 4), 0.5, np.float32)),
}
EXPECTED = {
    "L": (128,) * 3,
    "1": WHITE,
    "P": RED,
    "LA": WHITE,
    "RGBA": (255, 204, 204),
    "CMYK": RED,
}
EXPECTED |= {"YCbCr": RED, "I;16": (128,) * 3, "F": (128,) * 3}


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *[("L", s) for s in (".jpg", ".png", ".tiff")],
        *[
            ("1", ".png"),
            ("P", ".png"),
            ("P", ".gif"),
            ("LA", ".png"),
            ("RGBA", ".png"),
            ("RGBA", ".tiff"),
        ],
        *[
            ("CMYK", ".jpg"),
            ("CMYK", ".tiff"),
            ("YCbCr", ".jpg"),
            ("I;16", ".png"),
            ("I;16", ".tiff"),
            ("F", ".tiff"),
        ],
    ],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    found = load_image(save(MODES[mode](), tmp_path / f"a{suffix}"))
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert np.allclose(found[:, 0, 0].tolist(), EXPECTED[mode], atol=3)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (256, 1), (32768, 128), (65535, 255)])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, value: int, expected: int) -> None:
    array = np.full((2, 2), value, np.uint16)
    for name in ("a.png", "a.tiff"):
        assert (
            load_image(save(Image.fromarray(array), tmp_path / name)).flatten().tolist()
            == [expected] * 12
        )
    plain = tmp_path / "a.pgm"
    plain.write_bytes(b"P5 2 2 65535\n" + array.astype(">u2").tobytes())
    assert load_image(plain).flatten().tolist() == [expected] * 12


def test_more_than_sixteen_bits_and_holes(tmp_path: Path) -> None:
    deep = save(Image.fromarray(np.array([[0, 2**30], [2**29, -5]], np.int32)), tmp_path / "a.tiff")
    assert load_image(deep)[0].tolist() == [[0, 255], [128, 0]]
    holes = save(
        Image.fromarray(np.array([[np.nan, np.inf], [255, 51]], np.float32)), tmp_path / "b.tiff"
    )
    assert load_image(holes)[0].tolist() == [[0, 0], [255, 51]]


def test_a_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    path = save(quarters(8, 8).quantize(4), tmp_path / "a.png", transparency=bytes([0, 0, 0, 0]))
    assert load_image(path).min() == 255


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tiff"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (BLUE, RED)]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(
        frames[0], tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options
    )
    assert load_image(path)[:, 4, 4].tolist() == list(BLUE)


@pytest.mark.parametrize("spec", [None, ImageSpec(1), ImageSpec(50), ImageSpec(5, "squash")])
def test_one_pixel(tmp_path: Path, spec: ImageSpec | None) -> None:
    path = save(Image.new("RGB", (1, 1), RED), tmp_path / "a.png")
    for box in (None, (0.0, 0.0, 1.0, 1.0), (-5.0, 0.9, 7.0, 30.0)):
        found = load_image(path, spec, box)
        assert found.shape[1] == found.shape[2] == (5 if spec and spec.mode == "squash" else 1)
        assert found[:, 0, 0].tolist() == list(RED)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"<html>404 Not Found</html>", "cannot decode"),
    "half.jpg": (encoded(smooth(200, 100), "JPEG")[:1500], "cannot decode"),
    "half.png": (encoded(smooth(200, 100), "PNG")[:1500], "cannot decode"),
    "half.gif": (encoded(smooth(200, 100), "GIF")[:1500], "cannot decode"),
    "half.webp": (encoded(smooth(200, 100), "WEBP")[:500], "cannot decode"),
    "half.tiff": (encoded(smooth(200, 100), "TIFF")[:1500], "cannot decode"),
    "header.jpg": (encoded(smooth(200, 100), "JPEG")[:20], "cannot decode"),
    "bomb.png": (
        png_header(20_000, 20_000),
        "20000 x 20000 pixels, more than the limit of 300 million",
    ),
    "giant.png": (png_header(2**31 - 1, 2**31 - 1), "more than the limit"),
    "warned.png": (png_header(9_500, 9_500), "cannot decode"),  # PIL would warn of its size
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_with_name_and_remedy(tmp_path: Path, name: str) -> None:
    data, match = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=match) as caught:
        load_image(path, ImageSpec(64))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "again" in str(caught.value) or "leave it out" in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jpg does not exist: check"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="must be a readable image file"):
        load_image(tmp_path)
    with pytest.raises(UserError, match="cannot decode"):
        load_image(tmp_path / ("a" * 5000))
    with pytest.raises(UserError, match="cannot decode"):
        load_image(tmp_path / "a\0b")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_damaged_bytes_never_crash(tmp_path: Path, kind: str) -> None:
    good = encoded(smooth(32, 20), kind)
    chance = random.Random(kind)
    path = tmp_path / "a"
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(min(len(bad), 300))] = chance.randrange(256)
        path.write_bytes(bad[: chance.choice([len(bad), chance.randrange(len(bad))])])
        try:
            assert load_image(path, ImageSpec(16)).shape[0] == 3
        except UserError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    path = save(quarters(), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03")
    assert load_image(path).shape == (3, 24, 40)


def test_pillows_limit_and_warnings_are_left_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 500
    )  # so small that PIL itself would refuse the picture
    filters = list(warnings.filters)
    load_image(save(quarters(99, 99), tmp_path / "a.png"))
    with pytest.raises(UserError):
        load_image(tmp_path / "b.png")
    assert Image.MAX_IMAGE_PIXELS == 500
    assert filters == list(warnings.filters)


def test_threads_decode_as_one_after_another(tmp_path: Path) -> None:
    """PIL's limit and the warning filters belong to the whole process: decoders must take turns at them."""
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    paths = [
        save(smooth(90 + number, 60), tmp_path / f"{number}.jpg", quality=90) for number in range(8)
    ] * 6
    jobs = [(path, ImageSpec(40 + number), (3, 5, 80, 55)) for number, path in enumerate(paths)]
    expected = [load_image(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: load_image(*job), jobs))
        broken = [pool.submit(load_image, tmp_path / "missing.jpg") for _ in range(16)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(isinstance(future.exception(), UserError) for future in broken)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert filters == list(warnings.filters)


def test_a_png_comment_bomb_is_refused(tmp_path: Path) -> None:
    comments = PngImagePlugin.PngInfo()
    comments.add_text("x", "0" * 5_000_000, zip=True)
    with pytest.raises(UserError, match="cannot decode"):
        load_image(save(quarters(), tmp_path / "a.png", pnginfo=comments))


def test_no_other_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would hand a file that begins as PostScript does to Ghostscript."""
    quarters().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    monkeypatch.setattr(
        "subprocess.check_call", lambda *_, **__: pytest.fail("a program was started")
    )
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(UserError, match=r"cannot decode .*a\.jpg"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phones_heic_is_turned_once(tmp_path: Path, orientation: int) -> None:
    """Its container turns it, and its EXIF says the same again."""
    turn = images._TURNS.get(orientation)
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    upright = quarters(80, 64)
    stored = upright if turn is None else upright.transpose(undo.get(orientation, turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = load_image(save(stored, tmp_path / "a.heic", exif=exif.tobytes(), quality=95))
    assert found.shape == (3, 64, 80)
    assert np.allclose(corners(found), [RED, GREEN, BLUE, WHITE], atol=12)
    assert np.allclose(
        corners(load_image(tmp_path / "a.heic", box=(40, 0, 80, 32))), [GREEN] * 4, atol=12
    )


@pytest.mark.parametrize("brand", [b"avif", b"heic", b"mif1"])
@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_avif_and_heic_are_told_apart(tmp_path: Path, kind: str, brand: bytes) -> None:
    """Both may begin with the brand mif1; a file by another's brand or suffix is read, or refused in one line."""
    data = bytearray(
        save(quarters(80, 64), tmp_path / "a.jpg", format=kind, quality=95).read_bytes()
    )
    data[8:12] = brand
    (tmp_path / "a.jpg").write_bytes(data)
    if brand == b"mif1" or brand == {"AVIF": b"avif", "HEIF": b"heic"}[kind]:
        assert np.allclose(
            corners(load_image(tmp_path / "a.jpg")), [RED, GREEN, BLUE, WHITE], atol=12
        )
        return
    with pytest.raises(UserError, match=r"cannot decode .*a\.jpg"):
        load_image(tmp_path / "a.jpg")


def test_a_thumbnail_in_a_heic_is_not_taken_for_the_photograph(tmp_path: Path) -> None:
    path = save(smooth(512, 384), tmp_path / "a.heic", quality=90, thumbnails=[128])
    plain = save(smooth(512, 384), tmp_path / "b.heic", quality=90)
    assert torch.equal(load_image(path, ImageSpec(32)), load_image(plain, ImageSpec(32)))


@pytest.mark.parametrize(
    ("width", "height", "match"),
    [
        (60_000, 60_000, "has 60000 x 60000 pixels, more than the limit of 300 million"),
        (32, 32, "cannot decode .* size"),
        (256, 256, "cannot decode .* size"),
    ],
)
def test_a_heic_that_lies_of_its_size_is_refused(
    tmp_path: Path, width: int, height: int, match: str
) -> None:
    """More than it has (before decoding), or less than it has: what is decoded is not what was asked about."""
    path = save(quarters(64, 64), tmp_path / "a.heic")
    data = path.read_bytes()
    at = data.index(b"ispe") + 8
    path.write_bytes(data[:at] + struct.pack(">II", width, height) + data[at + 8 :])
    with pytest.raises(UserError, match=match) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_heic_is_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(5)
    good = save(quarters(64, 64), tmp_path / "a.heic").read_bytes()
    for _ in range(200):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        (tmp_path / "a.heic").write_bytes(
            bad[: chance.choice([len(bad), chance.randrange(len(bad))])]
        )
        try:
            assert load_image(tmp_path / "a.heic", ImageSpec(16)).shape[0] == 3
        except UserError as error:
            assert str(tmp_path / "a.heic") in str(error)
            assert "\n" not in str(error)


CLAIMS = {  # a head of few bytes that claims very many pixels
    "gif": b"GIF89a\xff\xff\xff\xff\x80\0\0"
    + bytes(6)
    + b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;",
    "bmp": b"BM"
    + struct.pack("<IHHI", 154, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, *[0] * 6),
    "ppm": b"P6 60000 60000 255\n" + bytes(100),
    "pgm": b"P5 99999 99999 65535\n" + bytes(100),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_pixel_bomb_of_any_kind_is_refused_before_decoding(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(CLAIMS[kind])
    with pytest.raises(
        UserError, match=r"pixels, more than the limit of 300 million|cannot decode"
    ) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert kind in ("gif", "pgm") or "limit" in str(caught.value)
