"""A live search of a collection in JupyterLab: pick a picture, cut a part out of it, see what is found, and why.

    from dagf.collections import live_search
    live_search.ask(collection)
    live_search.ask(collection, Path("castle.jpg"), (300, 200, 900, 1100), top=12)

In a report there is no kernel behind a control, so that only the page is shown with which the search would begin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML
from PIL import Image, ImageDraw

from dagf.collections.index import Collection
from dagf.collections.page import Found, Pixels, beside, kept_thumbnail
from dagf.collections.your_photos import size
from dagf.console import headless
from dagf.datasets.benchmark import Box
from dagf.errors import UserError, printable
from dagf.show.controls import ROW, mistake, values

Span = tuple[int, int]  # from and to, in per cent of a side
Names = list[tuple[str, Path]]  # what a list shows, and what is meant

WHOLE = (0, 100)
MOST = 24  # results: more are not looked at
LISTED = 1000  # names in the list: a browser is slow with more, and who has more types a part of the name
OUTSIDE = 0.35  # of its light is left to a picture outside the part that is asked with


@dataclass(frozen=True)
class Asked:
    """A search: with a photograph or a part of it, for how many results, how they are compared, and whether explained.

    across, down: the part, in per cent of the photograph's width and height.
    """

    photo: Path
    across: Span = WHOLE
    down: Span = WHOLE
    top: int = 6
    whiten: bool = False
    why: bool = False

    @property
    def box(self) -> Box | None:
        """The part in pixels, None for the whole; a `UserError` for a photograph that cannot be read."""
        if (self.across, self.down) == (WHOLE, WHOLE):
            return None
        height, width = size(self.photo)
        (left, right), (top, bottom) = _open(self.across), _open(self.down)
        return (width * left / 100, height * top / 100, width * right / 100, height * bottom / 100)


def _open(span: Span) -> Span:
    """The span, one per cent at least: two ends of a slider may meet."""
    low = min(span[0], 99)
    return low, max(span[1], low + 1)


def spans(photo: Path, box: Box | None) -> tuple[Span, Span]:
    """A box in pixels as the nearest per cent of a photograph's width and height; the whole for None."""
    if box is None:
        return WHOLE, WHOLE
    height, width = size(photo)
    left, right, top, bottom = (
        round(min(max(100 * edge / side, 0), 100))
        for edge, side in ((box[0], width), (box[2], width), (box[1], height), (box[3], height))
    )
    return (left, right), (top, bottom)


def compared(collection: Collection, whiten: bool) -> Collection:
    """The collection, under a whitening of its own or as it is."""
    if whiten == (collection.whitening is not None):
        return collection
    return collection.whitened(True) if whiten else replace(collection, whitening=None)


def outlined(pixels: Pixels, across: Span, down: Span) -> Pixels:
    """A picture (H, W, 3) with its part lit and framed; as it is for the whole."""
    if (across, down) == (WHOLE, WHOLE):
        return pixels
    height, width = pixels.shape[:2]
    left, right = (round(width * edge / 100) for edge in _open(across))
    top, bottom = (round(height * edge / 100) for edge in _open(down))
    shown = (pixels * OUTSIDE).round().astype(np.uint8)
    shown[top:bottom, left:right] = pixels[top:bottom, left:right]
    picture = Image.fromarray(shown)
    ImageDraw.Draw(picture).rectangle(
        (left, top, max(right - 1, left), max(bottom - 1, top)), outline="white", width=2
    )
    return np.asarray(picture)


def named(files: Sequence[str]) -> Names:
    """Files by their paths below the folder that all of them lie in."""
    parts = [Path(file).absolute().parts for file in files]
    folders = sorted(one[:-1] for one in parts)  # what the first and the last share, all share
    shared = sum(
        1
        for _ in takewhile(
            lambda pair: pair[0] == pair[1], zip(folders[0], folders[-1], strict=False)
        )
    )
    return [
        (printable("/".join(one[shared:])), Path(file))
        for one, file in zip(parts, files, strict=True)
    ]


def listed(names: Names, part: str = "") -> Names:
    """The names with `part` in them, in small or capital letters, `LISTED` at most."""
    return list(islice((one for one in names if part.lower() in one[0].lower()), LISTED))


def page(collection: Collection, asked: Asked, found: Found, why: bool = False) -> str:
    """What was found as HTML beside the query, in which its part is lit."""
    picture = outlined(kept_thumbnail(asked.photo), asked.across, asked.down)
    return beside(collection, asked.photo, found, asked.box, picture, why)


def ask(
    collection: Collection, photo: Path | None = None, box: Box | None = None, top: int = 6
) -> HTML | widgets.Widget:
    """The live search of a collection: with controls in JupyterLab, as a static page where it is headless.

    It begins with a photograph (None: the collection's first), or with a box of it in its pixels. Raises `UserError`
    for a photograph that cannot be read, or that the collection's network knows nothing of.
    """
    photo = photo or Path(collection.files[0])
    across, down = spans(photo, box)
    asked = Asked(photo, across, down, top, collection.whitening is not None)
    first = collection.search(
        photo, top, asked.box
    )  # said now, in one line, rather than beside the controls
    return HTML(page(collection, asked, first)) if headless() else Asking(collection, asked).box


class Asking:
    """The controls and what they show: `box` is to be displayed.

    `controls` are those of `Asked`, by the names of its fields. `part` narrows the list to pick a photograph from.
    """

    def __init__(self, collection: Collection, asked: Asked) -> None:
        first = str(asked.photo)
        self.names = named([first, *(file for file in collection.files if file != first)])
        self.compared = lru_cache(
            partial(compared, collection)
        )  # a whitening is learned once, a network loaded once
        self.part = widgets.Text(
            placeholder="a part of a name, then Enter", description="find", continuous_update=False
        )
        self.controls = _controls(self.names, asked)
        self.status, self.log, self.answer = widgets.Label(""), widgets.Output(), widgets.HTML()
        self.settling = False  # while controls change each other
        self.part.observe(self._narrowed, "value")
        for control in self.controls.values():
            control.observe(self._changed, "value")
        which, across, down, top, *switches = self.controls.values()
        pairs = ([self.part, which], [across, down], [top, widgets.HBox([*switches, self.status])])
        self.box = widgets.VBox(
            [widgets.Box([widgets.VBox(pair) for pair in pairs], layout=ROW), self.log, self.answer]
        )
        self._changed()

    def _narrowed(self, change: Any) -> None:
        photo = self.controls["photo"]
        photo.options = listed(self.names, self.part.value)  # it picks the first of them
        if photo.index is None and photo.options:  # but for a list that was empty
            photo.index = 0

    def _changed(self, change: Any = None) -> None:
        if self.settling:
            return
        if (
            change and change.owner is self.controls["photo"]
        ):  # another one is asked with as a whole
            self.settling = True
            self.controls["across"].value = self.controls["down"].value = WHOLE
            self.settling = False
        asked = Asked(**values(self.controls))
        self.log.outputs = ()
        self.status.value = "searching …"
        with self.log:
            try:
                if asked.photo is None:
                    raise UserError(f"no name has '{self.part.value}' in it")
                collection = self.compared(asked.whiten)
                found = collection.search(asked.photo, asked.top, asked.box)
                self.answer.value = page(collection, asked, found)
                if asked.why:  # reasons take longer than results
                    self.status.value = "explaining …"
                    self.answer.value = page(collection, asked, found, why=True)
            except UserError as error:
                self.answer.value = mistake(error)
        self.status.value = ""


def _controls(names: Names, asked: Asked) -> dict[str, widgets.Widget]:
    span = partial(widgets.IntRangeSlider, min=WHOLE[0], max=WHOLE[1], continuous_update=False)
    short = {"width": "6rem", "margin": "0 0 0 1.5rem"}
    return {
        "photo": widgets.Dropdown(options=listed(names), value=asked.photo, description="query"),
        "across": span(value=asked.across, description="across, %"),
        "down": span(value=asked.down, description="down, %"),
        "top": widgets.IntSlider(
            asked.top, 1, max(MOST, asked.top), description="results", continuous_update=False
        ),
        "whiten": widgets.Checkbox(
            value=asked.whiten, description="whiten", indent=False, layout=short
        ),
        "why": widgets.Checkbox(value=asked.why, description="why", indent=False, layout=short),
    }
