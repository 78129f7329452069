"""A live search of a collection in JupyterLab: pick a photograph, cut a part out of it, see what is
found, and why.

    from dagf.collections import live_search
    live_search.start(collection)
    live_search.start(collection, Path("castle.jpg"), (300, 200, 900, 1100), top=12)

In a report, without a kernel, only the page is shown with which the search would begin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from os.path import commonpath, relpath
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML
from PIL import Image, ImageDraw

from dagf.collections.index import Collection, Ranking
from dagf.collections.page import beside
from dagf.console import headless
from dagf.datasets.benchmark import Box
from dagf.datasets.images import load_image
from dagf.errors import UserError
from dagf.show.html import or_mistake
from dagf.show.pictures import Pixels, thumbnail
from dagf.show.query_browser import ROW, values

Span = tuple[int, int]  # from and to, in per cent of a side
Names = list[tuple[str, Path]]  # what a list shows, and the file that is meant

WHOLE = (0, 100)
MOST = 24  # results: more are not looked at
LISTED = 1000  # names in the list: a browser is slow with more; a part of the name narrows it
OUTSIDE = 0.35  # of its light is left to a picture outside the part that is searched for


@dataclass(frozen=True)
class Choices:
    """A search: for a photograph or a part of it, and how results are compared and shown.

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
        """The part in pixels, None for the whole."""
        if (self.across, self.down) == (WHOLE, WHOLE):
            return None
        height, width = size(self.photo)
        (left, right), (top, bottom) = _open(self.across), _open(self.down)
        return (width * left / 100, height * top / 100, width * right / 100, height * bottom / 100)


@lru_cache(maxsize=256)
def size(photo: Path) -> tuple[int, int]:
    """Return the height and width of an upright photograph in pixels."""
    height, width = load_image(photo).shape[1:]
    return height, width


def middle(photo: Path) -> Box:
    """Return the middle half of a photograph's width and height, in its pixels."""
    height, width = size(photo)
    return (width / 4, height / 4, width * 3 / 4, height * 3 / 4)


def _open(span: Span) -> Span:
    """Return the span, one per cent at least: two ends of a slider may meet."""
    low = min(span[0], 99)
    return low, max(span[1], low + 1)


def spans(photo: Path, box: Box | None) -> tuple[Span, Span]:
    """Return a box in pixels as the nearest per cent of a photograph's width and height."""
    if box is None:
        return WHOLE, WHOLE
    height, width = size(photo)
    left, top, right, bottom = (
        round(min(max(100 * edge / side, 0), 100))
        for edge, side in zip(box, (width, height, width, height), strict=True)
    )
    return (left, right), (top, bottom)


def outlined(pixels: Pixels, across: Span, down: Span) -> Pixels:
    """Return a picture (H, W, 3) with its part lit and framed; as it is for the whole."""
    if (across, down) == (WHOLE, WHOLE):
        return pixels
    height, width = pixels.shape[:2]
    left, right = (round(width * edge / 100) for edge in _open(across))
    top, bottom = (round(height * edge / 100) for edge in _open(down))
    shown = (pixels * OUTSIDE).round().astype(np.uint8)
    shown[top:bottom, left:right] = pixels[top:bottom, left:right]
    picture = Image.fromarray(shown)
    corners = (left, top, max(right - 1, left), max(bottom - 1, top))
    ImageDraw.Draw(picture).rectangle(corners, outline="white", width=2)
    return np.asarray(picture)


def named(files: Sequence[str]) -> Names:
    """Return files with their paths below the folder that all of them lie in."""
    folder = commonpath([Path(file).absolute().parent for file in files])
    return [(relpath(file, folder), Path(file)) for file in files]


def listed(names: Names, part: str = "") -> Names:
    """Return the names with `part` in them, in small or capital letters, `LISTED` at most."""
    return list(islice((one for one in names if part.lower() in one[0].lower()), LISTED))


def page(collection: Collection, choices: Choices, ranking: Ranking, why: bool = False) -> str:
    """Return results as HTML beside the query, in which its part is lit."""
    picture = outlined(thumbnail(choices.photo), choices.across, choices.down)
    return beside(collection, choices.photo, ranking, choices.box, picture, why)


def start(
    collection: Collection, photo: Path | None = None, box: Box | None = None, top: int = 6
) -> HTML | widgets.Widget:
    """Return the live search of a collection: with controls, or as a static page where headless.

    It begins with a photograph (None: the collection's first), or with a box of it in its pixels.
    Raises `UserError` for a photograph that cannot be read.
    """
    photo = photo or Path(collection.files[0])
    choices = Choices(photo, *spans(photo, box), top, collection.whitening is not None)
    ranking = collection.search(photo, top, choices.box)  # a mistake is said here
    if headless():
        return HTML(page(collection, choices, ranking))
    return LiveSearch(collection, choices).box


class LiveSearch:
    """The controls and what they show: `box` is to be displayed.

    `controls` are those of `Choices`, by the names of its fields. `part` narrows the list of names.
    """

    def __init__(self, collection: Collection, choices: Choices) -> None:
        first = str(choices.photo)
        self.names = named([first, *(file for file in collection.files if file != first)])
        # A whitening is learned once, and a network loaded once.
        self.compared = lru_cache(collection.whitened)
        self.part = widgets.Text(
            placeholder="a part of a name, then Enter", description="find", continuous_update=False
        )
        self.controls = _controls(self.names, choices)
        self.status, self.log, self.results = widgets.Label(""), widgets.Output(), widgets.HTML()
        self.settling = False  # while controls change each other
        self.part.observe(self._narrowed, "value")
        for control in self.controls.values():
            control.observe(self._changed, "value")
        photo, across, down, top, *switches = self.controls.values()
        pairs = ([self.part, photo], [across, down], [top, widgets.HBox([*switches, self.status])])
        controls = widgets.Box([widgets.VBox(pair) for pair in pairs], layout=ROW)
        self.box = widgets.VBox([controls, self.log, self.results])
        self._changed()

    def _narrowed(self, change: Any) -> None:
        photo = self.controls["photo"]
        photo.options = listed(self.names, self.part.value)  # it picks the first of them
        if photo.index is None and photo.options:  # but for a list that was empty
            photo.index = 0

    def _changed(self, change: Any = None) -> None:
        if self.settling:
            return
        if change and change.owner is self.controls["photo"]:  # another one is searched as a whole
            self.settling = True
            self.controls["across"].value = self.controls["down"].value = WHOLE
            self.settling = False
        self.log.outputs = ()
        self.status.value = "searching …"
        with self.log:
            self.results.value = or_mistake(self._found)
        self.status.value = ""

    def _found(self) -> str:
        choices = Choices(**values(self.controls))
        if choices.photo is None:
            raise UserError(f"no name has '{self.part.value}' in it")
        collection = self.compared(choices.whiten)
        ranking = collection.search(choices.photo, choices.top, choices.box)
        html = page(collection, choices, ranking)
        if not choices.why:
            return html
        self.results.value, self.status.value = html, "explaining …"  # which takes longer
        return page(collection, choices, ranking, why=True)


def _controls(names: Names, choices: Choices) -> dict[str, widgets.Widget]:
    span = partial(widgets.IntRangeSlider, min=0, max=100, continuous_update=False)
    switch = partial(
        widgets.Checkbox, indent=False, layout={"width": "6rem", "margin": "0 0 0 1.5rem"}
    )
    most = max(MOST, choices.top)
    return {
        "photo": widgets.Dropdown(options=listed(names), value=choices.photo, description="query"),
        "across": span(value=choices.across, description="across, %"),
        "down": span(value=choices.down, description="down, %"),
        "top": widgets.IntSlider(
            choices.top, 1, most, description="results", continuous_update=False
        ),
        "whiten": switch(value=choices.whiten, description="whiten"),
        "why": switch(value=choices.why, description="why"),
    }
