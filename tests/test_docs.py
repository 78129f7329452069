"""The pages: what they link to and name is there, and their examples in Python run."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from dagf.files import read_json
from dagf.model.variants import variant
from dagf.paths import ROOT as HOME
from dagf.toytown.generate import VERSION
from tests.collections.test_export import run_of
from tests.fixtures import photograph

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert all((page.parent / link).exists() for link in links), links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_of_ours_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:dagf|tests|benchmarks|notebooks|docs)/[\w/.]+\.\w+)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_reading_names_what_is_there() -> None:
    text = (ROOT / "docs" / "reading.md").read_text()
    named = [
        match.split(".")
        for match in re.findall(r"`((?:attention|network|pooling|scale_mask)\.\w+)`", text)
    ]
    assert len(named) >= 7
    assert all(hasattr(import_module(f"dagf.model.{module}"), name) for module, name in named)


@pytest.mark.parametrize("page", ["docs/reading.md", "SECURITY.md"])
def test_a_page_is_one_page(page: str) -> None:
    assert len((ROOT / page).read_text().splitlines()) <= 60


def test_each_part_of_adding_is_a_page() -> None:
    parts = (ROOT / "docs" / "adding.md").read_text().split("\n## ")
    assert [part.partition("\n")[0] for part in parts[1:]] == [
        "A variant",
        "A benchmark",
        "A notebook",
    ]
    assert all(len(part.splitlines()) <= 60 for part in parts)


def test_the_examples_in_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two photographs by a backbone off the shelf (here without a download), and one by a run."""
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv(HOME, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("castle", "church", "query")):
        photograph(number % 2, number, 64).save(f"{name}.jpg")
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), "resnet50.pth")
    names: dict[str, Any] = {}
    exec(first.replace('"resnet50"', '"resnet50", "resnet50.pth"'), names)
    assert names["database"].shape == (2, 2048)
    assert names["rows"].shape == (1, 2)
    run = run_of(tmp_path, variant("dagf"))
    exec(second.replace('"0c07"', repr(run.id[:4])), names)
    assert names["seen"].attention is not None
    torch.testing.assert_close(names["seen"].descriptor.norm(dim=1), torch.ones(1))


def test_the_committed_tables_are_of_this_version_of_toytown() -> None:
    """Another version is another benchmark: its results cannot stand beside those of this one."""
    tables = [
        read_json(file).get("facts", {}) for file in (ROOT / "reports" / "tables").glob("*.json")
    ]
    # Before Toytown had a version the hash of its code named it; that of version 1 is this one.
    versions = {
        facts.get("Toytown version") or {"fba0f953547f": "1"}[facts["Toytown generator"]]
        for facts in tables
        if "Toytown version" in facts or "Toytown generator" in facts
    }
    assert versions == {str(VERSION)}


def test_the_headline_of_the_readme_is_that_of_the_report() -> None:
    """The table, the primary contrast and the count of the claims: from the committed records."""
    text = (ROOT / "README.md").read_text()
    main, claims = (
        read_json(ROOT / "reports" / "tables" / f"{name}.json") for name in ("main", "claims")
    )
    for method, _, *cells in main["rows"]:
        assert f"| {' | '.join((method, *cells))} |\n" in text
    _, _, _, contrast, difference, result, _ = claims["rows"][0]
    assert f"{contrast}: {difference} mAP points, {result}" in text
    verdicts = [
        verdict
        for _, verdict in {(row[0], row[1]) for row in claims["rows"]}
        if verdict != "not testable here"
    ]
    held = verdicts.count("supported")
    assert f"**{held or 'None'} of the {len(verdicts)} claims that can be tested on Toytown" in text
