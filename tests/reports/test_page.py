"""Pages: offline, with no script but ours, with mathematics, contents and parameters."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import bs4
import nbformat
import pytest

from dagf.reports.page import mathml, render_page
from dagf.show.html import TEMPLATE
from tests.reports.notebooks import KERNEL

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
OURS = (TEMPLATE / "sort.js").read_text(encoding="utf-8")
FIGURE = '<figure><img src="data:image/png;base64,AAAA" alt="two curves"></figure>'
NUMBERS = ["3", ".412", "-1.5", "−1.5", "41.2 %", ".41 ± .02", ".40 [.38, .42]", "—", "1,200"]
WORDS = ["GeM", "3 seeds", "v1", "1x1 conv", "(a)", "-"]
ROWS = "".join(f"<tr><td>{word}</td><td>{number}</td></tr>" for word in WORDS for number in NUMBERS)
FRAME = (
    f'<table border="1" class="dataframe"><tr><th>GeM</th><th>mAP</th></tr>{ROWS}'
    "<tr><td></td><td></td></tr></table>"
)
START = f"<table class='mixed'>{'<tr><td>3</td></tr>' * 2}"
MIXED = "".join(f"{START}<tr><td>{one}</td></tr></table>" for one in WORDS)
ABOUT = {
    "notebook": "03_maps", "parameters": {"profile": "smoke", "benchmark": "<b>&"},
    "content": "abc123", "dagf": "1.0", "siblings": ["02_training", "03_maps"],
    "files": ["tables/main.json"],
}  # fmt: skip
PARAMETERS = 'profile: str = "smoke"  # what <i>to</i> run\nbenchmark: str = ""'


def code(source: str, *outputs: Any, tags: tuple[str, ...] = ()) -> Any:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def shown(kind: str, data: str) -> Any:
    return nbformat.v4.new_output("display_data", data={kind: data, "text/plain": "PLAIN"})


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    said = nbformat.v4.new_output("stream", name="stdout", text="<x> in /the/root/data")
    warned = nbformat.v4.new_output("stream", name="stderr", text="warning in /usr/lib/python")
    cells = [
        nbformat.v4.new_markdown_cell(TEXT),
        code(PARAMETERS, tags=("parameters",)),
        code('benchmark = "/home/somebody/secret"', tags=("injected-parameters",)),
        code("def visible_code():\n    return '<tag>'", shown("text/html", FIGURE)),
        code("frame", shown("text/html", FRAME + MIXED)),
        code("words", shown("text/markdown", "**bold** $y$"), said, warned),
    ]
    path = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
    return path


def render(executed: Path, **about: str) -> tuple[str, str, str]:
    return render_page(executed, {**ABOUT, **about}, Path("/the/root"))


@pytest.fixture
def soup(executed: Path) -> bs4.BeautifulSoup:
    return bs4.BeautifulSoup(render(executed)[0], "html.parser")


def test_a_page_loads_nothing_and_runs_our_script_alone(soup: bs4.BeautifulSoup) -> None:
    assert [script.get_text() for script in soup.select("script")] == [OURS]
    assert all(str(element["src"]).startswith("data:") for element in soup.select("[src]"))
    assert not re.search(r"https?://|@import|url\(", str(soup))
    (policy,) = soup.select("head > meta[http-equiv='Content-Security-Policy']")
    digest = base64.b64encode(hashlib.sha256(OURS.encode()).digest()).decode()
    rules = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-"
    assert policy["content"] == f"{rules}{digest}'"


def test_math_is_mathml_but_not_in_code(soup: bs4.BeautifulSoup) -> None:
    displays = [math["display"] for math in soup.select("main > .prose math")]
    assert displays == ["inline", "inline", "block"]
    assert soup.select_one("code:-soup-contains('cost')").get_text() == "cost = $5 and $6"
    assert "$x" not in soup.get_text() and soup.select_one(".output .prose strong ~ math")
    assert 'alttext="a &lt; &quot;b&quot;"' in mathml('a < "b"', "inline")
    broken = '<code class="tex">\\frac{</code>'  # it cannot be converted
    assert mathml(r"\frac{", "block") == broken


def test_contents_lead_to_headings(soup: bs4.BeautifulSoup) -> None:
    links = [str(link["href"]) for link in soup.select(".toc a")]
    assert links == ["#method", "#method-2", "#details"]
    for link in soup.select(".toc a, a.anchor"):
        assert len(soup.select(str(link["href"]))) == 1


def test_parameters_are_a_table_and_code_is_folded(soup: bs4.BeautifulSoup) -> None:
    shown = soup.select(".parameters tbody tr")
    rows = [[value.get_text() for value in row.select("th, td")] for row in shown]
    assert rows == [["profile", "smoke", "what <i>to</i> run"], ["benchmark", "<b>&", ""]]
    assert "secret" not in str(soup) and 'profile: str = "smoke"' not in soup.get_text()
    code = soup.select("details.code:not([open])")[0]  # other cells are folded, and highlighted
    assert code.select_one("summary") and code.select_one(".highlight .k")
    assert "visible_code" in code.get_text() and "'<tag>'" in code.get_text()


def test_outputs_and_how_their_numbers_are_aligned(soup: bs4.BeautifulSoup) -> None:
    assert soup.select_one("figure img")["alt"] == "two curves"
    assert "<x> in data" in soup.get_text() and "/the/root" not in str(soup)
    assert "warning in" not in str(soup)  # its path is of one machine; the record counts such lines
    frame = soup.select_one("table.dataframe")
    assert frame is not None and "border" not in frame.attrs
    assert all(len(one.find_parents(class_="scroll")) == 1 for one in soup.select("table"))
    for row in frame.select("tr"):
        assert [cell.get("class") for cell in row.select("th, td")] == [None, ["number"]]
    assert not soup.select(".mixed .number")  # one word among numbers makes a column of words


def test_a_page_says_what_made_it(executed: Path, soup: bs4.BeautifulSoup) -> None:
    assert "abc123" in soup.select_one("footer").get_text()
    links = [link["href"] for link in soup.select("nav a")]
    assert links == ["index.html", "02_training.html", "03_maps.html"]
    assert [link.get_text() for link in soup.select("nav [aria-current]")] == ["03 maps"]
    first = "First paragraph with xhw≥0 and cost = $5 and $6."
    assert render(executed)[1:] == ("A page about α", first)
    assert render(executed) == render(executed)
    index = bs4.BeautifulSoup(render(executed, notebook="00_overview")[0], "html.parser")
    assert [link.get_text() for link in index.select("nav [aria-current]")] == ["DAGF study"]
    assert not index.select(".parameters")
