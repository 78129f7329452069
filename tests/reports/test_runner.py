"""The runner: the order, failures that change nothing, what is kept, the index last."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from dagf import paths
from dagf.console import cores
from dagf.errors import UserError
from dagf.files import read_json, write_json
from dagf.reports.runner import check_reports, run_reports
from tests.fixtures import fails
from tests.reports.notebooks import write_notebook

FIRST = """from dagf import paths
assert paths.root().name == "project"
(paths.data() / "from_first.txt").write_text("42")
main = paths.result("tables", "main.json")
main.write_text('{"columns": ["a"], "rows": [[' + str(seeds) + ']]}')"""
SECOND = """import os, sys
from dagf import paths
assert "inline" in os.environ["MPLBACKEND"]
assert sys.executable == INTERPRETER
print("careful", file=sys.stderr)
print("first said", (paths.data() / "from_first.txt").read_text())"""
OVERVIEW = """from dagf.reports.freshness import output_for
from dagf.reports.overview import Records
Records(output_for(profile, benchmark)).reports()"""


def others(folder: Path) -> dict[str, str]:
    """What a person has of their own: another kernel `python3`, a start-up file, a window."""
    write_json(folder / "kernels" / "python3" / "kernel.json", {"argv": ["false"]})
    (folder / "start.py").write_text("raise SystemExit")
    own = {"JUPYTER_PATH": str(folder), "PYTHONSTARTUP": str(folder / "start.py")}
    return {**own, "MPLBACKEND": "tkagg"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project whose reports were made."""
    root = tmp_path_factory.mktemp("made") / "project"
    second = SECOND.replace("INTERPRETER", repr(sys.executable))
    cells = {"02_training": FIRST, "03_attention_maps": second, "00_overview": OVERVIEW}
    for name, cell in cells.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", cell)
    (root / "data").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ROOT, str(root))
        for name, value in others(tmp_path_factory.mktemp("others")).items():
            patch.setenv(name, value)
        run_reports({"profile": "cpu"}, jobs=2)
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project and its reports, to change."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.setenv(paths.ROOT, str(tmp_path / "project"))
    return tmp_path / "project"


def reports(project: Path) -> dict[str, bytes]:
    files = (project / "reports").rglob("*")
    return {str(one.relative_to(project)): one.read_bytes() for one in files if one.is_file()}


def but_overview(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: file for name, file in files.items() if "index" not in name and "00" not in name}


@pytest.mark.study
def test_pages_results_and_records_are_made_in_the_order_of_the_needs(made: Path) -> None:
    assert "first said 42" in (made / "reports" / "03_attention_maps.html").read_text()
    assert read_json(made / "reports" / "tables" / "main.json")["rows"] == [[2]]
    record = read_json(made / "reports" / "provenance" / "02_training.json")
    assert record["files"] == ["tables/main.json"]
    assert record["seconds"] > 0 and record["peak_memory_mb"] > 10
    assert record["threads"] == cores()  # it was alone in its stage, of two jobs
    assert record["parameters"]["profile"] == "cpu" and record["parameters"]["seeds"] == 2
    assert record["warning_lines"] == 0
    assert record["title"] == "The 02_training" and record["summary"] == "What it asks."
    second = read_json(made / "reports" / "provenance" / "03_attention_maps.json")
    assert second["warning_lines"] == 1
    index = (made / "reports" / "index.html").read_text()
    assert "The 02_training" in index and "dagf report --only 03_attention_maps" in index
    for file in (made / "reports").rglob("*.*"):
        assert str(made) not in file.read_text() and str(Path.home()) + "/" not in file.read_text()


@pytest.mark.study
def test_a_second_run_makes_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = reports(project)
    run_reports({"profile": "cpu"})
    said = capsys.readouterr().out
    assert said.count("fresh, kept") == 2 and "0 run, 2 kept" in said
    assert reports(project) == before
    assert check_reports({"profile": "cpu"}) == {}
    run_reports({"profile": "cpu"}, ["02_training"], force=True)
    page = "reports/02_training.html"
    assert reports(project)[page] == before[page]


@pytest.mark.study
def test_a_failing_cell_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_notebook(project / "notebooks" / "01_data_and_protocol.ipynb", "1")
    write_notebook(project / "notebooks" / "02_training.ipynb", "a = 1", "b = a / 0\nnever = 1")
    before = reports(project)
    with pytest.raises(UserError) as failure:
        run_reports({}, jobs=1)
    cell = "cell [4]\n    b = a / 0\n    never = 1\nZeroDivisionError: division by zero"
    assert str(failure.value).startswith(f"02_training.ipynb: {cell}")
    assert "Traceback" not in str(failure.value) and str(project) not in str(failure.value)
    said = capsys.readouterr().out
    assert "FAILED" in said and "03_attention_maps           not run" in said
    after = reports(project)
    assert {name: after[name] for name in but_overview(before)} == but_overview(before)
    assert "The 01_data_and_protocol" in (project / "reports" / "index.html").read_text()


@pytest.mark.study
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "it was killed"),
        ("from dagf.errors import UserError\nraise UserError('a.jpg is cut off')", "a.jpg is cut"),
    ],
)
def test_a_kill_or_a_mistake_changes_nothing(project: Path, fault: str, words: str) -> None:
    write_notebook(project / "notebooks" / "02_training.ipynb", FIRST, fault)
    before = reports(project)
    with pytest.raises(UserError, match=f"02_training.ipynb: {words}"):
        run_reports({}, jobs=1)
    assert but_overview(reports(project)) == but_overview(before)
    write_notebook(project / "notebooks" / "02_training.ipynb", "1")
    assert run_reports({}, ["02_training"]).name == "index.html"
    assert not (project / "reports" / "tables" / "main.json").exists()  # it is no longer made


@pytest.mark.study
def test_a_kernel_that_does_not_start(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.parent / "ipykernel_launcher.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(project.parent))
    with pytest.raises(UserError, match=r"02_training.ipynb: its kernel did not start: Kernel"):
        run_reports({}, ["02_training"], force=True)


@pytest.mark.study
def test_pages_on_photographs_stay_apart_from_their_tables(project: Path) -> None:
    """Of a folder whose name is no text, too."""
    photographs = project.parent / os.fsdecode(b"caf\xe9")
    photographs.mkdir()
    (photographs / "labels.csv").write_text("a.jpg,tower\n")
    given, before = {"benchmark": str(photographs)}, reports(project)
    cell = f"{FIRST}\nprint(paths.Path(benchmark, 'labels.csv').read_text())"
    write_notebook(project / "notebooks" / "02_training.ipynb", cell)
    index = run_reports(given, ["02_training"])
    folder, name = project / "reports" / "photographs", index.parent.name
    assert index == folder / name / "index.html" and name.startswith("caf-")
    table = read_json(folder / f"{name}.main.json")
    assert table["rows"] == [[2]] and table["measured"]["parameters"]["benchmark"] == "caf\udce9"
    after = reports(project)
    page = after[f"reports/photographs/{name}/02_training.html"]
    assert f'"../{name}.main.json"'.encode() in page
    assert {name: after[name] for name in before} == before
    assert not any(str(project.parent).encode() in content for content in after.values())
    assert check_reports(given, ["02_training"]) == {}
    assert check_reports(given, ["02_training"], project / "mine")


def test_two_runs_do_not_make_the_same_reports(project: Path) -> None:
    (stages := project / "data" / "scratch" / "reports").mkdir(parents=True, exist_ok=True)
    with FileLock(stages / "reports.lock"):
        fails("these reports are being made by another run", run_reports, {})


def test_unknown_notebooks_are_refused_with_the_nearest_known(project: Path) -> None:
    says = "unknown notebook '02_trainng': did you mean '02_tr"
    fails(says, check_reports, {}, ["02_trainng"])
