"""Pages: offline, with no script but ours, with mathematics, contents and parameters."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import bs4
import nbformat
import pytest

from dagf.reports.page import About, Page, is_number, mathml, render_page, tidy
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
    '<script>alert(1)</script><img src="https://example.org/a.png" alt="a map"><p>kept</p>'
    '<link rel="stylesheet" href="https://example.org/a.css"><iframe src="https://example.org"></iframe>'
    '<figure><img src="data:image/png;base64,AAAA" alt="two curves"></figure>'
)
OURS = (TEMPLATE / "sort.js").read_text(encoding="utf-8")
FRAME = (
    '<table border="1" class="dataframe"><tr><th>GeM</th><th>mAP</th><th>what</th></tr>'
    "<tr><td>1 x</td><td>0.41</td><td>text</td></tr><tr><td>2</td><td></td><td>3</td></tr></table>"
)


def code(source: str, *outputs: Any, tags: tuple[str, ...] = ()) -> Any:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def shown(kind: str, data: str) -> Any:
    return nbformat.v4.new_output("display_data", data={kind: data, "text/plain": "PLAIN"})


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    warning = "warning in /usr/lib/python"
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
            nbformat.v4.new_output("stream", name="stderr", text=warning),
        ),
    ]
    path = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def about(name: str = "03_maps", profile: str = "smoke") -> About:
    return About(
        name,
        {"profile": profile, "benchmark": "<b>&"},
        {"profile": "what <i>to</i> run"},
        "abc123",
        [("02_training.html", "02 training"), ("03_maps.html", "03 maps")],
        ["tables/main.json"],
        "/the/root",
    )


@pytest.fixture
def page(executed: Path) -> Page:
    return render_page(executed, about())


@pytest.fixture
def soup(page: Page) -> bs4.BeautifulSoup:
    return bs4.BeautifulSoup(page.html, "html.parser")


def test_a_page_runs_nothing_and_loads_nothing(soup: bs4.BeautifulSoup) -> None:
    assert not soup.select("iframe, object, embed, link, base")
    assert [script.get_text() for script in soup.select("script")] == [OURS]
    assert all(str(element["src"]).startswith("data:") for element in soup.select("[src]"))
    assert not re.search(r"https?://|@import|url\(", str(soup))
    assert "[a map: not in this page]" in soup.get_text() and "kept" in soup.get_text()


def test_browsers_are_told_to_run_our_script_alone(soup: bs4.BeautifulSoup) -> None:
    (policy,) = soup.select("head > meta[http-equiv]")
    digest = base64.b64encode(hashlib.sha256(OURS.encode()).digest()).decode()
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert str(policy["content"]).split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{digest}'",
    ]


def test_math_is_mathml_but_not_in_code(soup: bs4.BeautifulSoup) -> None:
    displays = [math["display"] for math in soup.select("main > .prose math")]
    assert displays == ["inline", "inline", "block"]
    assert soup.select_one("code:-soup-contains('cost')").get_text() == "cost = $5 and $6"  # type: ignore[union-attr]
    assert "$x" not in soup.get_text()
    assert 'alttext="a &lt; &quot;b&quot;"' in mathml('a < "b"', "inline")
    assert (
        mathml(r"\frac{", "block") == r'<code class="tex">\frac{</code>'
    )  # it cannot be converted


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
    assert "open" not in first.attrs
    assert first.select_one("summary") and first.select_one(".highlight .k")
    assert "visible_code" in first.get_text() and "'<tag>'" in first.get_text()


def test_outputs(soup: bs4.BeautifulSoup) -> None:
    assert soup.select_one("figure img")["alt"] == "two curves"  # type: ignore[index]
    frame = soup.select_one("table.dataframe")
    assert frame is not None and "border" not in frame.attrs and frame.find_parent(class_="scroll")
    rows = [[cell.get("class") for cell in row.select("th, td")] for row in frame.select("tr")]
    assert rows == [[None, ["number"], None]] * 3
    assert "<x> in data" in soup.get_text() and "/the/root" not in str(soup)
    assert "warning in" not in str(soup)  # its path is of one machine; the record counts such lines


def test_a_page_says_what_made_it(page: Page, soup: bs4.BeautifulSoup) -> None:
    assert "abc123" in soup.select_one("footer").get_text()  # type: ignore[union-attr]
    assert "supports no claim" in soup.get_text()
    links = [link["href"] for link in soup.select("nav a")]
    assert links == ["index.html", "02_training.html", "03_maps.html"]
    assert [link.get_text() for link in soup.select("nav [aria-current]")] == ["03 maps"]
    assert page.title == "A page about α"
    assert page.summary == "First paragraph with xhw≥0 and cost = $5 and $6."


def test_the_overview_is_the_index(executed: Path) -> None:
    soup = bs4.BeautifulSoup(render_page(executed, about("00_overview")).html, "html.parser")
    assert [link.get_text() for link in soup.select("nav [aria-current]")] == ["DAGF study"]
    assert not soup.select(".parameters")


def test_the_same_notebook_gives_the_same_bytes(executed: Path) -> None:
    assert render_page(executed, about(profile="cpu")) == render_page(
        executed, about(profile="cpu")
    )


def test_each_table_gets_one_box_to_scroll_in() -> None:
    soup = bs4.BeautifulSoup("<figure><table></table></figure><table></table>", "html.parser")
    tidy(soup)
    assert [len(table.find_parents(class_="scroll")) for table in soup.select("table")] == [1, 1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((text, True) for text in ("3", ".412", "-1.5", "−1.5", "41.2 %", ".41 ± .02")),
        *((text, True) for text in (".40 [.38, .42]", "[.3, .4]", "—", "1,200")),
        *((text, False) for text in ("", "GeM", "3 seeds", "v1", "1x1 conv", "(a)", "-")),
    ],
)
def test_what_is_aligned_as_a_number(text: str, number: bool) -> None:
    assert is_number(text) == number
