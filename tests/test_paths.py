from pathlib import Path

import pytest

from dagf import paths
from tests.fixtures import empty_project, fails


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, with nothing that names it."""
    monkeypatch.delenv(paths.ROOT, raising=False)
    monkeypatch.delenv(paths.RESULTS, raising=False)
    project = empty_project(tmp_path / "project")
    (project / "notebooks" / "00_overview.ipynb").touch()
    return project


def test_inside_a_project_all_lies_in_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "notebooks")
    assert paths.root() == root
    assert paths.runs() == root / "data" / "runs"
    assert paths.cache() == root / "data" / "cache"
    assert paths.result("tables", "a.csv") == root / "data" / "scratch" / "tables" / "a.csv"
    assert paths.result("tables", "a.csv").parent.is_dir()
    assert paths.relative(root / "reports" / "x.html") == "reports/x.html"
    assert paths.relative(root.parent / "x.html") == str(root.parent / "x.html")
    monkeypatch.setenv(paths.RESULTS, str(root / "stage"))
    assert paths.result("figures", "a.svg") == root / "stage" / "figures" / "a.svg"


def test_a_project_can_be_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv(paths.ROOT, "project")
    assert paths.root() == root
    monkeypatch.setenv(paths.ROOT, str(root / "nowhere"))
    fails(r"DAGF_ROOT names .*nowhere, which is no folder", paths.root)


def test_elsewhere_it_lies_in_the_user_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    monkeypatch.setattr(paths, "user_data_path", lambda name, **_: root.parent / "share" / name)
    monkeypatch.setattr(paths, "user_cache_path", lambda name, **_: root.parent / "cache" / name)
    assert paths.runs() == root.parent / "share" / "dagf" / "runs"
    assert paths.cache() == root.parent / "cache" / "dagf"
    fails("this needs the project's folder", paths.root)
    monkeypatch.chdir(empty_project(root.parent / "other"))  # somebody's own project
    assert paths.project() is None
