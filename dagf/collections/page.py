"""What a search found, and why: as a page of its own, and as a part of a notebook. No script, nothing from outside.

For each result four pictures: the result itself, where the network looks in it, and what of it and of the query makes
the two alike (`dagf.analysis.cam.contributions`).
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from numpy.typing import NDArray
from PIL import Image

import dagf
from dagf.analysis.cam import Plane, contributions, enlarge, look
from dagf.collections.index import Collection
from dagf.console import progress
from dagf.datasets.benchmark import Box
from dagf.datasets.images import ImageSpec, load_image
from dagf.errors import UserError
from dagf.files import write_text
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import Descriptors
from dagf.retrieval.whitening import Whitening
from dagf.show.html import style, templates

SIDE = 320  # pixels of the longest side of a picture that is shown: sharp at phone width
DARK = 0.12  # of a picture's light where it adds nothing to a match

Pixels = NDArray[np.uint8]
Found = Sequence[tuple[str, float]]  # files with their cosines, best first


@dataclass(frozen=True)
class Match:
    """A result as it is shown: its rank from 1, and its pictures as addresses of themselves.

    looked: where the network looks. here, there: what matches in the result and in the query, '' where the pooling
    does not tell. All three are '' where nobody asked why.
    """

    rank: int
    score: float
    file: str
    picture: str
    looked: str = ""
    here: str = ""
    there: str = ""

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.file).name


def ranked(found: Found) -> pd.DataFrame:
    """Results as a table: rank, cosine, file."""
    rows = [(rank, score, file) for rank, (file, score) in enumerate(found, 1)]
    return pd.DataFrame(rows, columns=["rank", "cosine", "file"])


def show(collection: Collection, photo: Path, found: Found, box: Box | None = None) -> HTML:
    """Results with their reasons, for a notebook."""
    return HTML(
        _rendered(
            "found.html.j2", _shown(collection, photo, found, box, address(thumbnail(photo, box)))
        )
    )


def beside(
    collection: Collection,
    photo: Path,
    found: Found,
    box: Box | None,
    picture: Pixels,
    why: bool = False,
) -> str:
    """Results as HTML beside a picture of the query in which its part is lit; with their reasons, or at once."""
    return _rendered(
        "found.html.j2",
        _shown(collection, photo, found, box, address(picture), why) | {"beside": True},
    )


def write_page(
    page: Path, collection: Collection, photo: Path, found: Found, box: Box | None = None
) -> None:
    """Write results with their reasons as one file that needs nothing beside it.

    Raises `UserError` where it cannot be written, and for a photograph that is gone since it was described.
    """
    words = {"style": style(), "version": dagf.__version__, "images": len(collection.files)}
    words |= _shown(collection, photo, found, box, address(thumbnail(photo, box)))
    try:
        write_text(page, _rendered("search.html.j2", words))
    except OSError as error:
        raise UserError(
            f"cannot write {page}: {error.strerror}; name another file with --html"
        ) from error


def _rendered(template: str, words: dict[str, Any]) -> str:
    html: str = templates().get_template(template).render(words)
    return html.encode("utf-8", "replace").decode()  # a file's name may be no text at all


def _shown(
    collection: Collection,
    photo: Path,
    found: Found,
    box: Box | None,
    picture: str,
    why: bool = True,
) -> dict[str, Any]:
    net = collection.network
    matches = _matches(net, collection, photo, found, box) if why else _pictured(found)
    return {
        "query": {"file": str(photo), "name": photo.name, "picture": picture, "cropped": box},
        "beside": False,
        "matches": list(matches),
        "why": why,
        "encoder": collection.encoder.words,
        "whitened": collection.whitening is not None,
        "attention": net.head.spatial is not None,
    }


def _pictured(found: Found) -> Iterator[Match]:
    for rank, (file, score) in enumerate(found, 1):
        yield Match(rank, score, file, address(kept_thumbnail(Path(file))))


def _matches(
    net: RetrievalNet, collection: Collection, photo: Path, found: Found, box: Box | None
) -> Iterator[Match]:
    spec, whitening = collection.encoder.image, collection.whitening
    asked, asked_pixels = look(net, photo, spec, box), thumbnail(photo, box)
    for rank, (file, score) in enumerate(progress(found, "explaining", len(found)), 1):
        seen, pixels = look(net, Path(file), spec), thumbnail(Path(file))
        looked = heated(pixels, seen.effective if seen.attention is None else seen.attention)
        here, there = (
            contributions(net, one, _toward(whitening, one.descriptor, other.descriptor))
            for one, other in ((seen, asked), (asked, seen))
        )
        pictures = [pixels, looked, lit(pixels, here), lit(asked_pixels, there)]
        yield Match(rank, score, file, *("" if one is None else address(one) for one in pictures))


def _toward(
    whitening: Whitening | None, descriptor: Descriptors, other: Descriptors
) -> Descriptors:
    return other if whitening is None else whitening.toward(descriptor, other)


def thumbnail(file: Path, box: Box | None = None) -> Pixels:
    """A picture or a crop of it, (H, W, 3), its longest side `SIDE` pixels at most."""
    pixels = load_image(file, ImageSpec(SIDE, resize_crop=False), box).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


kept_thumbnail = lru_cache(maxsize=256)(
    thumbnail
)  # 75 MB: a photograph takes longer to read than to search


def address(pixels: Pixels) -> str:
    """A picture (H, W, 3) as a JPEG that is its own address."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def heated(pixels: Pixels, plane: Plane) -> Pixels:
    """A picture under a heat map (h, w) that is scaled to this picture's own range, as `figures.overlay` has it."""
    low, high = float(plane.min()), float(plane.max())
    share = (_over(pixels, plane) - low) / (high - low or 1.0)
    heat = matplotlib.colormaps["magma"](share)[..., :3]
    return (0.4 * pixels + 0.6 * 255 * heat).round().astype(np.uint8)


def lit(pixels: Pixels, cells: Plane | None) -> Pixels | None:
    """A picture with its light left where the cells (h, w) add most to a match; None for None.

    The light goes with the root of a cell's share: under maxima few cells have nearly all of it.
    """
    if cells is None:
        return None
    share = _over(pixels, cells.clip(0))
    light = np.sqrt(share / (float(share.max()) or 1.0))[..., None]
    return (pixels * (DARK + (1 - DARK) * light)).round().astype(np.uint8)


def _over(pixels: Pixels, plane: Plane) -> Plane:
    return enlarge(torch.from_numpy(plane)[None, None], (pixels.shape[0], pixels.shape[1]))
