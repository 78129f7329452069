"""What makes a report stale: the parts that it shows, and no others."""

from pathlib import Path

import pytest

from dagf.files import write_json
from dagf.paths import SPEED
from dagf.reports.freshness import ORDER, Output, Project, parts, staleness
from tests.reports.test_runner import write_notebook


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Notebooks of all names."""
    (tmp_path / "notebooks").mkdir()
    for name in ORDER:
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "1 + 1")
    return Project(tmp_path, tmp_path / "notebooks", tmp_path / "package")


@pytest.mark.parametrize("parameters", [{}, {"benchmark": "photographs"}])
def test_the_record_of_speed_belongs_to_the_two_pages_that_show_it(
    project: Project, parameters: dict[str, str]
) -> None:
    output, reasons = Output(project.root / "reports", project.root / "reports" / "tables"), {}
    for number, figures in enumerate(([], [{"what": "a"}], [{"what": "a"}])):
        write_json(project.root / SPEED, {"figures": figures})
        for name in ORDER:
            now = parts(project, name, parameters, {})
            reasons[name, number] = staleness(output, name, now)
            output.pages.mkdir(exist_ok=True)
            output.page(name).touch()
            write_json(output.record(name), {"parts": now})
    assert {reasons[name, 0] for name in ORDER} == {"there is no report yet"}
    stale = [name for name in ORDER if reasons[name, 1]]
    assert stale == ["04_scale_and_mask_ablation", "07_large_scale"]
    assert {reasons[name, 1] for name in stale} == {"the record of make bench was changed"}
    assert {reasons[name, 2] for name in ORDER} == {""}
