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
NAMES = ["b", "a", "c", "B2", "B10", ""]


def browsed(folder: Path, body: str, script: str = "", policy: bool = True) -> bs4.BeautifulSoup:
    """A page, with our script or another, as it is in a browser once its scripts have run."""
    page = f"<html><head><title>still</title></head><body>{body}</body></html>"
    page = with_script(page) if policy else f"{page}<script>{script}</script>"
    (folder / "page.html").write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    options.append(f"--user-data-dir={folder / 'profile'}")
    command = [str(BROWSER), *options, (folder / "page.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return bs4.BeautifulSoup(shown.stdout, "html.parser")


def table(*columns: Sequence[str]) -> str:
    heads = "".join(f"<th>Column {number}</th>" for number in range(len(columns)))
    rows = zip(*columns, strict=True)
    body = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def column(found: bs4.Tag, number: int) -> list[str]:
    return [row.select("td")[number].get_text() for row in found.select("tbody tr")]


def test_a_heading_sorts_turns_round_and_undoes(tmp_path: Path) -> None:
    presses = [[1, 0], [2, 0], [2, 0], [3, 0], [3, 0], [3, 0], [4, 1], [5, 0], [5, 1]]
    script = (TEMPLATE / "sort.js").read_text() + (
        f"const tables = document.querySelectorAll('table');{PRESS.format(presses=presses)}"
    )
    body = table(NUMBERS, NAMES) * 6
    shown = browsed(tmp_path, body, script, policy=False).select("table")
    rising = ["−1.5", ".5", "9.5 [9, 10]", "10.0", "1,200", "–"]
    falling = [*rising[:5][::-1], "–"]  # what is blank stays below
    assert [column(one, 0) for one in shown[:4]] == [NUMBERS, falling, rising, NUMBERS]
    sorts = [[head.get("aria-sort") for head in one.select("th")] for one in shown]
    assert sorts[:4] == [[None, None], ["descending", None], ["ascending", None], [None, None]]
    # Words rise first, 2 comes before 10, and rows stay whole.
    assert column(shown[4], 1) == ["a", "b", "B2", "B10", "c", ""]
    assert column(shown[4], 0) == ["−1.5", "9.5 [9, 10]", "–", "1,200", "10.0", ".5"]
    assert (column(shown[5], 1), sorts[5]) == (column(shown[4], 1), [None, "ascending"])


def test_only_plain_tables_sort_and_no_other_script_runs(tmp_path: Path) -> None:
    plain = table(["1", "2"])
    other = plain.replace("<table>", '<table class="parameters">'), table(["one row"])
    hostile = '<script>document.title = "ran"</script>'
    hostile += '<img src="data:,x" onerror="document.title = \'ran\'">'
    assert browsed(tmp_path, hostile, policy=False).title.get_text() == "ran"
    shown = browsed(tmp_path, f"{''.join(other)}{plain}{hostile}")
    assert [len(one.select("button")) for one in shown.select("table")] == [0, 0, 1]
    assert shown.title.get_text() == "still"
