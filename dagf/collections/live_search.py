"""A live search of a collection in JupyterLab: pick a photograph, cut a part out of it, see what is
found, and why.

    from dagf.collections import live_search
    live_search.start(collection)
    live_search.start(collection, Path("castle.jpg"), (300, 200, 900, 1100))

In a report, without a kernel, only the page is shown with which the search would begin.
"""

from functools import lru_cache, partial
from os.path import commonpath, relpath
from pathlib import Path

import ipywidgets as widgets
from IPython.display import HTML

from dagf.collections.index import Collection
from dagf.collections.page import render
from dagf.console import headless
from dagf.datasets.benchmark import Box
from dagf.show.controls import follow
from dagf.show.pictures import upright_size

Span = tuple[int, int]  # from and to, in per cent of a side

WHOLE = (0, 100)
LISTED = 1000  # names that are offered: a browser is slow with more; any other can be typed
TOP, MOST = 6, 24  # results


def middle(photo: Path) -> Box:
    """Return the middle half of a photograph's width and height, in its pixels."""
    return in_pixels(photo, (25, 75), (25, 75))


def in_pixels(photo: Path, across: Span, down: Span) -> Box:
    """Return a part of a photograph, in per cent of its width and height, as a box in pixels."""
    width, height = upright_size(photo)
    (left, right), (top, bottom) = across, down
    return (width * left / 100, height * top / 100, width * right / 100, height * bottom / 100)


def in_per_cent(photo: Path, box: Box) -> tuple[Span, Span]:
    """Return a box in pixels as the nearest per cent of a photograph's width and height."""
    edges = zip(box, upright_size(photo) * 2, strict=True)
    left, top, right, bottom = (round(min(max(100 * edge / side, 0), 100)) for edge, side in edges)
    return (left, right), (top, bottom)


def start(
    collection: Collection, photo: Path | None = None, box: Box | None = None
) -> HTML | widgets.Widget:
    """Return the live search of a collection: with controls, or as a static page where headless.

    It begins with a photograph (None: the collection's first), or with a box of it in its pixels.
    """
    photo = photo or Path(collection.files[0])
    across, down = in_per_cent(photo, box) if box else (WHOLE, WHOLE)
    files = list(dict.fromkeys([str(photo), *collection.files]))
    folder = commonpath([Path(file).absolute().parent for file in files])
    names = {relpath(file, folder): Path(file) for file in files}
    compared = lru_cache(collection.whitened)  # a whitening is learned, and a network loaded, once

    def page(query: str, across: Span, down: Span, top: int, whiten: bool, why: bool) -> str:
        file, searched = names.get(query, Path(query).expanduser()), compared(whiten)
        part = None if (across, down) == (WHOLE, WHOLE) else in_pixels(file, across, down)
        return render(searched, file, searched.search(file, top, part), part, why)

    first, whiten = next(iter(names)), collection.whitening is not None
    if headless():
        return HTML(page(first, across, down, TOP, whiten, why=False))
    span = partial(widgets.IntRangeSlider, min=0, max=100, continuous_update=False)
    controls = {
        "query": widgets.Combobox(
            value=first,
            options=list(names)[:LISTED],
            placeholder="a part of a name, or a file",
            description="query",
            continuous_update=False,
        ),
        "across": span(value=across, description="across, %"),
        "down": span(value=down, description="down, %"),
        "top": widgets.IntSlider(TOP, 1, MOST, description="results", continuous_update=False),
        "whiten": widgets.Checkbox(whiten, description="whiten"),
        "why": widgets.Checkbox(description="why"),
    }

    def whole(change: object) -> None:
        """Search for the whole of another photograph: both sliders change before it is searched."""
        sides = controls["across"], controls["down"]
        with sides[0].hold_trait_notifications(), sides[1].hold_trait_notifications():
            sides[0].value = sides[1].value = WHOLE

    controls["query"].observe(whole, "value")
    return follow(controls, page, shown=list(controls))
