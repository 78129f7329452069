"""The pages: what they link to and name is there, and their examples in Python run."""

import re
from pathlib import Path
from typing import Any

import pytest

from dagf.analysis.pooled import AGAINST, CHOSEN_PLAIN, kept, over_sets, pooled
from dagf.analysis.room import GAIN, ROOM
from dagf.files import read_json
from dagf.model.variants import variant
from dagf.toytown.generate import VERSION
from tests.collections.test_export import run_of
from tests.fixtures import photograph

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_and_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"`((?:dagf|tests|benchmarks|notebooks|docs)/[\w/.]+\.\w+)`", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_examples_in_python_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photographs by the backbone that comes with the packages, and one by a run."""
    pages = [(ROOT / page).read_text() for page in ("README.md", "docs/guide.md")]
    short, first, second = re.findall(r"```python\n(.*?)```", "".join(pages), re.DOTALL)
    monkeypatch.chdir(project)
    for number, name in enumerate(("castle", "church", "query")):
        photograph(number % 2, number, 64).save(f"{name}.jpg")
    for example in short, first:
        names: dict[str, Any] = {}
        exec(example, names)
        assert names["database"].shape == (2, 1280)
        assert names["rows"].shape == (1, 2)
    run = run_of(project, variant("dagf"))
    exec(second.replace('"0c07"', repr(run.id[:4])), names)
    assert names["seen"].attention is not None


def test_the_committed_tables_are_of_this_version_of_toytown() -> None:
    """Another version is another benchmark: its results cannot stand beside those of this one."""
    tables = [read_json(file) for file in (ROOT / "reports" / "tables").glob("*.json")]
    versions = {one["facts"].get("Toytown version") for one in tables if "facts" in one}
    assert versions - {None} == {str(VERSION)}


def test_the_headline_of_the_readme_is_that_of_the_report() -> None:
    """The table, the primary contrast, the room and the count of the claims: from the records."""
    text, tables = (ROOT / "README.md").read_text(), ROOT / "reports" / "tables"
    main, claims, room = (read_json(tables / f"{name}.json") for name in ("main", "claims", "room"))
    for method, _, *cells in main["rows"]:
        assert f"| {' | '.join((method, *cells))} |\n" in text
    _, _, _, contrast, difference, result, _ = claims["rows"][0]
    assert f"{contrast}: {difference} mAP points, {result}" in text
    whole = dict(zip(room["columns"], room["rows"][-1], strict=True))
    assert f"perfect attention has {whole[ROOM]}." in text and whole[GAIN] == difference
    every = [verdict for _, verdict in {(row[0], row[1]) for row in claims["rows"]}]
    verdicts = [verdict for verdict in every if verdict != "not testable here"]
    held = verdicts.count("supported")
    assert f"**{held or 'None'} of the {len(verdicts)} claims that can be tested on Toytown" in text
    photographs = ROOT / "reports" / "photographs"
    found = over_sets(photographs)
    found = found[~found["backbone"].str.contains(" ")]  # at its last map: the others are in 00
    assert len(found) > 1
    for row in (found.columns, *found.itertuples(index=False)):
        assert f"| {' | '.join(row)} |\n" in text
    beside = pooled(photographs, AGAINST).query("minus == 'chosen GeM'").set_index("what")
    for module in ("GeM + spatial", "GeM + channel", "GeM + scale and mask"):
        cells = beside.loc[[module], "difference [95 %]"]  # of each backbone
        assert f"| {module} | {' | '.join(cells)} |\n" in text
    every = kept(photographs, AGAINST)  # of each backbone and set
    fixed = every[(every["what"] == "DAGF") & (every["minus"] == CHOSEN_PLAIN)]
    assert {*fixed["backbone"]} == {*found["backbone"]}
    assert fixed["rival"].str.startswith("R-MAC").all()  # as it says
