"""From a file to pixels: decode, turn upright, crop, resize. It needs neither PyTorch nor pandas.

Order and convention (they move mAP by points): a query is cropped first, then resized by the factor
that its *whole* image would have got, as in cnnimageretrieval (`ImagesFromList`);
`ImageSpec.resize_crop=False` is the other published convention, "crop, no resize". Colour profiles
are ignored, as everywhere in this field.
"""

import math
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from pillow_heif import register_heif_opener

from dagf.errors import UserError
from dagf.files import Walk, natural, walk

MAX_PIXELS = 300_000_000  # the largest phone sensors give 200 million; larger files are refused
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Photographs only: Pillow would start Ghostscript, a program of its own, for PostScript under any
# name. AVIF before HEIF: both may begin alike, and only Pillow's AVIF passes on what it cannot
# read. JPEG opens MPO, too.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000")
# An embedded thumbnail is another picture than the photograph; images are decoded side by side.
register_heif_opener(thumbnails=False, decode_threads=1)
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses what has more than twice as many
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**26, 2**28  # edits, profiles
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd metadata
ENDINGS = frozenset(  # of the files in a folder that are images: of all that can be decoded
    ending for ending, of in Image.registered_extensions().items() if of in {*_FORMATS, "MPO"}
)
WHITE = (1, 255, 1023, 4095, 16383, 65535)  # of greys: shares, and what is kept in 16 or 32 bits

# JPEGs are decoded at 1/2, 1/4 or 1/8 where that leaves this many times the wanted pixels a side,
# so that the final resize still averages (about the `reducing_gap` of PIL's own thumbnails, 2, with
# which 4000 pixels would be decoded at 1/2 for 512).
_DRAFT_MARGIN = 1.9


Truth = Literal["none", "cells", "pixels"]
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


@dataclass(frozen=True)
class ImageSpec:
    """The size that images are brought to.

    "longest": the longest side becomes `size` pixels, the shape is kept, and smaller images are
    never enlarged. "squash": exactly `size` x `size`, whatever the shape, enlarged if need be
    (classification networks); a crop is squashed too. `resize_crop=False` leaves a query's crop in
    its original pixels ("longest" only). truth: what a perfect attention would know, of images that
    have an exact mask (`dagf.datasets.images`): "cells" adds the mask as a fourth channel, "pixels"
    blanks all that is not the landmark.
    """

    size: int
    mode: Literal["longest", "squash"] = "longest"
    resize_crop: bool = True
    truth: Truth = "none"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"image size {self.size} is not a positive number of pixels")


class Geometry(NamedTuple):
    """`crop` (x1, y1, x2, y2 in whole pixels) is resized to `width` x `height`."""

    crop: tuple[int, int, int, int]
    width: int
    height: int


def geometry(
    width: int, height: int, spec: ImageSpec | None = None, box: Box | None = None
) -> Geometry:
    """Return the crop and the final size of an upright image of `width` x `height` pixels.

    The box's corners are rounded to the nearest pixel edge (halves to even, as PIL's crop does),
    then clipped to the image; at least one pixel is kept. Sides after the resize are rounded to the
    nearest, never below 1. Raise `UserError` for a box with no pixel of the image in it.
    """
    x1, y1, x2, y2 = (0, 0, width, height) if box is None else box
    # written so that NaN fails it
    if not (x1 < x2 and y1 < y2 and x1 < width and y1 < height and x2 > 0 and y2 > 0):
        raise UserError(
            f"box {box} has no pixel of the {width} x {height} image: expected x1 y1 x2 y2"
        )
    (left, right), (top, bottom) = _pixels(x1, x2, width), _pixels(y1, y2, height)
    crop = left, top, right, bottom
    if spec is not None and spec.mode == "squash":
        return Geometry(crop, spec.size, spec.size)
    factor = 1.0
    if spec is not None and (box is None or spec.resize_crop):
        factor = min(1.0, spec.size / max(width, height))
    return Geometry(
        crop, max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    )


def _pixels(low: float, high: float, length: int) -> tuple[int, int]:
    first = min(round(max(low, 0)), length - 1)
    return first, max(first + 1, round(min(high, length)))


class Images(NamedTuple):
    """The images in some folders, each once, in natural order; and what is not among them."""

    files: list[Path]
    left_out: list[str]  # how many, and why
    unread: list[str]  # a line on each file or folder that cannot be read

    def lines(self, damaged: Collection[str] = ()) -> list[str]:
        """Return a line on each that cannot be read, and on what is left out if anything is."""
        unread = [*self.unread, *damaged]
        left = [*self.left_out, *[f"{len(unread)} that cannot be read"] * bool(unread)]
        last = f"{len(self.files) - len(damaged)} images; left out: {', '.join(left)}"
        return [*unread, *[last] * bool(left)]


def find_images(places: Sequence[Path]) -> Images:
    """Return the images among files, and in folders (`dagf.files.walk`) by their endings.

    What is left out counts once, too, however many places lead to it. Raise `UserError` for a
    place without any.
    """
    files, others, unread = dict[str, Path](), dict[Path, str](), dict[Path, str]()
    hidden, links, twice = set[Path](), set[Path](), 0
    for place in places:
        found = Walk([place]) if place.is_file() else walk(place)
        kept = [one for one in found.files if one == place or one.suffix.lower() in ENDINGS]
        images = sorted(kept, key=natural)
        dead = [one for one in found.links if not one.exists()]
        why = dict.fromkeys(dead, "it leads nowhere") | found.unread
        lines = {_entry(path): f"cannot read {path} ({word})" for path, word in why.items()}
        if not images:
            left = [f"{len(found.hidden)} are hidden"] * bool(found.hidden)
            reason = "; ".join([f"of {len(found.files)} files none", *left, *[*lines.values()][:1]])
            raise UserError(f"there is no image in {place} ({found.unread.get(place, reason)})")
        unread = lines | unread
        others |= {_entry(one): one.suffix.lower() for one in {*found.files}.difference(images)}
        hidden.update(map(_entry, found.hidden))
        links.update(_entry(one) for one in found.links if one.is_dir())
        before = len(files)
        for file in images:
            files.setdefault(os.path.realpath(file), file)
        twice += len(images) - (len(files) - before)
    twice += len(links)
    kinds = ", ".join(sorted(ending or "no ending" for ending in {*others.values()}))
    counts = {
        f"{len(hidden)} hidden": len(hidden),
        f"{len(others)} of other kinds ({kinds})": len(others),
        f"{twice} there twice": twice,
    }
    left_out = [text for text, count in counts.items() if count]
    return Images([*files.values()], left_out, [*unread.values()])


def _entry(path: Path) -> Path:
    """Return what an entry of a folder is known by, whatever links lead to the folder."""
    return Path(os.path.realpath(path.parent), path.name)


def decode(path: Path, spec: ImageSpec | None = None, box: Box | None = None) -> Pixels:
    """Return an upright RGB image, uint8 (H, W, 3); in its original size without a `spec`.

    EXIF rotation is applied (`box` is in upright pixels); HEIC and AVIF are turned as their own
    boxes say and not by EXIF, which is for information there (ISO/IEC 23008-12). Transparency is
    laid on white, and an animation gives its first frame. Greyscale of 16 or 32 bits is scaled to
    8, from the fewest of 10, 12, 14 and 16 that hold its brightest pixel (in floating point also
    from shares, 0..1, and from 8), else from that pixel. Large JPEGs are decoded at a reduced size.
    Resizing is Lanczos with antialiasing. Threads may decode side by side.

    Raise `UserError` for a file that is missing, broken, no image or larger than `MAX_PIXELS`, and
    for a box outside the image.
    """
    with _opened(path) as image:
        size = _upright(image)
        return _render(image, size, geometry(*size, spec, box))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever is wrong with the file, or with what is asked of it, is one line."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            yield image
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the image list and the folder") from None
    except Exception as error:  # a broken file makes PIL's decoders raise nearly anything
        if isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error).replace(str(path), "it").split()) or type(error).__name__
        raise UserError(
            f"cannot decode {path} ({reason[:200]}): it is damaged or no image; get it again, "
            "convert it to JPEG or PNG, or leave it out"
        ) from None


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height of an upright image; raise `UserError` as `load_image`."""
    with _opened(path) as image:
        return _upright(image)


def _upright(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _quarter_turned(image) else image.size


def _quarter_turned(image: Image.Image) -> bool:
    """Whether the upright image has its sides exchanged; PIL gives a TIFF's as they will be."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return image.format != "TIFF" and orientation in (5, 6, 7, 8)
    except OSError:
        raise  # a PNG is decoded for its EXIF, so this may be a truncated file
    except Exception:
        return False  # broken EXIF does not make the photograph unusable


def _render(image: Image.Image, size: tuple[int, int], plan: Geometry) -> Pixels:
    """Decode, turn, crop and resize to (H, W, 3), in an order that keeps memory low.

    size: width and height of the upright image that `plan` speaks of.
    """
    x1, y1, x2, y2 = plan.crop
    wanted = _DRAFT_MARGIN * max(plan.width / (x2 - x1), plan.height / (y2 - y1))
    if wanted < 1:  # one factor for both sides, so it does not matter that the turn comes later
        image.draft(None, (math.ceil(image.width * wanted), math.ceil(image.height * wanted)))
    ImageOps.exif_transpose(image, in_place=True)
    upright = _to_rgb(image)
    # After a reduced decode the crop's edges fall between pixels: take whole pixels around it, then
    # resize from fractions of them.
    left, right = (x * upright.width / size[0] for x in (x1, x2))
    top, bottom = (y * upright.height / size[1] for y in (y1, y2))
    first_x, first_y = int(left), int(top)
    around = upright.crop((first_x, first_y, math.ceil(right), math.ceil(bottom)))
    inner = (left - first_x, top - first_y, right - first_x, bottom - first_y)
    resized = around.resize((plan.width, plan.height), Image.Resampling.LANCZOS, box=inner)
    return np.array(resized, np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # greyscale of 16 or 32 bits, which PIL's convert would clip
        greys = np.nan_to_num(np.array(image, np.float32))
        possible, most = WHITE if image.mode == "F" else WHITE[2:], float(greys.max())
        full = next((one for one in possible if most <= one), most)
        scaled = greys / (full / 255) + 0.5
        image = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")
