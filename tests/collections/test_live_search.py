"""The live search: its parts by hand, its page against the search itself, its controls."""

from pathlib import Path

import bs4
import ipywidgets as widgets
import pytest
from PIL import Image

from dagf.collections import live_search
from dagf.collections.encoders import open_encoder
from dagf.collections.index import Collection, build, find_images
from dagf.collections.live_search import TOP, WHOLE, in_per_cent, in_pixels, middle, start
from dagf.collections.page import OUTSIDE, render, show
from dagf.console import HEADLESS
from dagf.datasets.benchmark import Box
from dagf.errors import UserError
from dagf.show.pictures import address, boxed, thumbnail
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
    encoder = open_encoder(weights=str(mobilenet(root / "mobilenet.pth", 5)))
    build(find_images([root / "photos"]), encoder, root / "index")
    return Collection.load(root / "index")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)


def expected(
    collection: Collection, photo: Path, box: Box | None = None, top: int = TOP, why: bool = False
) -> str:
    """The page of a search that is made anew."""
    return render(collection, photo, collection.search(photo, top, box), box, why)


def parts(box: widgets.Widget) -> tuple[dict[str, widgets.Widget], widgets.HTML]:
    """The controls by their descriptions, and the page."""
    controls, *_, page = box.children
    return {one.description: one for one in controls.children}, page


def test_a_part_in_per_cent_is_a_box_in_pixels(collection: Collection) -> None:
    photo = Path(collection.files[0])  # 200 x 100
    assert in_pixels(photo, (25, 75), (10, 90)) == (50, 10, 150, 90)
    assert in_per_cent(photo, (50, 10, 150, 90)) == ((25, 75), (10, 90))
    assert in_per_cent(photo, (-9, 33.4, 999, 66.6)) == ((0, 100), (33, 67))
    assert middle(photo) == (50, 25, 150, 75)


def test_the_page_is_the_search_beside_its_query(collection: Collection) -> None:
    photo, box = Path(collection.files[4]), (0, 20, 100, 100)
    found = collection.search(photo, 4, box)
    soup = bs4.BeautifulSoup(render(collection, photo, found, box, why=False), "html.parser")
    query, *pictures = soup.select("img")
    assert query["src"] == address(boxed(thumbnail(photo), box, OUTSIDE))
    assert soup.select_one(".query figcaption").get_text() == "The query (the lit part): 4.jpg"
    captions = [one.get_text() for one in soup.select(".matches figcaption")]
    names = [(Path(file).name, f"{score:.3f}") for file, score in found]
    assert captions == [
        f"{rank} · cosine {score} · {name}" for rank, (name, score) in enumerate(names, 1)
    ]
    assert [one["src"] for one in pictures] == [address(thumbnail(Path(file))) for file, _ in found]
    assert [one["title"] for one in pictures] == [file for file, _ in found]
    reasons = bs4.BeautifulSoup(show(collection, photo, found, box).data, "html.parser")
    assert [one["src"] for one in reasons.select(".matches > li > figure img")] == [
        one["src"] for one in pictures
    ]
    assert len(reasons.select(".matches img")) == 4 * 4


def test_headless_it_is_a_still_page(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HEADLESS, "1")
    monkeypatch.setattr(live_search, "widgets", None)  # whatever asks for one fails
    photo, box = Path(collection.files[3]), (50, 10, 150, 90)
    assert start(collection, photo, box).data == expected(collection, photo, box)
    assert start(collection).data == expected(collection, Path(collection.files[0]))
    with pytest.raises(UserError, match=r"nowhere\.jpg does not exist"):
        start(collection, Path("nowhere.jpg"))


def test_results_follow_the_controls(collection: Collection, live: None) -> None:
    photo = Path(collection.files[1])
    controls, page = parts(start(collection, photo, middle(photo)))
    assert page.value == expected(collection, photo, middle(photo))
    controls["across, %"].value, controls["down, %"].value = (20, 60), (0, 50)
    part = (40, 0, 120, 50)
    assert page.value == expected(collection, photo, part)
    controls["results"].value, controls["whiten"].value = 3, True
    assert page.value == expected(collection.whitened(True), photo, part, 3)
    controls["why"].value = True
    assert page.value == expected(collection.whitened(True), photo, part, 3, why=True)
    controls["why"].value = controls["whiten"].value = False
    controls["down, %"].value = (30, 30)
    assert page.value.startswith(f"<p>{photo}: box (40.0, 30.0, 120.0, 30.0) has no pixel")


def test_another_photograph_is_searched_once_as_a_whole(
    collection: Collection, live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, whole, searched = Path(collection.files[1]), Collection.search, []
    controls, page = parts(start(collection, photo, middle(photo)))
    monkeypatch.setattr(
        Collection, "search", lambda *given: searched.append(given[1:]) or whole(*given)
    )
    controls["query"].value = "town/6.jpg"
    assert searched == [(Path(collection.files[6]), TOP, None)]
    assert controls["across, %"].value == controls["down, %"].value == WHOLE
    assert page.value == expected(collection, Path(collection.files[6]))


def test_names_are_offered_and_any_file_can_be_searched(
    collection: Collection, tmp_path: Path, live: None
) -> None:
    controls, page = parts(start(collection))
    names = [f"{'sea' if number < 3 else 'town'}/{number}.jpg" for number in range(8)]
    assert list(controls["query"].options) == names
    assert controls["query"].value == names[0]
    Image.new("RGB", (90, 90), "red").save(tmp_path / "own.png")
    controls["query"].value = str(tmp_path / "own.png")
    assert page.value == expected(collection, tmp_path / "own.png")
    controls["query"].value = "<castle>"
    assert page.value.startswith("<p>&lt;castle&gt; does not exist")
    controls["query"].value = names[3]
    assert page.value == expected(collection, Path(collection.files[3]))
    controls, page = parts(start(collection, tmp_path / "own.png", (0, 0, 45, 45)))
    assert len(controls["query"].options) == 9
    assert controls["query"].value == controls["query"].options[0]
    assert page.value == expected(collection, tmp_path / "own.png", (0, 0, 45, 45))
