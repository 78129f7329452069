"""A file's content is read once, and again when its size or its times change."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from dagf.datasets import contents
from dagf.datasets.contents import Contents, remembered
from tests.fixtures import fails


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of one size, and a ground truth."""
    (tmp_path / "photos" / "jpg").mkdir(parents=True)
    for name, content in (("jpg/a.bmp", "one"), ("jpg/b.bmp", "two"), ("labels.csv", "file")):
        (tmp_path / "photos" / name).write_text(content)
    return tmp_path / "photos"


def test_files_of_one_size_that_change_places_are_noticed(folder: Path, tmp_path: Path) -> None:
    kept, (one, two) = remembered(tmp_path), sorted((folder / "jpg").iterdir())
    before = kept.folder_hash(folder)
    for path in (one, two):
        os.utime(path, ns=(10**18, 10**18))
    assert kept.folder_hash(folder) == before
    kept.save()
    one.rename(tmp_path / "spare")
    two.rename(one)
    (tmp_path / "spare").rename(two)
    changed = remembered(tmp_path).folder_hash(folder)
    assert changed == Contents().folder_hash(folder) != before
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


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    assert Contents().folder_hash(folder / "nothing") == ""
    fails(r"cannot read .*a\.jpg \(No such file", Contents().sha256, folder / "a.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    fails(r"cannot read .*loop\.jpg \(Too many levels.*: make it", Contents().folder_hash, folder)


def test_what_lies_behind_a_link_counts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    seen = [Contents().folder_hash(folder)]
    for again in (folder / "jpg", tmp_path / "one"):  # where labels may name a file
        for content in ("one", "changed"):
            (tmp_path / "one" / "a.jpg").write_text(content)
            for name, of in (("link", tmp_path / "one"), ("again", again)):
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(of)
            seen.append(Contents().folder_hash(folder))
    assert len({*seen}) == 5
