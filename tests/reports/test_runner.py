"""The runner: strict parameters, order, failures that change nothing, freshness."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from papermill.exceptions import PapermillExecutionError

from dagf import paths
from dagf.errors import UserError
from dagf.files import read_json
from dagf.reports import freshness
from dagf.reports.freshness import Output, Project, output_for
from dagf.reports.plans import plan
from dagf.reports.runner import Board, clock, run_reports
from dagf.reports.runner import check_reports as check
from dagf.reports.worker import extract

PARAMETERS = """profile: str = "cpu"  # the profile to run
benchmark: str = ""  # a folder of photographs
seeds: int = 2  # how many <b>seeds</b>"""
FIRST = """from dagf import paths
assert paths.root().name == "project"
(paths.data() / "from_first.txt").write_text("42")
paths.table("main.json").write_text('{"columns": ["a"], "rows": [[' + str(seeds) + ']]}')"""
SECOND = """import sys
from dagf import paths
print("careful", file=sys.stderr)
print("first said", (paths.data() / "from_first.txt").read_text())"""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> None:
    """A notebook with a title, a cell of parameters, and code `cells`."""
    made = [nbformat.v4.new_markdown_cell(f"# The {path.stem}\n\nWhat it asks.")]
    made += [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)


def make_project(root: Path) -> Project:
    for folder in ("notebooks", "data", "package/show/template"):
        (root / folder).mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / "package" / "module.py").write_text("x = 1\n")
    write_notebook(root / "notebooks" / "01_first.ipynb", FIRST)
    write_notebook(root / "notebooks" / "02_second.ipynb", SECOND)
    return project_in(root)


def project_in(root: Path) -> Project:
    order = {
        "02_second": ("01_first",),
        "01_first": (),
    }  # the text order is not the order to run in
    return Project(root, root / "notebooks", root / "package", order)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project whose reports were made."""
    root = tmp_path_factory.mktemp("made") / "project"
    run_reports({"profile": "cpu"}, project=make_project(root), jobs=2, stream=io.StringIO())
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    """A copy of the project and its reports, to change."""
    shutil.copytree(made, tmp_path / "project")
    return project_in(tmp_path / "project")


def reports(project: Project) -> dict[str, bytes]:
    files = (project.root / "reports").rglob("*")
    return {
        str(file.relative_to(project.root)): file.read_bytes() for file in files if file.is_file()
    }


@pytest.mark.study
def test_pages_results_and_records_are_made_in_the_order_of_the_needs(made: Path) -> None:
    assert "first said 42" in (made / "reports" / "02_second.html").read_text()
    assert read_json(made / "reports" / "tables" / "main.json")["rows"] == [[2]]
    record = read_json(made / "reports" / "provenance" / "01_first.json")
    assert (
        record["files"] == ["tables/main.json"] and record["seconds"] > 0 and record["threads"] >= 1
    )
    assert record["parameters"] == {"profile": "cpu", "benchmark": "", "seeds": 2}
    assert record["warning_lines"] == 0 and record["peak_memory_mb"] > 10
    assert read_json(made / "reports" / "provenance" / "02_second.json")["warning_lines"] == 1
    assert record["title"] == "The 01_first" and record["summary"] == "What it asks."
    for file in (made / "reports").rglob("*.*"):
        assert str(made) not in file.read_text() and str(Path.home()) + "/" not in file.read_text()


@pytest.mark.study
def test_a_second_run_with_nothing_changed_runs_nothing(project: Project) -> None:
    before, out = reports(project), io.StringIO()
    run_reports({"profile": "cpu"}, project=project, stream=out)
    assert out.getvalue().count("fresh, kept") == 2 and "0 run, 2 kept" in out.getvalue()
    assert reports(project) == before
    assert check({"profile": "cpu"}, project=project) == []


@pytest.mark.study
def test_two_runs_give_the_same_bytes(project: Project) -> None:
    before = reports(project)
    run_reports({"profile": "cpu"}, force=True, jobs=1, project=project, stream=io.StringIO())
    after = reports(project)
    pages = [name for name in before if name.endswith(".html") and "index" not in name]
    assert len(pages) == 2 and all(before[name] == after[name] for name in pages)


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.study
@pytest.mark.parametrize(
    ("path", "text", "stale", "reason"),
    [
        ("package/module.py", "x = 2\n", 2, "module"),
        ("package/study/new.yaml", "x: 2\n", 2, "module"),
        ("package/show/template/style.css", "p {}", 2, "template"),
        ("data/manifest.json", "{}", 2, "data"),
        ("data/other.txt", "not an input", 0, ""),
        ("README.md", "not an input", 0, ""),
    ],
)
def test_what_makes_reports_stale(
    project: Project, path: str, text: str, stale: int, reason: str
) -> None:
    (project.root / path).write_text(text)
    found = check({"profile": "cpu"}, project=project)
    assert len(found) == stale and all(reason in one.reason for one in found)


@pytest.mark.study
def test_a_notebook_is_stale_when_its_cells_or_those_it_builds_on_change(project: Project) -> None:
    second = project.path("02_second")
    edit_json(second, lambda value: value["cells"][2].update(execution_count=7, id="other"))
    assert check({"profile": "cpu"}, project=project) == []  # opened and run, not changed
    edit_json(second, lambda value: value["cells"][2].update(source=["print(1)"]))
    assert [one.name for one in check({"profile": "cpu"}, project=project)] == ["02_second"]
    write_notebook(project.path("01_first"), "print(2)")
    assert {one.name for one in check({"profile": "cpu"}, project=project)} == {
        "01_first",
        "02_second",
    }


@pytest.mark.study
def test_other_parameters_and_missing_files_make_a_report_stale(project: Project) -> None:
    assert {one.reason for one in check({"seeds": 3}, project=project)} == {
        freshness.WHAT["parameters"]
    }
    assert check({"seeds": "2"}, project=project) == []  # the default, from a command line
    (project.root / "reports" / "tables" / "main.json").unlink()
    assert [str(one) for one in check({}, project=project)] == [
        "01_first: tables/main.json is missing"
    ]
    assert len(check({"profile": "smoke"}, project=project)) == 2  # has a folder of its own


@pytest.mark.study
def test_a_failing_cell_is_named_and_changes_nothing(project: Project) -> None:
    write_notebook(project.path("02_second"), "a = 1", "b = a / 0\nnever = 1")
    before, out = reports(project), io.StringIO()
    with pytest.raises(UserError) as failure:
        run_reports({}, only=["02_second"], project=project, stream=out)
    message = str(failure.value)
    assert message.startswith(
        "02_second.ipynb: cell [4]\n    b = a / 0\n    never = 1\nZeroDivisionError: division by zero"
    )
    assert "Traceback" not in message and str(project.root) not in message
    assert "FAILED" in out.getvalue()
    assert reports(project) == before


@pytest.mark.study
def test_a_kill_in_mid_run_changes_nothing(project: Project) -> None:
    killing = "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(1)"
    write_notebook(project.path("01_first"), FIRST, killing)
    before, out = reports(project), io.StringIO()
    with pytest.raises(UserError, match=r"01_first.ipynb: its process was killed by signal 9"):
        run_reports({}, project=project, jobs=1, stream=out)
    assert reports(project) == before
    assert "02_second  not run" in out.getvalue()  # it builds on what failed


@pytest.mark.study
def test_pages_on_photographs_stay_apart_from_their_tables(project: Project) -> None:
    photographs = project.root.parent / "My Photos"
    photographs.mkdir()
    (photographs / "labels.csv").write_text("a.jpg,tower\n")
    before = reports(project)
    index = run_reports(
        {"benchmark": str(photographs)}, ["01_first"], project=project, stream=io.StringIO()
    )
    folder = project.root / "reports" / "photographs"
    assert index == folder / "my-photos" / "index.html"
    table = read_json(folder / "my-photos.main.json")
    assert table["rows"] == [[2]] and table["measured"]["parameters"]["benchmark"] == "My Photos"
    assert '"../my-photos.main.json"' in (folder / "my-photos" / "01_first.html").read_text()
    after = reports(project)
    assert {name: after[name] for name in before} == before
    assert not any(str(project.root.parent).encode() in content for content in after.values())
    assert check({"benchmark": str(photographs)}, ["01_first"], project=project) == []
    (photographs / "labels.csv").write_text("a.jpg,house\n")
    assert "data" in check({"benchmark": str(photographs)}, ["01_first"], project=project)[0].reason


@pytest.mark.study
def test_two_folders_of_one_name_do_not_replace_each_others_tables(project: Project) -> None:
    for parent in ("one", "two"):
        folder = project.root.parent / parent / "photos"
        folder.mkdir(parents=True)
        (folder / "labels.csv").write_text(f"a.jpg,{parent}\n")
    one, two = (
        {"benchmark": str(project.root.parent / parent / "photos")} for parent in ("one", "two")
    )
    run_reports(one, ["01_first"], project=project, stream=io.StringIO())
    before = reports(project)
    with pytest.raises(
        UserError, match=r"photographs/photos holds the reports on another folder.*--output"
    ) as caught:
        run_reports(two, ["01_first"], project=project, stream=io.StringIO())
    assert "\n" not in str(caught.value)
    run_reports(one, ["01_first"], project=project, stream=io.StringIO())
    mine = project.root / "mine"
    run_reports(two, ["01_first"], output=mine, project=project, stream=io.StringIO())
    assert reports(project) == before
    assert (mine / "photographs" / "photos" / "01_first.html").is_file()


def test_unknown_names_are_refused_with_the_nearest_known(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    with pytest.raises(
        UserError, match="unknown parameter of 01_first 'seed': did you mean 'seeds'"
    ):
        plan(project, {"seed": 1})
    with pytest.raises(UserError, match="unknown notebook '02_secnd': did you mean '02_second'"):
        plan(project, {}, ["02_secnd"])


@pytest.mark.parametrize("value", ["many", 2.5, True, None, (1, 2), [1]])
def test_a_value_of_another_type_is_refused(tmp_path: Path, value: Any) -> None:
    project = make_project(tmp_path / "project")
    with pytest.raises(UserError, match="parameter seeds is of type int"):
        plan(project, {"seeds": value})


def test_text_from_a_command_line_is_read_as_declared(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    declared = "a: bool = False\nb: float = 0.5\nc: list = [1]\nd: str = 'x'"
    write_notebook(project.path("01_first"), "1", parameters=declared)
    given = {"a": "true", "b": "2", "c": "[3, 4]", "d": "5"}
    assert plan(project, given, ["01_first"])[0].parameters == {
        "a": True,
        "b": 2,
        "c": [3, 4],
        "d": "5",
    }


def test_one_cell_must_declare_the_parameters(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), project.path("01_first")
    )
    with pytest.raises(
        UserError, match=r"01_first.ipynb needs one cell tagged 'parameters', it has 0"
    ):
        plan(project, {})


def test_the_error_of_a_cell_is_told_in_a_few_lines() -> None:
    long = "\n".join(f"line{i}" for i in range(40))
    told = extract(PapermillExecutionError(0, 3, long, "KeyError", "'x'", ["Traceback"] * 100))
    assert told.splitlines() == [
        "cell [3]",
        *[f"    line{i}" for i in range(6)],
        "    ...",
        "KeyError: 'x'",
    ]
    told = extract(
        PapermillExecutionError(0, 3, long, "UserError", "a.jpg is cut off: copy it again", [])
    )
    assert told == "a.jpg is cut off: copy it again"


@pytest.mark.parametrize(
    ("parameters", "pages"),
    [
        ({}, "reports"),
        ({"profile": "smoke"}, "reports/smoke"),
        ({"profile": "../x"}, "reports/x"),
        ({"benchmark": "/a/Town.v2"}, "reports/photographs/town-v2"),
        ({"benchmark": "/a/写真"}, "reports/photographs/unnamed-199fdf"),
        ({"benchmark": "/a/照片"}, "reports/photographs/unnamed-de8945"),
        ({"benchmark": "/a/Café"}, "reports/photographs/caf-e5e78a"),
        ({"benchmark": "/a/!"}, "reports/photographs/unnamed-19d945"),
        ({"benchmark": "/a/town", "profile": "gpu"}, "reports/photographs/town-gpu"),
        ({"benchmark": "/a/town", "profile": "smoke"}, "reports/smoke/photographs/town"),
    ],
)
def test_where_reports_go(parameters: dict[str, Any], pages: str) -> None:
    assert output_for(parameters, Path("reports")).pages == Path(pages)


def test_a_folder_that_is_given_is_used_as_it_is() -> None:
    assert output_for({"profile": "smoke"}, Path("reports"), Path("mine")) == Output(
        Path("mine"), Path("mine/tables")
    )


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_project(tmp_path / "project").root
    monkeypatch.delenv(paths.ROOT, raising=False)
    monkeypatch.delenv(paths.RESULTS, raising=False)
    monkeypatch.chdir(root / "notebooks")
    assert paths.root() == root.resolve() and paths.runs() == root.resolve() / "data" / "runs"
    assert paths.table("a.csv") == root.resolve() / "data" / "scratch" / "tables" / "a.csv"
    assert paths.table("a.csv").parent.is_dir()
    assert paths.relative(root / "reports" / "x.html") == "reports/x.html"
    with pytest.raises(UserError, match="plain file name"):
        paths.figure("../a.svg")
    for place in ("data/runs", "data/cache", "data"):
        shutil.rmtree(root / "data")
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).touch()
        with pytest.raises(
            UserError, match=f"{place} is a file where a folder is needed: move it away"
        ):
            paths.runs()
        (root / place).unlink()
        (root / "data").mkdir(exist_ok=True)
    monkeypatch.setenv(paths.RESULTS, str(tmp_path / "stage"))
    assert paths.figure("a.svg") == tmp_path / "stage" / "figures" / "a.svg"
    monkeypatch.setenv(paths.ROOT, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="DAGF_ROOT"):
        paths.root()
    monkeypatch.delenv(paths.ROOT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no project found"):
        paths.root()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_runs_in_a_line_that_is_written_over() -> None:
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        board = Board(stream, 6)
        board.say("01", "started", plain_only=True)
        board.show({"01": 31.0})
        board.say("01", "done 00:32")
    assert terminal.getvalue() == "\r\x1b[K01      running 00:31\r\x1b[K01      done 00:32\n"
    assert plain.getvalue() == "01      started\n01      done 00:32\n"
    assert clock(3723) == "1:02:03"
