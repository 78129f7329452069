"""What makes a report stale, and which; where reports go."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dagf import paths
from dagf.files import read_json, write_json
from dagf.reports import freshness
from dagf.reports.freshness import OVERVIEW, STAGES, Output, output_for, plan
from tests.fixtures import PROFILE, fails
from tests.reports.notebooks import write_notebook

ORDER = sorted(chain(*STAGES))
PHOTOGRAPHS = "reports/photographs/a.b.json"


@pytest.fixture
def root(project: Path) -> Path:
    """A project with notebooks of all names; 03 and 08 use modules of ours."""
    used = {"03_attention_maps": "dagf.files", "08_search_your_photos": "dagf.devices"}
    for name in (*ORDER, OVERVIEW):
        cell = f"import {used[name]}" if name in used else "1"
        write_notebook(project / "notebooks" / f"{name}.ipynb", cell)
    (project / "data").mkdir()
    (project / "data" / "manifest.json").write_text("[]")
    return project


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
    notebook = read_json(file)
    notebook["cells"][2] |= {"execution_count": 7, "id": "other"}
    write_json(file, notebook)


@pytest.mark.parametrize("profile", ["smoke", "cpu"])
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
        (lambda root: write_json(root / "data/backbones/b/record.json", {}), ORDER, "weights"),
    ],
)
def test_what_makes_which_reports_stale(
    root: Path, profile: str, change: Callable[[Path], Any], notebooks: list[str], part: str
) -> None:
    given = {"profile": profile}
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
        write_json(file, {**(read_json(file) if file.exists() else {}), "seconds": 3})
        assert plan(OVERVIEW, {}).staleness() == "changed: records"
        publish(OVERVIEW, {})
        assert plan(OVERVIEW, {}).staleness() == ""


def test_other_parameters_photographs_weights_and_profiles_make_a_report_stale(root: Path) -> None:
    (root / "photos").mkdir()
    labels, truth = root / "photos" / "labels.csv", root / "photos" / "gnd_x.json"
    named = {"benchmark": "photos", "weights": "weights.pth", "profile": "mine.yaml"}
    given = {key: str(root / value) for key, value in named.items()}
    written = {labels: "data", truth: "data", root / "weights.pth": "weights"}
    own = root / "own.pth"  # the profile's, which the given one replaces
    for file in (*written, own):
        file.write_text("{}")
    backbone = {"backbone": {"name": "resnet18", "weights": own.name}, "backbone_training": None}
    write_json(root / "mine.yaml", PROFILE | backbone)

    def reason() -> str:
        found = plan("02_training", given).staleness()
        publish("02_training", given)
        return found

    assert reason() and not reason()
    for file, part in written.items():
        file.write_text("{a: 1}")
        assert reason() == f"changed: {part}"
    write_json(root / "mine.yaml", PROFILE | backbone | {"about": "others"})
    assert reason() == "changed: parameters"
    given["benchmark"] = str(truth)
    assert reason() and not reason()
    labels.write_text("a.jpg,tower")
    assert reason() == "changed: data"
    own.write_text("{a: 1}")
    assert not reason()
    given["weights"] = ""
    assert "weights" in reason() and not reason()
    own.write_text("{}")
    assert reason() == "changed: weights"
    given["seeds"] = 3
    assert reason() == "changed: parameters"
    record = plan("02_training", given).output.record_file("02_training")
    assert str(root) not in record.read_text()
    write_json(record, {**read_json(record), "files": ["tables/main.json"]})
    assert plan("02_training", given).staleness() == "missing: tables/main.json"


def test_parameters_are_those_that_a_notebook_declares(root: Path) -> None:
    report = plan("02_training", {"profile": "smoke"})
    own = {"benchmark": "", "distractors": [], "weights": "", "train_on": [], "seeds": 2}
    assert report.parameters == {"profile": "smoke", **own}
    says = "unknown parameter of 02_training 'seed': did you mean"
    fails(says, plan, "02_training", {"seed": 1})
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
        ({"benchmark": "/a/town", "profile": "gpu"}, "reports/photographs/town-gpu"),
        ({"benchmark": "/a/town", "profile": "smoke"}, "reports/smoke/photographs/town"),
    ],
)
def test_where_reports_go(root: Path, parameters: dict[str, Any], pages: str) -> None:
    assert output_for(**parameters).pages == root / pages
    assert output_for("smoke", folder=Path("mine")) == Output(Path("mine"))
