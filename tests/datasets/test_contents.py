"""A file's content is read once, and again when its size or its times change."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from dagf.datasets import contents
from dagf.datasets.contents import Contents, remembered
from dagf.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of one size, and a ground truth."""
    (tmp_path / "photos" / "jpg").mkdir(parents=True)
    for name, content in (("jpg/a.bmp", "one"), ("jpg/b.bmp", "two"), ("labels.csv", "file")):
        (tmp_path / "photos" / name).write_text(content)
    return tmp_path / "photos"


def test_files_of_one_size_that_change_places_are_noticed(folder: Path, tmp_path: Path) -> None:
    kept = remembered(tmp_path)
    before = kept.folder_hash(folder)
    one, two, spare = folder / "jpg" / "a.bmp", folder / "jpg" / "b.bmp", tmp_path / "spare"
    for path in (one, two):
        os.utime(path, ns=(10**18, 10**18))
    assert kept.folder_hash(folder) == before
    kept.save()
    one.rename(spare)
    two.rename(one)
    spare.rename(two)
    changed = remembered(tmp_path).folder_hash(folder)
    assert changed != before
    assert Contents().folder_hash(folder) == changed
    assert remembered(tmp_path).sha256(one) == sha256(b"two").hexdigest()


def test_a_file_is_read_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, whole = list[str](), contents.file_sha256

    def counted(path: Path) -> str:
        read.append(path.name)
        return whole(path)

    def asked() -> str:
        kept = Contents(tmp_path / "kept.json")
        found = kept.folder_hash(folder)
        kept.save()
        return found

    monkeypatch.setattr(contents, "file_sha256", counted)
    first = asked()
    assert sorted(read) == ["a.bmp", "b.bmp", "labels.csv"]
    (folder / "jpg" / "b.bmp").write_bytes(b"three")
    (folder / ".hidden").touch()
    second = asked()
    assert read[3:] == ["b.bmp"]
    assert second != first
    (tmp_path / "kept.json").write_bytes(b"{")
    assert asked() == second
    monkeypatch.setattr(contents, "MANY", 2)
    read.clear()
    many = Contents().folder_hash(folder)
    assert read == ["labels.csv"]  # the others are known by their sizes
    (folder / "jpg" / "c.bmp").write_bytes(b"four")
    assert Contents().folder_hash(folder) != many


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert Contents().folder_hash(tmp_path / "nothing") == ""
    with pytest.raises(UserError, match=r"cannot read .*a\.jpg \(No such file"):
        Contents().sha256(tmp_path / "a.jpg")


def test_what_lies_behind_a_link_counts(folder: Path, tmp_path: Path) -> None:
    plain = Contents().folder_hash(folder)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_text("the same")
    (folder / "link").symlink_to(tmp_path / "one")
    (folder / "again").symlink_to(folder / "jpg")
    seen = [plain, Contents().folder_hash(folder)]
    (tmp_path / "one" / "a.jpg").write_text("changed")
    seen.append(Contents().folder_hash(folder))
    (folder / "again").unlink()
    (folder / "again").symlink_to(tmp_path / "one")  # where labels may name a file
    seen.append(Contents().folder_hash(folder))
    assert len({*seen}) == 4


def test_a_folder_that_cannot_be_read_is_named(bound: Path) -> None:
    (bound / "photos" / "inner").mkdir(parents=True)
    (bound / "photos" / "inner").chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*inner \(Permission denied\): make it"):
        Contents().folder_hash(bound / "photos")
