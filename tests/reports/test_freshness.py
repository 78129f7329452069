"""What makes a report stale: the parts that it shows, and no others."""

import os
from pathlib import Path

import pytest

from dagf.files import write_json
from dagf.paths import SPEED
from dagf.reports import folders
from dagf.reports.folders import hash_folder
from dagf.reports.freshness import ORDER, Output, Project, parts, staleness
from dagf.study import checks
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of one size, and a ground truth."""
    (tmp_path / "photos" / "jpg").mkdir(parents=True)
    for name, content in (("a.bmp", b"one"), ("b.bmp", b"two")):
        (tmp_path / "photos" / "jpg" / name).write_bytes(content)
    (tmp_path / "photos" / "labels.csv").write_text("file,instance,role\n")
    return tmp_path / "photos"


def test_photographs_of_one_size_that_change_places_are_noticed(
    folder: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "cache" / "seen.json"
    before = hash_folder(folder, seen)
    one, two, spare = folder / "jpg" / "a.bmp", folder / "jpg" / "b.bmp", tmp_path / "spare"
    for path in (one, two):
        os.utime(path, ns=(10**18, 10**18))
    assert hash_folder(folder, seen) == before
    one.rename(spare)
    two.rename(one)
    spare.rename(two)
    changed = hash_folder(folder, seen)
    assert changed != before
    assert hash_folder(folder, tmp_path / "another.json") == changed


def test_photographs_that_did_not_change_are_not_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, read, whole = tmp_path / "seen.json", list[str](), folders.file_sha256

    def counted(path: Path) -> str:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(folders, "file_sha256", counted)
    first = hash_folder(folder, seen)
    assert sorted(read) == ["a.bmp", "b.bmp", "labels.csv"]
    (folder / "jpg" / "b.bmp").write_bytes(b"three")
    second = hash_folder(folder, seen)
    assert read[3:] == ["b.bmp"]
    assert second != first
    for broken in (b"", b"[]", b'{"jpg/a.bmp": 3}', b'{"jpg/a.bmp": []}'):
        seen.write_bytes(broken)
        assert hash_folder(folder, seen) == second
    monkeypatch.setattr(
        checks, "MANY", 2
    )  # more are known by their sizes, all but the ground truth
    read.clear()
    many = hash_folder(folder, seen)
    assert read == ["labels.csv"]
    (folder / "jpg" / "c.bmp").write_bytes(b"four")
    assert hash_folder(folder, seen) != many
