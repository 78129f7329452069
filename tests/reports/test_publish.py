"""Pages: offline, with no script but ours, with math, contents, hidden parameters; the index escapes what it shows."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import bs4
import nbformat
import pytest

from dagf.analysis.tables import columns, is_number
from dagf.errors import UserError
from dagf.files import write_json
from dagf.reports.freshness import Output
from dagf.reports.markup import mathml, tidy
from dagf.reports.publish import About, Page, duration, render_page, write_index
from dagf.show.html import TEMPLATE

TEXT = r"""# A page about $\alpha$

First <em>paragraph</em> with $x_{hw} \ge 0$ and `cost = $5 and $6`.

## Method

$$ d = \frac{a}{b} $$

## Method

### Details

| A | B |
|---|--:|
| x | .4 |
"""
OUTSIDE = (
    '<script>alert(1)</script><img src="https://example.org/a.png" alt="a map"><p onclick="x()">kept</p>'
    '<link rel="stylesheet" href="https://example.org/a.css"><iframe src="https://example.org"></iframe>'
    '<figure><img src="data:image/png;base64,AAAA" alt="two curves"><figcaption>Figure 1</figcaption></figure>'
)
OURS = (TEMPLATE / "sort.js").read_text(encoding="utf-8")
FRAME = (
    '<table border="1" class="dataframe"><tr><th>GeM</th><td>0.41</td><td>text</td></tr></table>'
)


def code(source: str, *outputs: Any, tags: tuple[str, ...] = ()) -> Any:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def shown(kind: str, data: str) -> Any:
    return nbformat.v4.new_output("display_data", data={kind: data, "text/plain": "PLAIN"})


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    cells = [
        nbformat.v4.new_markdown_cell(TEXT),
        code('profile: str = "smoke"', tags=("parameters",)),
        code('benchmark = "/home/somebody/secret"', tags=("injected-parameters",)),
        code("def visible_code():\n    return '<tag>'", shown("text/html", OUTSIDE)),
        code("frame", shown("text/html", FRAME)),
        code("widget", shown("application/vnd.jupyter.widget-view+json", "{}")),
        code(
            "print('<x>')",
            nbformat.v4.new_output("stream", name="stdout", text="<x> in /the/root/data"),
            nbformat.v4.new_output("stream", name="stderr", text="warning in /usr/lib/python"),
        ),
    ]
    path = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def page(executed: Path) -> Page:
    about = About(
        "03_maps",
        {"profile": "smoke", "benchmark": "<b>&"},
        {"profile": "what <i>to</i> run"},
        "abc123",
        ["02_training", "03_maps"],
        ["tables/main.json"],
        Path("/the/root"),
    )
    return render_page(executed, about)


@pytest.fixture
def soup(page: Page) -> bs4.BeautifulSoup:
    return bs4.BeautifulSoup(page.html, "html.parser")


def test_a_page_runs_nothing_and_loads_nothing(soup: bs4.BeautifulSoup) -> None:
    assert not soup.select("iframe, object, embed, link, base")
    assert [script.get_text() for script in soup.select("script")] == [OURS]
    assert not [
        name for element in soup.find_all(True) for name in element.attrs if name.startswith("on")
    ]
    assert all(str(element["src"]).startswith("data:") for element in soup.select("[src]"))
    assert not re.search(r"https?://|@import|url\(", str(soup))
    assert "[a map: not in this page]" in soup.get_text() and "kept" in soup.get_text()


def test_browsers_are_told_to_run_our_script_alone(soup: bs4.BeautifulSoup) -> None:
    (policy,) = soup.select("head > meta[http-equiv]")
    digest = base64.b64encode(hashlib.sha256(OURS.encode()).digest()).decode()
    allowed = [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{digest}'",
    ]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert str(policy["content"]).split("; ") == allowed


def test_math_is_mathml_but_not_in_code(soup: bs4.BeautifulSoup) -> None:
    assert [math["display"] for math in soup.select("main > .prose math")] == [
        "inline",
        "inline",
        "block",
    ]
    assert soup.select_one("code:-soup-contains('cost')").get_text() == "cost = $5 and $6"  # type: ignore[union-attr]
    assert "$x" not in soup.get_text()


def test_what_the_converter_does_not_know_stays_as_tex() -> None:
    assert mathml(r"\frac{", "block") == r'<code class="tex">\frac{</code>'
    assert 'alttext="a &lt; &quot;b&quot;"' in mathml('a < "b"', "inline")


def test_contents_lead_to_headings(soup: bs4.BeautifulSoup) -> None:
    links = [str(link["href"]) for link in soup.select(".toc a")]
    assert links == ["#method", "#method-2", "#details"]
    for link in [*links, *(str(anchor["href"]) for anchor in soup.select("a.anchor"))]:
        assert len(soup.select(link)) == 1
    names = [element["id"] for element in soup.select("[id]")]
    assert len(names) == len(set(names))


def test_parameters_are_a_table_and_their_cells_hidden(soup: bs4.BeautifulSoup) -> None:
    rows = [
        [value.get_text() for value in row.select("th, td")]
        for row in soup.select(".parameters tbody tr")
    ]
    assert rows == [["profile", "smoke", "what <i>to</i> run"], ["benchmark", "<b>&", ""]]
    assert "secret" not in str(soup) and 'profile: str = "smoke"' not in soup.get_text()


def test_code_is_folded_and_highlighted(soup: bs4.BeautifulSoup) -> None:
    first = soup.select("details.code")[0]
    assert (
        "open" not in first.attrs
        and first.select_one("summary")
        and first.select_one(".highlight .k")
    )
    assert "visible_code" in first.get_text() and "'<tag>'" in first.get_text()


def test_outputs(soup: bs4.BeautifulSoup) -> None:
    assert soup.select_one("figure img")["alt"] == "two curves"  # type: ignore[index]
    frame = soup.select_one("table.dataframe")
    assert frame is not None and "border" not in frame.attrs and frame.find_parent(class_="scroll")
    assert [value.get("class") for value in frame.select("td")] == [["number"], None]
    assert "<x> in data" in soup.get_text() and "/the/root" not in str(soup)
    assert "warning in" not in str(
        soup
    )  # its path is of one machine; the record holds how many such lines there were


def test_a_page_says_what_made_it(page: Page, soup: bs4.BeautifulSoup) -> None:
    assert "abc123" in soup.select_one("footer").get_text()  # type: ignore[union-attr]
    assert "supports no claim" in soup.get_text()
    assert [link["href"] for link in soup.select("nav a")] == [
        "index.html",
        "02_training.html",
        "03_maps.html",
    ]
    assert soup.select_one("nav [aria-current]").get_text() == "03 maps"  # type: ignore[union-attr]
    assert (page.title, page.summary) == (
        "A page about α",
        "First paragraph with xhw≥0 and cost = $5 and $6.",
    )


def test_the_same_notebook_gives_the_same_bytes(executed: Path) -> None:
    about = About("03_maps", {"profile": "cpu"}, {}, "abc", [], [], Path("/the/root"))
    assert render_page(executed, about) == render_page(executed, about)


def test_nested_tables_get_one_box() -> None:
    assert tidy('<div class="scroll"><table></table></div>').count("scroll") == 1


def run_record(**other: Any) -> dict[str, Any]:
    record = {
        "notebook": "02_training",
        "title": "Tr<b>aining",
        "summary": "How & why",
        "seconds": 75.0,
        "threads": 2,
    }
    record |= {
        "cpu": "A CPU",
        "gpus": [],
        "peak_memory_mb": 700,
        "content": "c0ffee",
        "date": "2030-01-01 00:00 UTC",
    }
    record |= {
        "dagf": "1",
        "python": "3",
        "system": "Linux",
        "versions": {"torch": "2"},
        "files": ["tables/a.csv"],
    }
    return {**record, "parameters": {"profile": "cpu"}, **other}


MAIN = {
    "title": "Main <script>alert(1)</script>",
    "caption": "c <i>",
    "columns": ["Variant", "mAP", "Interval"],
    "rows": [["<GeM>", 0.4, "[.37, .43]"], ["DAGF", 0.439, None]],
    "runs": ['a1 "&" (seed 0)', ""],
    "note": "n & n",
    "alt": 'bars "of" mAP',
    "facts": {"Toytown generator": "3f2a"},
}


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "reports", tmp_path / "reports" / "tables")


def index(output: Output, *runs: dict[str, Any]) -> bs4.BeautifulSoup:
    write_index(output, runs)
    return bs4.BeautifulSoup((output.pages / "index.html").read_text(), "html.parser")


def test_the_index_shows_the_main_result_first_and_escapes_it(output: Output) -> None:
    write_json(output.result("tables", "main.json"), MAIN)
    figure = output.result("figures", "main.svg")
    figure.parent.mkdir()
    figure.write_text("<svg/>")
    soup = index(output, run_record())
    assert [script.get_text() for script in soup.select("script")] == [OURS]
    assert (
        not soup.select("[src^=http], link")
        and "http:" not in str(soup)
        and "https:" not in str(soup)
    )
    assert [heading["id"] for heading in soup.select("h2")][:2] == ["result", "photographs"]
    assert soup.select_one("h2").get_text() == MAIN["title"]  # type: ignore[union-attr]
    assert soup.select_one("figure img")["alt"] == 'bars "of" mAP'  # type: ignore[index]
    rows = [
        [value.get_text() for value in row.select("th, td")]
        for row in soup.select("tbody")[0].select("tr")
    ]
    assert rows == [["<GeM>", "0.400", "[.37, .43]"], ["DAGF", "0.439", ""]]
    assert [row.get("title") for row in soup.select("tbody")[0].select("tr")] == [
        'a1 "&" (seed 0)',
        None,
    ]
    text = soup.get_text()
    assert "every equation is our reading" in text and "Tr<b>aining" in text and "3f2a" in text
    assert "75 s, 700 MB on A CPU, 2 threads" in text and "dagf report --only 02_training" in text
    assert "supports no claim" not in text


CLAIM = ["It <b>helps", "not supported", "trained end to end"]
CLAIMS = [
    [*CLAIM, "DAGF minus GeM", "+0.10 [-1.00, +1.20]", "no difference shown", "02_training"],
    [*CLAIM, "(GeM + x) minus GeM", "-2.00 [-3.00, -1.00]", "below zero", "02_training"],
    [
        *CLAIM,
        "(GeM + y) minus GeM",
        "-1.00 [-1.90, -0.10]",
        "below zero, before correction",
        "02_training",
    ],
    [
        *CLAIM,
        "(GeM + z) minus GeM",
        "+3.00 [+2.00, +4.00]",
        "above zero, exploratory",
        "02_training",
    ],
    [
        "It holds",
        "supported",
        "trained heads",
        "a minus b",
        "+2.00 [+1.00, +3.00]",
        "above zero",
        "02_training",
    ],
    ["Elsewhere", "not testable here", "not measured", "not here", "", "", "02_training"],
]


def test_the_index_counts_the_claims_and_lists_what_speaks_against_them(output: Output) -> None:
    words = {"note": "What came <out>.", "caption": "Points & bins."}
    write_json(
        output.result("tables", "claims.json"), {"columns": ["c"] * 7, "rows": CLAIMS, **words}
    )
    soup = index(output, run_record())
    lead = soup.select(".lead")[1].get_text()
    assert "1 of the 2 claims that can be tested on our drawings is supported." in lead
    assert "supported. What came <out>. New to this?" in lead
    assert "Points & bins." in [text.get_text() for text in soup.select("#claims ~ p")]
    rows = [
        [cell.get_text() for cell in row.select("th, td")]
        for row in soup.select(".claims tbody tr")
    ]
    assert rows[0][0] == "It <b>helpstrained end to end; 02"
    assert rows[1] == ["(GeM + x) minus GeM", "-2.00 [-3.00, -1.00]", "below zero"]
    assert soup.select_one(".claims tbody th")["rowspan"] == "4"  # type: ignore[index]
    lists = soup.select_one("#negative").find_all_next("ul")[:2]  # type: ignore[union-attr]
    assert [[item.get_text() for item in one.select("li")] for one in lists] == [
        ["(GeM + x) minus GeM: -2.00 [-3.00, -1.00]."], ["(GeM + y) minus GeM: -1.00 [-1.90, -0.10]."],
    ]  # fmt: skip
    assert [one.find_previous("p").get_text() for one in lists] == [
        "Against the claim, after correction:", "Against the claim, but not past the correction:",
    ]  # fmt: skip
    assert "all secondary contrasts" in soup.get_text()  # nobody has counted them yet
    write_json(output.result("tables", "family.json"), {"columns": ["c"], "rows": [[1]] * 7})
    assert "over all 7 secondary contrasts" in index(output, run_record()).get_text()
    smoke = index(output, run_record(parameters={"profile": "smoke"}))
    assert len(smoke.select(".lead")) == 1  # a smoke run says nothing of claims in its opening


def test_the_index_of_a_smoke_run_claims_nothing(output: Output) -> None:
    soup = index(output, run_record(parameters={"profile": "smoke"}))
    assert "proves that everything runs; supports no claim" in soup.get_text()


def test_measurements_on_photographs_are_kept_in_the_index(output: Output) -> None:
    measured = run_record(photographs="town", parameters={"profile": "gpu"}, gpus=["A GPU"])
    write_json(
        output.pages / "photographs" / "town.shelf-ablation.json",
        {**MAIN, "title": "Town", "measured": measured},
    )
    write_json(output.pages / "photographs" / "town.raw.json", {"no": "table"})
    write_json(output.pages / "photographs" / "town.curves.json", {**MAIN, "title": "Curves"})
    soup = index(output)
    text = soup.get_text()
    assert "Curves" not in text and soup.select_one('a[href="photographs/town.curves.json"]')
    assert (
        "not regenerated in this run" in text
        and "Town" in text
        and "A CPU, 2 threads, A GPU" in text
    )
    assert "No report has been made yet" in text


def test_what_the_photographs_are_is_told(output: Output) -> None:
    folder = output.pages / "photographs"
    write_json(folder / "about.json", {"town": "Houses & <squares>."})
    write_json(folder / "town.against-gem.json", {**MAIN, "title": "Against"})
    write_json(folder / "shop.shelf-ablation.json", {**MAIN, "title": "Shelf"})
    soup = index(output)
    assert [title.get_text() for title in soup.select("h3[id]")] == ["shop", "town"]
    assert [title.get_text() for title in soup.select("h4[id]")] == ["Shelf", "Against"]
    assert soup.select_one("#town + p").get_text() == "Houses & <squares>."  # type: ignore[union-attr]
    assert soup.select_one("#shop + p") is None


def test_a_main_table_with_ragged_rows_is_refused(output: Output) -> None:
    write_json(output.result("tables", "main.json"), {**MAIN, "rows": [["only one"]]})
    with pytest.raises(UserError, match=r"main.json needs 'columns' and 'rows'"):
        write_index(output, [])


def test_an_unchanged_index_is_not_written_again(output: Output) -> None:
    write_index(output, [])
    before = (output.pages / "index.html").stat()
    write_index(output, [])
    after = (output.pages / "index.html").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    "text", ["3", ".412", "-1.5", "−1.5", "41.2 %", ".41 ± .02", ".40 [.38, .42]", "[.3, .4]", "—"]
)
def test_numbers(text: str) -> None:
    assert is_number(text)


@pytest.mark.parametrize("text", ["", "GeM", "3 seeds", "v1", "1x1 conv", "(a)", "-"])
def test_what_is_no_number(text: str) -> None:
    assert not is_number(text)


def test_columns_have_equally_many_decimals() -> None:
    first, second = columns({"columns": ["a", "b"], "rows": [[0.5, "x"], [-0.25, 3], [1, None]]})
    assert first.cells == ["0.50", "−0.25", "1"] and first.numeric
    assert second.cells == ["x", "3", ""] and not second.numeric


def test_durations() -> None:
    assert [duration(value) for value in (0.2, 75, 600, 7200)] == ["1 s", "75 s", "10 min", "2.0 h"]
