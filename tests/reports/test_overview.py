"""The overview: what the records say, escaped, and a line where there is none yet."""

from pathlib import Path
from typing import Any

import bs4
import pytest

from dagf.analysis.pooled import over_sets
from dagf.analysis.room import GAIN, ROOM
from dagf.files import write_json
from dagf.reports.freshness import output_for
from dagf.reports.overview import FIRST, Records

MAIN = {
    "title": "Main <script>", "caption": "c <i>.", "columns": ["Variant", "mAP", "Interval"],
    "rows": [["<GeM>", 0.4, "[.37, .43]"], ["DAGF", 0.439, None]], "alt": 'bars "of" mAP',
    "runs": ['a1 "&" (seed 0)', ""], "facts": {"Toytown generator": "3f2a"},
}  # fmt: skip
AGAINST = {
    "title": "Against", "caption": "c.",
    "columns": ["what", "minus", "rival", "mAP", "difference [95 %]", "verdict", "standard error"],
    "rows": [["DAGF", "chosen GeM", "GeM", "2.0 − 1.0", "+1.00 [+0.00, +2.00]", "", "0.500"]],
    "facts": {"Backbone": "net", "Backbone's weights": "w"},
}  # fmt: skip
RECORD = {
    "notebook": "02_training", "title": "Tr<b>aining", "summary": "How & why",
    "parameters": {"profile": "smoke", "weights": "", "seeds": 2}, "content": "c0ffee",
    "date": "2030-01-01 00:00 UTC", "seconds": 75.0, "peak_memory_mb": 700, "dagf": "1",
    "cpu": "A CPU", "threads": 2, "gpus": ["A GPU"], "python": "3", "system": "Linux",
    "versions": {"torch": "2"}, "files": ["tables/a.csv"],
}  # fmt: skip
PARAMETERS = {"profile": "p", "train_on": ["c"], "distractors": ["a", "b"]}
COLUMNS = ["claim", "verdict", "measured on", "contrast", "difference [95 %]", "result", "report"]
CLAIM = ["It <b>helps", "not supported", "trained end to end; a note"]
CLAIMS = [
    [*CLAIM, "DAGF minus GeM", "+0.10", "no difference shown", "02_training"],
    [*CLAIM, "(GeM + x) minus GeM", "-2.00", "below zero", "02_training"],
    [*CLAIM, "x minus y", "-1.00", "below zero, before correction", "02_training"],
    [*CLAIM, "x minus z", "+3.00", "above zero, exploratory", "02_training"],
    ["It holds", "supported", "heads", "a minus b", "+2.00", "above zero", "02_training"],
    ["Elsewhere", "not testable here", "not measured", "not here", "", "", "02_training"],
]


@pytest.fixture
def records(project: Path) -> Records:
    """A project with records of everything."""
    found = Records(output_for())
    claims = {"title": "Claims", "caption": "C.", "columns": COLUMNS, "rows": CLAIMS}
    for name, table in (("main", MAIN), ("claims", claims)):
        write_json(found.output.result("tables", f"{name}.json"), table)
    write_json(found.output.record_file("02_training"), RECORD)
    figure = found.output.result("figures", "main.svg")
    figure.parent.mkdir()
    figure.write_text("<svg/>")
    return found


def soup(shown: Any) -> bs4.BeautifulSoup:
    return bs4.BeautifulSoup(shown.data, "html.parser")


def rows(shown: Any) -> list[list[str]]:
    found = soup(shown).select("tbody tr")
    return [[cell.get_text() for cell in row.select("th, td")] for row in found]


def test_a_table_and_its_figure(records: Records) -> None:
    shown = records.table("main")
    assert rows(shown) == [["<GeM>", "0.4", "[.37, .43]"], ["DAGF", "0.4", "–"]]
    assert soup(shown).select_one("tbody tr")["title"] == 'a1 "&" (seed 0)'
    image = soup(records.figure("main")).select_one("img")
    assert image["alt"] == 'bars "of" mAP'
    assert str(image["src"]).startswith("data:image/svg+xml;base64,")


def test_claims_have_their_contrasts_and_a_mark_by_what_speaks_for_them(records: Records) -> None:
    assert records.contrasts[COLUMNS].to_numpy().tolist() == CLAIMS
    shown = rows(records.claims())
    assert shown[0][0] == "It <b>helpstrained end to end; a note; 02"
    assert shown[1] == ["(GeM + x) minus GeM", "-2.00", "below zero"]
    assert soup(records.claims()).select_one("tbody th")["rowspan"] == "4"
    assert rows(records.verdicts()) == [
        ["It <b>helps", "✗\xa0not\xa0supported", "0", "1", "2", "–"],
        ["It holds", "✓\xa0supported", "1", "0", "0", "–"],
        ["Elsewhere", "○\xa0not\xa0testable\xa0here", "0", "0", "0", "–"],
    ]


def test_the_rooms_of_drawings_and_photographs_are_one_figure(records: Records) -> None:
    assert "Nothing to show" in records.rooms().data
    room = {"title": "Room", "caption": "c.", "alt": "bars", "columns": ["module", ROOM, GAIN]}
    room |= {"rows": [["all three", "+4.00 [+2.00, +6.00]", "-1.00 [-2.00, +0.00]"]]}
    about = {"profile": "five", "benchmark": "shop", "train_on": ["union"]}
    room |= {"facts": AGAINST["facts"], "measured": {"parameters": about}}
    write_json(records.output.result("tables", "room.json"), room)
    write_json(records.output.pages / "photographs" / "shop.room.json", room)
    words = "on drawn buildings, on photographs (shop, net)"
    assert words in str(soup(records.rooms()).select_one("img")["alt"])
    rows_of = [["a", "loses", "-1", "+4", "–"], ["b", "gains", "+1", "+4", "–"]]
    room |= {"columns": FIRST, "rows": rows_of}
    write_json(records.output.result("tables", "room.json"), room)
    assert rows(records.modules())[1] == ["b", "gains", "+1", "+4", "–"]
    said = "On drawn buildings, of the 2 rows of the figure: 1 gain, 1 lose."
    assert soup(records.answer()).get_text() == said
    for name, gain in (("a", "+3.00 [+2.00, +4.00]"), ("b", "+2.00 [+1.00, +3.00]")):
        found = ("DAGF", "chosen GeM", "GeM", "41.0 − 40.0", gain, "above", "0.500")
        record = AGAINST | {
            "rows": [found],
            "measured": {"parameters": about | {"benchmark": name}},
        }
        write_json(records.output.pages / "photographs" / f"{name}.against-rivals.json", record)
    assert rows(records.over_sets())[0][:3] == ["net", "DAGF", "2"]
    lines = [*soup(records.answer()).select_one("p").stripped_strings]
    assert " ".join(lines).endswith("On photographs, the means over sets: 0 gain, 1 show no gain.")
    assert [row[0] for row in rows(records.sets())] == ["a", "b", "all 2"]
    mean = over_sets(records.output.pages / "photographs")["minus the chosen GeM [95 %]"].item()
    assert rows(records.verdicts())[0][-1] == f"net {mean}"


def test_measurements_on_photographs_are_kept(records: Records) -> None:
    folder = records.output.pages / "photographs"
    measured = {**RECORD, "parameters": PARAMETERS}
    kept = {"measured": {"photographs": "town", **measured}}
    write_json(folder / "about.json", {"town": "Houses & <squares>."})
    write_json(folder / "town.shelf-ablation.json", {**MAIN, "title": "Shelf", **kept})
    for name in ("town", "shop"):
        of = {"parameters": PARAMETERS | {"benchmark": name}}
        against = {**AGAINST, "measured": kept["measured"] | {"photographs": name} | of}
        write_json(folder / f"{name}.against-rivals.json", against)
    write_json(folder / "town.curves.json", {**MAIN, "title": "Curves"})
    shown = soup(records.photographs())
    assert [title.get_text() for title in shown.select("details[id] > summary")] == ["shop", "town"]
    titles = [title.get_text().split(".")[0] for title in shown.select("figcaption")]
    pooled = "DAGF and its modules over several sets"
    assert titles == [pooled, "shop: Against", "town: Against", "town: Shelf"]
    text = shown.get_text()
    assert "Houses & <squares>." in text and "A CPU, 2 threads, A GPU" in text
    assert "distractors a, b" in text
    assert "shop +1.0, town +1.0" in text
    assert "Curves" not in text and shown.select_one('a[href="photographs/town.curves.json"]')


def test_a_part_of_the_records_is_shown(project: Path) -> None:
    empty = Records(output_for("smoke", "/photos/town"))
    shown = [
        empty.table("main"), empty.figure("main"), empty.claims(), empty.photographs(),
        empty.reports(), empty.verdicts(), empty.rooms(), empty.modules(), empty.answer(),
    ]  # fmt: skip
    assert all("Nothing to show" in str(one.data) for one in shown)
    assert empty.sets().data == empty.over_sets().data == ""
