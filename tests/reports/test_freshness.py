"""What makes a report stale, and which; where reports go."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dagf import paths
from dagf.errors import UserError
from dagf.files import write_json
from dagf.reports import freshness
from dagf.reports.freshness import OVERVIEW, STAGES, Output, output_for, plan
from tests.reports.notebooks import write_notebook

ORDER = [*chain(*STAGES)]
PHOTOGRAPHS = "reports/photographs/a.b.json"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with notebooks of all names; 03 and 08 use modules of ours."""
    monkeypatch.setenv(paths.ROOT, str(tmp_path))
    used = {"03_attention_maps": "dagf.files", "08_search_your_photos": "dagf.devices"}
    for name in (*ORDER, OVERVIEW):
        cell = f"import {used[name]}" if name in used else "1"
        write_notebook(paths.root() / "notebooks" / f"{name}.ipynb", cell)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("[]")
    return tmp_path


def publish(name: str, given: dict[str, Any]) -> None:
    report = plan(name, given)
    write_json(report.output.record_file(name), {"parts": report.parts(), "files": []})
    report.output.page(name).touch()


def stale(given: dict[str, Any]) -> dict[str, str]:
    """The reports that became stale since the last call, and why; they are made again."""
    found = {name: plan(name, given).staleness() for name in (*ORDER, OVERVIEW)}
    for name in found:
        publish(name, given)
    return {name: reason for name, reason in found.items() if reason}


def change_notebook(root: Path) -> None:
    write_notebook(root / "notebooks" / "05_attention_ablation.ipynb", "2")


def open_notebook(root: Path) -> None:
    """Run a notebook in JupyterLab and save it."""
    file = root / "notebooks" / "02_training.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"][2] |= {"execution_count": 7, "id": "other"}
    file.write_text(json.dumps(notebook))


@pytest.mark.parametrize(
    ("change", "notebooks", "part"),
    [
        (open_notebook, [], ""),
        (change_notebook, ORDER[4:], "notebooks"),
        (lambda root: (root / "data" / "manifest.json").write_text("[1]"), ORDER, "data"),
        (lambda root: write_json(root / paths.SPEED, {}), [ORDER[3], ORDER[6]], "records"),
        (lambda root: write_json(root / PHOTOGRAPHS, {}), [ORDER[5]], "records"),
        (lambda root: (root / "data" / "published.csv").touch(), [ORDER[5]], "records"),
        (lambda root: (root / "README.md").touch(), [], ""),
    ],
)
def test_what_makes_which_reports_stale(
    root: Path, change: Callable[[Path], Any], notebooks: list[str], part: str
) -> None:
    given = {"profile": "smoke"}
    assert set(stale(given).values()) == {"there is no report yet"}
    assert stale(given).keys() <= {OVERVIEW}  # their records came after it
    assert stale(given) == {}
    change(root)
    found = stale(given)
    found.pop(OVERVIEW, "")
    assert list(found) == notebooks
    assert all(reason == f"changed: {part}" for reason in found.values())


def test_a_report_is_stale_by_imported_code(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale({})
    stale({})
    whole = freshness.code_hash
    changed = {"dagf.devices"}
    monkeypatch.setattr(freshness, "code_hash", lambda *m: whole(*m) + "!" * len(changed & {*m}))
    assert stale({}) == {"08_search_your_photos": "changed: code"}
    monkeypatch.setattr(freshness, "code_hash", lambda *names: "!" * ("dagf.reports.page" in names))
    found = stale({})
    assert all("template" in reason for reason in found.values()) and len(found) == 9


def test_the_overview_is_stale_when_a_record_or_a_table_changes(root: Path) -> None:
    stale({})
    stale({})
    output = output_for()
    for file in (output.record_file("02_training"), output.result("tables", "main.json")):
        value = json.loads(file.read_text()) if file.exists() else {}
        write_json(file, {**value, "seconds": 3})
        assert plan(OVERVIEW, {}).staleness() == "changed: records"
        publish(OVERVIEW, {})
        assert plan(OVERVIEW, {}).staleness() == ""


def test_other_parameters_photographs_weights_and_profiles_make_a_report_stale(root: Path) -> None:
    (root / "photos").mkdir()
    (root / "photos" / "labels.csv").write_text("a.jpg,tower\n")
    (root / "weights.pth").write_bytes(b"1")
    (root / "mine.yaml").write_text("a: 1\n")
    named = {"benchmark": "photos", "weights": "weights.pth", "profile": "mine.yaml"}
    given = {key: str(root / value) for key, value in named.items()}

    def reason() -> str:
        found = plan("02_training", given).staleness()
        publish("02_training", given)
        return found

    assert reason() and not reason()
    (root / "photos" / "labels.csv").write_text("a.jpg,house\n")
    assert reason() == "changed: data"
    given["benchmark"] = str(root / "photos" / "gnd_x.json")
    Path(given["benchmark"]).write_text("{}")
    assert reason() and not reason()
    (root / "photos" / "labels.csv").write_text("a.jpg,tower\n")
    assert reason() == "changed: data"
    (root / "weights.pth").write_bytes(b"2")
    assert reason() == "changed: weights"
    (root / "mine.yaml").write_text("a: 2\n")
    assert reason() == "changed: parameters"
    given["seeds"] = 3
    assert reason() == "changed: parameters"
    record = plan("02_training", given).output.record_file("02_training")
    assert str(root) not in record.read_text()
    write_json(record, {**json.loads(record.read_text()), "files": ["tables/main.json"]})
    assert plan("02_training", given).staleness() == "missing: tables/main.json"


def test_parameters_are_those_that_a_notebook_declares(root: Path) -> None:
    report = plan("02_training", {"profile": "smoke"})
    assert report.parameters == {
        "profile": "smoke", "benchmark": "", "distractors": [], "weights": "", "train_on": [],
        "seeds": 2,
    }  # fmt: skip
    with pytest.raises(UserError, match="unknown parameter of 02_training 'seed': did you mean"):
        plan("02_training", {"seed": 1})
    hidden = {"benchmark": "/home/me/photos", "distractors": ["/a/b", "r1m"]}
    shown = plan("02_training", hidden).shown_parameters
    assert shown["benchmark"] == "photos" and shown["distractors"] == ["b", "r1m"]
    truth = plan("02_training", {"benchmark": "/home/me/photos/gnd_x.json"}).shown_parameters
    assert truth["benchmark"] == "photos/gnd_x.json"  # a folder may have several


@pytest.mark.parametrize(
    ("parameters", "pages"),
    [
        ({}, "reports"),
        ({"profile": "smoke"}, "reports/smoke"),
        ({"profile": "/a/x.yaml"}, "reports/x"),
        ({"benchmark": "/a/Town.v2"}, "reports/photographs/town-v2"),
        ({"benchmark": "/a/town/gnd_boxed.json"}, "reports/photographs/boxed"),
        ({"benchmark": "/a/写真"}, "reports/photographs/unnamed-199fdf"),
        ({"benchmark": "/a/照片"}, "reports/photographs/unnamed-de8945"),
        ({"benchmark": "/a/Café"}, "reports/photographs/caf-e5e78a"),
        ({"benchmark": "/a/town", "profile": "gpu"}, "reports/photographs/town-gpu"),
        ({"benchmark": "/a/town", "profile": "smoke"}, "reports/smoke/photographs/town"),
    ],
)
def test_where_reports_go(root: Path, parameters: dict[str, Any], pages: str) -> None:
    assert output_for(**parameters).pages == root / pages
    assert output_for("smoke", folder=Path("mine")) == Output(Path("mine"))
