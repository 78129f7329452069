"""Hostile archives are made here, and refused; what an honest one holds comes out as it went in."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dagf.datasets import unpack
from dagf.datasets.unpack import Limits, extract, looks_like
from dagf.errors import UserError
from tests.bars import Bar, watch

PHOTO = os.urandom(3000)
Entry = tuple[
    str, bytes, str
]  # name; content, or where a link points; "", "link", "hard", "device", "folder"
TYPES = {
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "folder": tarfile.DIRTYPE,
}
MODES = {"link": stat.S_IFLNK, "device": stat.S_IFCHR}


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
            info = zipfile.ZipInfo(name + ("/" if kind == "folder" else ""))
            info.external_attr = (MODES.get(kind, 0) | 0o644) << 16
            packed.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


MAKERS: dict[str, Callable[[Path, list[Entry]], Path]] = {
    "tgz": make_tar,
    "tar": lambda path, entries: make_tar(path, entries, "w"),
    "zip": make_zip,
}


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "out"
    folder.mkdir(parents=True)
    return folder


HONEST: list[Entry] = [
    ("top", b"", "folder"),
    ("top/a.jpg", PHOTO, ""),
    ("./top/b/c.jpg", b"c", ""),
    ("top/x", b"", ""),
]


@pytest.mark.parametrize("kind", MAKERS)
def test_an_honest_archive(tmp_path: Path, out: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", HONEST)
    assert looks_like(archive, kind)
    assert [looks_like(archive, other) for other in MAKERS if other != kind] == [False, False]
    assert extract(archive, kind, out) == 3
    assert names(out) == ["top/a.jpg", "top/b/c.jpg", "top/x"]
    assert (out / "top" / "a.jpg").read_bytes() == PHOTO


@pytest.mark.parametrize(("kind", "total"), [("zip", 4), ("tar", None), ("tgz", None)])
def test_the_bar_knows_the_members_where_the_archive_lists_them(
    tmp_path: Path, out: Path, kind: str, total: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = watch(unpack, monkeypatch)
    extract(MAKERS[kind](tmp_path / "a", HONEST), kind, out)
    assert bars == [Bar("unpacking a", total, 4)]


@pytest.mark.parametrize("kind", MAKERS)
def test_keep_flatten_and_strip(tmp_path: Path, out: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", HONEST)
    assert extract(archive, kind, out / "1", keep="*.jpg", flatten=True) == 2
    assert names(out / "1") == ["a.jpg", "c.jpg"]
    assert extract(archive, kind, out / "2", strip="top") == 3
    assert names(out / "2") == ["a.jpg", "b/c.jpg", "x"]
    assert extract(archive, kind, out / "3", strip="to", keep="top/b/*") == 1
    assert names(out / "3") == ["top/b/c.jpg"]


OUTSIDE = ["../evil", "a/../../evil", "/evil", "a/..", "..", "C:/evil", "..\\evil", "a\nb"]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_is_refused(tmp_path: Path, out: Path, kind: str, name: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", [(name, b"evil", "")])
    for keep in ("*", "nothing"):  # whether it is wanted or not
        with pytest.raises(UserError, match=r"is refused: its member '.*' would lie outside"):
            extract(archive, kind, out, keep=keep)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "../../x", "b/../../../x", "C:\\x"])
def test_a_link_that_leaves_is_refused(tmp_path: Path, out: Path, kind: str, target: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", [("l", target.encode(), "link")])
    with pytest.raises(UserError, match="its link 'l' leaves the folder"):
        extract(archive, kind, out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("kind", ["tgz", "tar"])
def test_a_hard_link_that_leaves_is_refused(tmp_path: Path, out: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", [("d/l", b"../x", "hard")])
    with pytest.raises(UserError, match="its link 'd/l' leaves the folder"):
        extract(archive, kind, out)


@pytest.mark.parametrize("kind", MAKERS)
def test_links_inside_become_files(tmp_path: Path, out: Path, kind: str) -> None:
    entries: list[Entry] = [("d/a", PHOTO, ""), ("d/l", b"a", "link"), ("e/l", b"../d/a", "link")]
    assert extract(MAKERS[kind](tmp_path / "a", entries), kind, out) == 3
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / "e" / "l").read_bytes() == (out / "d" / "l").read_bytes() == PHOTO


@pytest.mark.parametrize("kind", MAKERS)
def test_writing_through_a_link_is_impossible(tmp_path: Path, out: Path, kind: str) -> None:
    entries: list[Entry] = [("d/x", b"x", ""), ("l", b"d", "link"), ("l/evil", b"evil", "")]
    with pytest.raises(UserError, match="its link 'l' points at no file of it"):
        extract(MAKERS[kind](tmp_path / "a", entries), kind, out)
    assert not (out / "d" / "evil").exists()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_device_is_refused(tmp_path: Path, out: Path, kind: str) -> None:
    with pytest.raises(UserError, match="its member 'tty' is a device"):
        extract(MAKERS[kind](tmp_path / "a", [("tty", b"", "device")]), kind, out)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("second", ["a/b", "a/b/c", "a"])
def test_two_members_of_one_name_are_refused(
    tmp_path: Path, out: Path, kind: str, second: str
) -> None:
    archive = MAKERS[kind](tmp_path / "x", [("a/b", b"1", ""), (second, b"2", "")])
    with pytest.raises(UserError, match=r"cannot be unpacked .*delete it and get it again"):
        extract(archive, kind, out)
    assert (out / "a" / "b").read_bytes() == b"1"


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_bomb_is_refused(tmp_path: Path, out: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", [("zeros", bytes(2**20), "")])
    with pytest.raises(
        UserError, match=r"is refused: it unpacks to far more .*get it from its authors"
    ):
        extract(archive, kind, out, limits=Limits(floor=1000))  # the ratio
    assert sum(path.stat().st_size for path in out.rglob("*")) <= 2**20 // 4
    with pytest.raises(UserError, match="unpacks to far more"):
        extract(archive, kind, out / "total", limits=Limits(total=2**20 - 1, ratio=10**6))
    with pytest.raises(
        UserError, match="unpacks to far more"
    ):  # what is not wanted is unpacked nowhere, but counts
        extract(archive, kind, out, keep="nothing", limits=Limits(floor=1000))
    many = MAKERS[kind](tmp_path / "b", [(str(n), b"", "") for n in range(9)])
    with pytest.raises(UserError, match="more than 8 members"):
        extract(many, kind, out, limits=Limits(members=8))


def header(kind: bytes, content: bytes, claimed: int = 0) -> bytes:
    """An extended header of a tar with this content, which may be less than it claims."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, claimed or len(content)
    return info.tobuf() + content + bytes(-len(content) % 512)


def attribute(key: str, value: str) -> bytes:
    """One attribute as a pax header has it; its length counts itself, here always of seven digits."""
    return f"{len(key) + len(value) + 10:07} {key}={value}\n".encode()


BLOATED = {
    "a long name": header(tarfile.GNUTYPE_LONGNAME, b"a" * 2**12, 2**30),
    "a long target": header(tarfile.GNUTYPE_LONGLINK, b"a" * 2**12, 2**30),
    "attributes": header(tarfile.XHDTYPE, b"a" * 2**12, 2**30),
    "attributes of all": b"".join(header(tarfile.XGLTYPE, attribute(f"k{n}", "v" * 2**18)) for n in range(6)),
    "holes": header(tarfile.GNUTYPE_SPARSE, b""),
    "holes, newer": header(
        tarfile.XHDTYPE, attribute("GNU.sparse.major", "1") + attribute("GNU.sparse.minor", "0")
    ) + header(tarfile.REGTYPE, b"1\n0\n1\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", BLOATED)
def test_headers_that_would_fill_the_memory_are_refused(
    tmp_path: Path, out: Path, what: str
) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(BLOATED[what] + bytes(2**12))
    reason = (
        "a file with holes"
        if "holes" in what
        else r"a header of \d+ bytes, expected at most 1048576"
    )
    with pytest.raises(UserError, match=rf"a\.tar cannot be unpacked \({reason}"):
        extract(archive, "tar", out)
    assert not names(out)


def test_long_names_and_attributes_are_read(tmp_path: Path, out: Path) -> None:
    long = "/".join(["folder" * 10] * 5) + "/" + "x" * 120
    for place, form in ((out / "gnu", tarfile.GNU_FORMAT), (out / "pax", tarfile.PAX_FORMAT)):
        with tarfile.open(
            tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "of all"}
        ) as tar:
            tar.addfile(tarfile.TarInfo(long))
        place.mkdir()
        assert extract(tmp_path / "a.tar", "tar", place) == 1
        assert (place / long).is_file()


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path: Path, out: Path) -> None:
    archive = make_zip(tmp_path / "a", [("zeros", bytes(2**20), "")])
    data = archive.read_bytes().replace((2**20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be unpacked|unpacks to far more"):
        extract(archive, "zip", out, limits=Limits(floor=1000))
    assert sum(path.stat().st_size for path in out.rglob("*")) <= 10


@pytest.mark.parametrize("kind", MAKERS)
def test_a_broken_archive_is_one_line(tmp_path: Path, out: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path / "a", [("photo", PHOTO, "")])
    whole = archive.read_bytes()
    for number, data in enumerate(
        [b"", b"<html>not found</html>", whole[: len(whole) // 4], whole[:1500]]
    ):
        archive.write_bytes(data)
        if kind == "tar" and not data:
            continue
        with pytest.raises(
            UserError, match=r"cannot be unpacked \(.*\): delete it and get it again"
        ) as caught:
            extract(archive, kind, out / str(number))
        assert "\n" not in str(caught.value)
