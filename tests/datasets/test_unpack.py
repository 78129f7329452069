"""What an honest archive holds comes out; of another, nothing leaves the folder."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dagf.datasets import unpack as module
from dagf.datasets.unpack import unpack
from dagf.errors import UserError

PHOTO = os.urandom(3000)
Entry = tuple[str, bytes, str]  # name; content, or where a link points; "", "link", "device"
TYPES = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}


def make_tar(path: Path, entries: list[Entry], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content, kind in entries:
            info = tarfile.TarInfo(name)
            if kind:
                info.type = TYPES[kind]
                info.linkname = content.decode()
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, entries: list[Entry]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content, kind in entries:
            info = zipfile.ZipInfo(name)
            mode = {"link": stat.S_IFLNK, "device": stat.S_IFCHR}.get(kind, 0)
            info.external_attr = (mode | 0o644) << 16
            packed.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


MAKERS: dict[str, Callable[[Path, list[Entry]], Path]] = {
    "tgz": make_tar,
    "tar": lambda path, entries: make_tar(path, entries, "w"),
    "zip": make_zip,
}
HONEST: list[Entry] = [
    ("top/a.jpg", PHOTO, ""),
    ("./top/b/c.jpg", b"c", ""),
    ("top/x", b"", ""),
]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "out"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("kind", MAKERS)
def test_keep_flatten_and_strip(tmp_path: Path, out: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", HONEST)
    assert unpack(archive, out / "0") == 3
    assert names(out / "0") == ["top/a.jpg", "top/b/c.jpg", "top/x"]
    assert (out / "0" / "top" / "a.jpg").read_bytes() == PHOTO
    assert unpack(archive, out / "1", keep="*.jpg", flatten=True) == 2
    assert names(out / "1") == ["a.jpg", "c.jpg"]
    for _ in range(2):  # a second time, as after a kill
        assert unpack(archive, out / "2", strip="top") == 3
    assert names(out / "2") == ["a.jpg", "b/c.jpg", "x"]
    assert unpack(archive, out / "3", strip="to", keep="*top/b/*") == 1
    assert names(out / "3") == ["top/b/c.jpg"]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil"])
def test_no_name_leaves_the_folder(tmp_path: Path, out: Path, kind: str, name: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", [(name, b"evil", "")])
    try:
        unpack(archive, out)
    except UserError as error:
        assert "would be extracted" in str(error)
    assert not Path("/evil").exists()
    assert all(file == "a" or file.startswith("outer/out/") for file in names(tmp_path))


@pytest.mark.parametrize("kind", MAKERS)
def test_no_link_or_device_is_made(tmp_path: Path, out: Path, kind: str) -> None:
    entries: list[Entry] = [("d/x", b"x", ""), ("l", b"/etc", "link"), ("tty", b"", "device")]
    entries += [("l/evil", b"evil", "")] if kind != "zip" else []
    unpack(MAKERS[kind](tmp_path / "a", entries), out)
    assert (out / "d" / "x").read_bytes() == b"x"
    assert all(path.is_dir() or stat.S_ISREG(path.lstat().st_mode) for path in out.rglob("*"))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_bomb_is_refused(
    tmp_path: Path, out: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = MAKERS[kind](tmp_path / "a", [("zeros", bytes(2**20), "")])
    monkeypatch.setattr(module, "FLOOR", 1000)
    monkeypatch.setattr(module, "RATIO", 0)
    for keep in ("*", "nothing"):
        with pytest.raises(UserError, match="refused: it unpacks to far more"):
            unpack(archive, out, keep)
    assert "zeros" not in names(out)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_broken_archive_is_one_line(tmp_path: Path, out: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", [("photo", PHOTO, "")])
    whole = archive.read_bytes()
    damaged = whole[:600] + b"damage" * 20 + whole[720:] if kind != "tar" else whole[:1500]
    for data in (b"<html>not found</html>", whole[: len(whole) // 4], whole[:1500], damaged):
        archive.write_bytes(data)
        with pytest.raises(UserError, match=r"cannot be unpacked \(.*\): delete it") as caught:
            unpack(archive, out)
        assert "\n" not in str(caught.value)
