"""The live search: its parts by hand, its page against the search itself, its controls."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bs4
import ipywidgets as widgets
import numpy as np
import pytest
from IPython.display import HTML
from PIL import Image

from dagf.collections import live_search
from dagf.collections.encoders import off_the_shelf
from dagf.collections.index import Collection, build, find_images
from dagf.collections.live_search import (
    OUTSIDE,
    WHOLE,
    Choices,
    LiveSearch,
    listed,
    middle,
    named,
    outlined,
    page,
    spans,
    start,
)
from dagf.collections.page import show
from dagf.console import HEADLESS
from dagf.errors import UserError
from dagf.show.pictures import address, thumbnail
from tests.fixtures import mobilenet, photograph

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Eight photographs in two folders; no test changes them."""
    root = tmp_path_factory.mktemp("live")
    for number in range(8):
        file = root / "photos" / ("sea" if number < 3 else "town") / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(number // 2, number % 2, 200).resize((200, 100)).save(file)
    encoder = off_the_shelf(str(mobilenet(root / "mobilenet.pth", 5)))
    build(find_images([root / "photos"]), encoder, root / "index")
    return Collection.load(root / "index")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)


@pytest.fixture
def shown(collection: Collection, live: None) -> LiveSearch:
    return LiveSearch(collection, Choices(Path(collection.files[1]), top=3))


def expected(collection: Collection, choices: Choices) -> str:
    """The page of a search that is made anew."""
    return page(
        collection, choices, collection.search(choices.photo, choices.top, choices.box), choices.why
    )


# --- parts ---


def test_a_part_in_per_cent_is_a_box_in_pixels(collection: Collection) -> None:
    photo = Path(collection.files[0])  # 200 x 100
    assert Choices(photo).box is None
    assert Choices(photo, (25, 75), (10, 90)).box == (50, 10, 150, 90)
    assert Choices(photo, (0, 100), (0, 50)).box == (0, 0, 200, 50)
    assert Choices(photo, (40, 40), (100, 100)).box == (80, 99, 82, 100)  # never empty
    assert spans(photo, None) == (WHOLE, WHOLE)
    assert middle(photo) == (50, 25, 150, 75)
    assert spans(photo, (50, 10, 150, 90)) == ((25, 75), (10, 90))
    assert spans(photo, (-9, 33.4, 999, 66.6)) == ((0, 100), (33, 67))


def test_the_part_is_lit_and_framed() -> None:
    pixels = np.full((20, 40, 3), 100, np.uint8)
    assert outlined(pixels, WHOLE, WHOLE) is pixels
    shown = outlined(pixels, (25, 75), (10, 90))[..., 0]
    wanted = np.full((20, 40), round(100 * OUTSIDE))
    wanted[2:18, 10:30] = 255  # the frame, two pixels wide
    wanted[4:16, 12:28] = 100
    assert np.array_equal(shown, wanted)
    assert (
        outlined(pixels, (50, 50), (100, 100)) == 255
    ).any()  # a part of one per cent can be seen


def test_files_are_listed_by_what_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["/photos/sea/Boat.jpg", "/photos/town/Boat.jpg", "/photos/town/bank.jpg"]
    names = named(files)
    assert names == listed(names) == [(file.removeprefix("/photos/"), Path(file)) for file in files]
    assert [name for name, _ in listed(names, "BOAT")] == ["sea/Boat.jpg", "town/Boat.jpg"]
    assert [name for name, _ in listed(names, "n/b")] == ["town/Boat.jpg", "town/bank.jpg"]
    assert listed(names, "castle") == []
    assert named(["/photos/a.jpg"]) == [("a.jpg", Path("/photos/a.jpg"))]
    assert [name for name, _ in named(["/p/ab/1.jpg", "/p/ab/2.jpg", "/p/abc.jpg"])] == [
        "ab/1.jpg",
        "ab/2.jpg",
        "abc.jpg",
    ]
    monkeypatch.setattr(live_search, "LISTED", 2)
    assert len(listed(names)) == 2 and len(listed(names, "bank")) == 1


# --- what is shown ---


def test_the_page_is_the_search_beside_its_query(collection: Collection) -> None:
    choices = Choices(Path(collection.files[4]), (0, 50), (20, 100), top=4)
    found = collection.search(choices.photo, 4, (0, 20, 100, 100))
    soup = bs4.BeautifulSoup(page(collection, choices, found), "html.parser")
    query, *pictures = soup.select("img")
    assert query["src"] == address(outlined(thumbnail(choices.photo), (0, 50), (20, 100)))
    assert soup.select_one(".query figcaption").get_text() == "The query (the lit part): 4.jpg"
    captions = [one.get_text() for one in soup.select(".matches figcaption")]
    names = [(Path(file).name, f"{score:.3f}") for file, score in found]
    assert captions == [
        f"{rank} · cosine {score} · {name}" for rank, (name, score) in enumerate(names, 1)
    ]
    assert [one["src"] for one in pictures] == [address(thumbnail(Path(file))) for file, _ in found]
    assert [one["title"] for one in pictures] == [file for file, _ in found]


def test_reasons_are_those_of_the_page_of_a_search(collection: Collection) -> None:
    choices = Choices(Path(collection.files[2]), top=3)
    found = collection.search(choices.photo, 3)
    with_reasons, whole = (
        bs4.BeautifulSoup(html, "html.parser").select(".matches img")
        for html in (
            page(collection, choices, found, why=True),
            show(collection, choices.photo, found).data,
        )
    )
    assert [one["src"] for one in with_reasons] == [one["src"] for one in whole]
    assert len(whole) == 3 * 4


def test_headless_it_is_a_still_page(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HEADLESS, "1")
    monkeypatch.setattr(live_search, "widgets", None)  # whatever asks for one fails
    shown = start(collection, Path(collection.files[3]), (50, 10, 150, 90), top=5)
    assert isinstance(shown, HTML)
    assert shown.data == expected(
        collection, Choices(Path(collection.files[3]), (25, 75), (10, 90), 5)
    )
    assert shown.data.count("<img") == 1 + 5
    assert start(collection).data == expected(collection, Choices(Path(collection.files[0])))


def test_a_query_that_does_not_exist_is_refused_in_one_line(
    collection: Collection, live: None
) -> None:
    for box in (None, (0, 0, 9, 9)):
        with pytest.raises(UserError, match=r"nowhere\.jpg does not exist"):
            start(collection, Path("nowhere.jpg"), box)


# --- controls ---


def test_results_follow_the_controls(shown: LiveSearch, collection: Collection) -> None:
    choices = Choices(Path(collection.files[1]), top=3)
    assert shown.results.value == expected(collection, choices)
    shown.controls["across"].value = (20, 60)
    shown.controls["down"].value = (0, 50)
    part = replace(choices, across=(20, 60), down=(0, 50))
    assert shown.results.value == expected(collection, part)
    shown.controls["top"].value = 5
    shown.controls["whiten"].value = True
    part = replace(part, top=5, whiten=True)
    assert shown.results.value == expected(collection.whitened(True), part)
    shown.controls["why"].value = True
    assert shown.results.value == expected(collection.whitened(True), replace(part, why=True))
    shown.controls["why"].value = shown.controls["whiten"].value = False
    shown.controls["photo"].value = Path(collection.files[6])
    assert (shown.controls["across"].value, shown.controls["down"].value) == (WHOLE, WHOLE)
    assert shown.results.value == expected(collection, Choices(Path(collection.files[6]), top=5))
    assert shown.status.value == ""


def test_each_change_is_one_search(
    shown: LiveSearch, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices, whole = [], Collection.search
    monkeypatch.setattr(
        Collection, "search", lambda *all_: choices.append(all_[1:]) or whole(*all_)
    )
    shown.controls["across"].value = (20, 60)
    shown.controls["photo"].value = Path(collection.files[6])
    shown.controls["why"].value = True
    photos = [Path(collection.files[number]) for number in (1, 6, 6)]
    assert choices == [
        (photos[0], 3, (40, 0, 120, 100)),
        (photos[1], 3, None),
        (photos[2], 3, None),
    ]


def test_a_part_of_a_name_narrows_the_list_and_picks_the_first(
    shown: LiveSearch, collection: Collection
) -> None:
    assert len(shown.controls["photo"].options) == 8
    shown.part.value = "TOWN"
    assert [name for name, _ in shown.controls["photo"].options] == [
        f"town/{number}.jpg" for number in range(3, 8)
    ]
    assert shown.results.value == expected(collection, Choices(Path(collection.files[3]), top=3))
    shown.part.value = "<castle>"
    assert shown.results.value == "<p>no name has &#x27;&lt;castle&gt;&#x27; in it</p>"
    shown.part.value = ""
    assert len(shown.controls["photo"].options) == 8
    assert shown.results.value.count("<img") == 1 + 3


def test_a_query_from_elsewhere_heads_the_list(
    collection: Collection, tmp_path: Path, live: None
) -> None:
    Image.new("RGB", (90, 90), "red").save(tmp_path / "own.png")
    box = start(collection, tmp_path / "own.png", (0, 0, 45, 45), top=2)
    (photos,) = (one for one in walk(box) if isinstance(one, widgets.Dropdown))
    assert photos.value == tmp_path / "own.png"
    assert len(photos.options) == 9 and photos.options[0][0].endswith("own.png")


def test_a_mistake_is_one_line_and_does_not_end_the_search(
    collection: Collection, tmp_path: Path, live: None
) -> None:
    gone = tmp_path / "gone.png"
    Image.new("RGB", (90, 90), "red").save(gone)
    shown = LiveSearch(collection, Choices(gone, top=2))
    gone.unlink()
    shown.controls["top"].value = 3
    assert shown.results.value.startswith(f"<p>{gone} does not exist")
    shown.controls["photo"].value = Path(collection.files[0])
    assert shown.results.value.count("<img") == 1 + 3


def walk(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)
