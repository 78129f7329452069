import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagf import files
from dagf.errors import UserError
from tests.fixtures import fails


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_replaces_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    with files.atomic_path(path) as temporary:
        temporary.write_text("{}")
        assert temporary.parent == path.parent  # a rename works inside one file system only
        assert temporary.suffix == ".json"  # writers such as numpy.save look at it
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "{}"
    assert path.stat().st_mode & 0o444 == 0o444
    assert names(path.parent) == ["a.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read_a_file(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "a", "a")
        with files.atomic_path(tmp_path / "b") as temporary:
            temporary.touch(0o604)  # as a library does that knows better
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [mode, mode]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder, other = tmp_path / "data", tmp_path / ".database.abcdefgh"
    for left in (tmp_path / ".data.abcdefgh", other):  # of killed runs
        left.mkdir()
    with pytest.raises(ZeroDivisionError), files.atomic_folder(folder) as temporary:
        (temporary / "half").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == [other.name]
    folder.mkdir()  # an empty one may be there
    with files.atomic_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("whole")
        assert not any(folder.iterdir())
    assert (folder / "inner" / "a").read_text() == "whole"
    with pytest.raises(UserError, match="not empty; n"), files.atomic_folder(folder) as temporary:
        (temporary / "a").write_text("second")
    assert names(folder) == ["inner"]
    assert names(tmp_path) == [other.name, "data"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("4096 requested and 512 written"), "the disk took only a part of it"),  # NumPy's
    ],
)
def test_a_fault_of_the_disk_is_one_line(tmp_path: Path, error: OSError, words: str) -> None:
    says = f"^cannot write {tmp_path / 'a'}: {words}; nothing was changed there$"
    with pytest.raises(UserError, match=says), files.atomic_path(tmp_path / "a"):
        raise error


def test_equal_values_have_one_hash(tmp_path: Path) -> None:
    one, other = {"b": [1, 2.5], "a": None}, {"a": None, "b": (1, 2.5)}
    assert files.content_hash(one) == files.content_hash(other)
    assert files.content_hash(one) == files.content_hash(b'{"a":null,"b":[1,2.5]}')
    assert files.content_hash({"b": [2.5, 1], "a": None}) != files.content_hash(one)
    fields = {"files": [], "hidden": [], "links": [], "unread": {}}
    assert files.content_hash([files.Walk()]) == files.content_hash([fields])
    assert files.content_hash(b"abc", 4) == "ba78"  # FIPS 180-2, appendix B.1
    assert files.content_hash(["é"]) == hashlib.sha256('["é"]'.encode()).hexdigest()[:12]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.content_hash({"a": float("nan")})
    (tmp_path / "a").write_bytes(b"abc")
    assert files.file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_json_comes_back_and_is_fit_for_git(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": [1, 0.1], "a": "é"})
    assert files.read_json(path) == json.loads(path.read_bytes()) == {"a": "é", "b": [1, 0.1]}
    text = path.read_text(encoding="utf-8")
    assert text.index('"a": "é"') < text.index('"b"')
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\xff\xfe"])
def test_broken_json_names_the_file_and_the_remedy(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    fails(r"a\.json is not valid JSON .*; get it again", files.read_json, path, "get it again")
    fails(r"cannot read .*b\.json: No such file", files.read_json, tmp_path / "b.json")


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_folder_is_walked_once_through_links(tmp_path: Path) -> None:
    outside = made(tmp_path / "outside", "deep/x.jpg")
    home = made(tmp_path / "home", "IMG_10.jpg", "img_9.jpg", "2/a.jpg", "10/a.jpg")
    others = [".hidden", "@eaDir", "@EADIR", "#Recycle", "@Recycle", "#snapshot", "2/.thumb"]
    made(home, "._IMG_10.jpg", *(f"{name}/a.jpg" for name in others))
    (home / "1-link").symlink_to(outside)
    (outside / "back").symlink_to(home)  # a loop
    for again, of in (("again", outside), ("inner", home / "2"), ("self", home)):
        (home / again).symlink_to(of)
    (home / "file.jpg").symlink_to(outside / "deep" / "x.jpg")
    (home / "gone.jpg").symlink_to(home / "nothing.jpg")
    found = files.walk(home)
    expected = ["1-link/deep/x.jpg", "2/a.jpg", "10/a.jpg", "file.jpg", "img_9.jpg", "IMG_10.jpg"]
    ordered = sorted(found.files, key=files.natural)
    assert [str(file.relative_to(home)) for file in ordered] == expected
    assert {*found.hidden} == {home / name for name in (*others, "._IMG_10.jpg")}
    assert {path.name for path in found.links} == {"again", "inner", "self", "gone.jpg", "back"}
    assert not found.unread
    through = files.walk(home / "1-link")  # the folder itself may be one
    assert home / "1-link" / "deep" / "x.jpg" in through.files and len(through.files) == 6


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, scandir = made(tmp_path / "home", "a.jpg", "b/c.jpg"), os.scandir
    (home / "loop.jpg").symlink_to("loop.jpg")

    def listed(folder: Path) -> Iterator[os.DirEntry[str]]:
        if folder == home / "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(files.os, "scandir", listed)
    found, loop = files.walk(home), "Too many levels of symbolic links"
    assert found.unread == {home / "loop.jpg": loop, home / "b": "Permission denied"}
    assert found.files == [home / "a.jpg"]
