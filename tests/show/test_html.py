"""Tables sort by their headings, in a browser; where there is none these tests are skipped."""

import html
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import bs4
import pytest

from dagf.show.html import TEMPLATE, with_script

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.study, pytest.mark.skipif(not BROWSER, reason="no Chromium here")]

PRESS = """for (const [table, column] of {presses})
  tables[table].querySelectorAll('thead button')[column].click();"""
NUMBERS = ["9.5 [9, 10]", "−1.5", "10.0", "–", "1,200", ".5"]


def browsed(folder: Path, page: str) -> bs4.BeautifulSoup:
    """The page as it is in a browser once its scripts have run."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
    ]
    command = [str(BROWSER), *options, (folder / "page.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return bs4.BeautifulSoup(shown.stdout, "html.parser")


def table(*columns: Sequence[str]) -> str:
    heads = "".join(f"<th>Column {number}</th>" for number in range(len(columns)))
    rows = [
        "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        for row in zip(*columns, strict=True)
    ]
    body = "</tr><tr>".join(rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{body}</tr></tbody></table>"


def column(found: bs4.Tag, number: int) -> list[str]:
    return [row.select("td")[number].get_text() for row in found.select("tbody tr")]


def test_a_heading_sorts_turns_round_and_undoes(tmp_path: Path) -> None:
    names = ["b", "a", "c", "B2", "B10", ""]
    presses = [(1, 0), (2, 0), (2, 0), (3, 0), (3, 0), (3, 0), (4, 1), (5, 0), (5, 1)]
    press = PRESS.format(presses=[list(one) for one in presses])
    script = (
        TEMPLATE / "sort.js"
    ).read_text() + f"const tables = document.querySelectorAll('table');{press}"
    shown = browsed(
        tmp_path, f"<body>{table(NUMBERS, names) * 6}<script>{script}</script></body>"
    ).select("table")
    rising = ["−1.5", ".5", "9.5 [9, 10]", "10.0", "1,200", "–"]
    falling = [*rising[:5][::-1], "–"]  # what is blank stays below
    expected = [NUMBERS, falling, rising, NUMBERS]
    assert [column(one, 0) for one in shown[:4]] == expected
    sorts = [[head.get("aria-sort") for head in one.select("th")] for one in shown]
    assert sorts[:4] == [[None, None], ["descending", None], ["ascending", None], [None, None]]
    assert column(shown[4], 1) == [
        "a",
        "b",
        "B2",
        "B10",
        "c",
        "",
    ]  # words rise first; 2 comes before 10
    assert column(shown[4], 0) == [
        "−1.5",
        "9.5 [9, 10]",
        "–",
        "1,200",
        "10.0",
        ".5",
    ]  # rows stay whole
    assert (column(shown[5], 1), sorts[5]) == (column(shown[4], 1), [None, "ascending"])


def test_only_plain_tables_sort(tmp_path: Path) -> None:
    other = [
        "<table><tbody><tr><td>1</td></tr><tr><td>2</td></tr></tbody></table>",
        table(["one row"]),
        table(["1", "2"]).replace("<td>1", "<td rowspan=2>1"),
        table(["1", "2"]).replace("<table>", '<table class="parameters">'),
        table(["1", "2"]).replace("</tbody>", "</tbody><tbody><tr><td>3</td></tr></tbody>"),
    ]
    shown = browsed(
        tmp_path,
        with_script(f"<html><head></head><body>{''.join(other)}{table(['1', '2'])}</body></html>"),
    )
    assert [len(one.select("button")) for one in shown.select("table")] == [0, 0, 0, 0, 0, 1]


def test_a_page_runs_no_other_script(tmp_path: Path) -> None:
    hostile = '<script>document.title = "ran"</script>'
    hostile += '<img src="data:,x" onerror="document.title = \'ran\'">'
    page = (
        f"<html><head><title>still</title></head><body>{table(['1', '2'])}{hostile}</body></html>"
    )
    assert browsed(tmp_path, page).title.get_text() == "ran"  # without the policy
    shown = browsed(tmp_path, with_script(page))
    assert shown.title.get_text() == "still"
    assert len(shown.select("button")) == 1
