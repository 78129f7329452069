"""Downloads from a server here that does what servers do: drop, lie, redirect, refuse."""

import hashlib
import json
import os
import pickle
import re
import socket
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dagf.datasets import download
from dagf.datasets.download import SOURCE, fetch, get, unpack
from dagf.datasets.public import DataSet, RemoteFile, read_manifest
from dagf.errors import UserError
from tests.datasets.sets import Quiet, make_tar, make_zip, serving
from tests.fixtures import fails

BODY = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "a.tgz": make_tar,
    "a.tar": lambda path, files: make_tar(path, files, "w"),
    "a.zip": make_zip,
}


@dataclass
class Behaviour:
    """What the server has and does, by path."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=lambda: {"a.bin": BODY})
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)  # how often the connection ends midway
    moved: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[int]] = field(default_factory=dict)
    etag: str = '"one"'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setattr(download, "BLOCK", 2**14)
    monkeypatch.setenv("NO_PROXY", "*")
    state = Behaviour()

    class Handler(Quiet):
        """/NAME with Range support; /plain/NAME without; /page/NAME is called a web page."""

        def do_GET(self) -> None:
            way, _, name = self.path.rpartition("/")
            state.asked.append((self.path, self.headers.get("Range")))
            if state.faults.get(self.path):
                self.send_error(state.faults[self.path].pop(0))
            elif self.path in state.moved:
                self.send_response(302)
                self.send_header("Location", state.moved[self.path])
                self.end_headers()
            elif name not in state.files:
                self.send_error(404)
            else:
                self.serve(way, state.files[name])

        def serve(self, way: str, body: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            current = self.headers.get("If-Range") == state.etag
            start = int(wanted[1]) if wanted and current and way != "/plain" else 0
            if start == len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if way != "/chunkless":
                self.send_header("Content-Length", str(len(body) - start))
            if way == "/page":
                self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("ETag", state.etag)
            self.end_headers()
            if state.drops.get(self.path, 0) > 0:
                state.drops[self.path] -= 1
                self.wfile.write(body[start : start + (len(body) - start) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.wfile.write(body[start:])
            self.close_connection = True

    with serving(Handler) as state.port:
        yield state


def remote(server: Behaviour, *paths: str, **more: Any) -> RemoteFile:
    base = f"http://127.0.0.1:{server.port}"
    return RemoteFile(file=paths[-1].rpartition("/")[2], mirrors=[base + p for p in paths], **more)


def got(file: RemoteFile, folder: Path) -> str:
    """The end of the address."""
    source = fetch(file, folder)
    assert (folder / file.file).read_bytes() == BODY
    assert (source["bytes"], source["sha256"]) == (len(BODY), SHA256)
    address: str = source["address"]
    return address.partition("//")[2].partition("/")[2] or address


def test_a_file_that_is_here_is_verified_only(server: Behaviour, tmp_path: Path) -> None:
    for _ in range(2):  # asked again, as after a kill
        assert got(remote(server, "/a.bin", sha256=SHA256), tmp_path) == "a.bin"
    assert len(server.asked) == 1
    (tmp_path / "b.bin").write_bytes(BODY)
    assert got(remote(server, "/b.bin"), tmp_path) == "put here by hand"


def test_a_dropped_connection_is_taken_up_where_it_ended(server: Behaviour, tmp_path: Path) -> None:
    server.drops["/a.bin"] = 4
    got(remote(server, "/a.bin"), tmp_path)
    starts = [int(re.sub(r"\D", "", wanted or "0")) for _, wanted in server.asked]
    assert len(starts) == 5
    assert starts == sorted(set(starts))
    server.drops["/plain/a.bin"] = 2  # without ranges all is sent again: no new byte
    (tmp_path / "a.bin").unlink()
    says = r"cannot get a\.bin \(http://.*/plain/a\.bin: .*to go on"
    fails(says, fetch, remote(server, "/plain/a.bin"), tmp_path)
    got(remote(server, "/plain/a.bin"), tmp_path)


@pytest.mark.parametrize(
    ("size", "change", "wanted"),
    [
        (1000, {}, "bytes=1000-"),
        (1000, {"version": '"old"'}, "bytes=1000-"),  # which the server answers with the whole
        (1000, {"url": "http://other/a.bin"}, None),
        (1000, {"version": None}, None),
        (len(BODY), {}, f"bytes={len(BODY)}-"),  # killed just before it gets its name
    ],
)
def test_a_killed_download_goes_on(
    server: Behaviour, tmp_path: Path, size: int, change: dict[str, Any], wanted: str | None
) -> None:
    file = remote(server, "/a.bin", sha256=SHA256)
    note = {"url": file.mirrors[0], "version": server.etag} | change
    (tmp_path / "a.bin.part").write_bytes(bytes(size) if change else BODY[:size])
    (tmp_path / "a.bin.part.json").write_text(json.dumps(note))
    got(file, tmp_path)
    assert server.asked == [("/a.bin", wanted)]


def test_a_bad_mirror_is_passed_over_and_a_passing_fault(server: Behaviour, tmp_path: Path) -> None:
    server.moved = {"/file/a.bin": tmp_path.as_uri(), "/moved/a.bin": "/a.bin"}
    server.faults["/503/a.bin"] = [503] * 99
    for number, bad in enumerate(("/missing/x.bin", "/page/a.bin", "/file/a.bin", "/503/a.bin")):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert got(remote(server, bad, "/moved/a.bin"), folder) == "moved/a.bin"
    server.faults["/chunkless/a.bin"] = [503, 429, 500]
    got(remote(server, "/chunkless/a.bin"), tmp_path)  # whose length nobody tells


def test_an_md5_beside_the_file(server: Behaviour, tmp_path: Path) -> None:
    texts = {"md5": f"{MD5}  a.bin\n", "bad": "0" * 32, "none": "hello"}
    server.files |= {f"{name}.txt": text.encode() for name, text in texts.items()}
    base = f"http://127.0.0.1:{server.port}"
    says = {"none": r"none\.txt has no md5", "gone": "404", "bad": r"MD5 hash .* does not match"}
    for name, said in says.items():
        assert not list(tmp_path.glob("a.bin*"))  # nothing is fetched for nothing
        fails(said, fetch, remote(server, "/a.bin", md5_from=f"{base}/{name}.txt"), tmp_path)
    got(remote(server, "/a.bin", md5_from=f"{base}/md5.txt"), tmp_path)


def a_set(*files: RemoteFile, name: str = "small", **more: Any) -> DataSet:
    given = [one.model_dump() for one in files]
    return DataSet(name=name, title="a set", files=given, folder=f"test/{name}", **more)


@pytest.fixture
def photos(server: Behaviour, tmp_path: Path) -> dict[str, DataSet]:
    """A set of two archives and a ground truth, and one that needs it."""
    for number in (1, 2):
        files = {f"x/{number}{n}.jpg": BODY for n in range(3)} | {"x/notes.txt": b""}
        server.files[f"{number}.tgz"] = make_tar(tmp_path / "x", files).read_bytes()
    server.files["gnd_small.pkl"] = pickle.dumps({"imlist": ["10", "11"]}, 2)
    archives = [remote(server, f"/{n}.tgz", into="jpg", members=r"x/(.+\.jpg)") for n in (1, 2)]
    files = (*archives, remote(server, "/gnd_small.pkl"))
    return {
        "small": a_set(*files, holds={"jpg/*": 6, "*.pkl": None}, notes="a note"),
        "other": a_set(remote(server, "/a.bin"), name="other", needs=("small",)),
    }


def test_a_set_and_its_needs(server: Behaviour, photos: dict[str, DataSet], tmp_path: Path) -> None:
    data, said = tmp_path / "data", list[str]()
    assert download.state(photos["small"], data) == "not here"
    get(["other"], photos, data, said.append)
    home = data / "test" / "small"
    names = ["gnd_small.json", "gnd_small.pkl", "jpg", SOURCE]
    assert sorted(path.name for path in home.iterdir()) == names
    assert json.loads((home / "gnd_small.json").read_text()) == {"imlist": ["10", "11"]}
    images = [f"{i}{j}.jpg" for i in (1, 2) for j in range(3)]
    assert sorted(path.name for path in (home / "jpg").iterdir()) == images
    assert (data / "test" / "other" / "a.bin").read_bytes() == BODY
    assert not [path for path in (data / "downloads").iterdir() if path.is_dir()]
    sources = json.loads((home / SOURCE).read_text())
    assert sources["1.tgz"]["sha256"] == hashlib.sha256(server.files["1.tgz"]).hexdigest()
    assert "small: a note" in said
    assert f"a.bin: {len(BODY)} bytes, sha256 {SHA256}" in said
    server.asked.clear()
    get(["other", "small"], photos, data, said.append)  # here: checked, not fetched
    assert server.asked == []
    assert download.state(photos["small"], data) == "here"
    (home / "jpg" / "10.jpg").unlink()
    says = r"has 5 files jpg/\* \(expected 6\): move it away"
    fails(says, get, ["small"], photos, data, said.append)
    (home / "gnd_small.pkl").unlink()
    fails(r"0 files \*\.pkl \(expected some\)", get, ["small"], photos, data, said.append)


def test_stopped_sets_go_on(server: Behaviour, photos: dict[str, DataSet], tmp_path: Path) -> None:
    """Each file that fails ends a run; what was unpacked before is not fetched again."""
    fine = server.files["2.tgz"]
    server.files["2.tgz"] = fine[:200]
    for why in (r"2\.tgz cannot be unpacked", "cannot get gnd_small.pkl"):
        server.faults["/gnd_small.pkl"] = [404]
        fails(why, get, ["small"], photos, tmp_path)
        assert download.state(photos["small"], tmp_path) == "begun"
        assert not (tmp_path / "test").exists()
        server.files["2.tgz"] = fine
    get(["small"], photos, tmp_path)
    asked = [path for path, _ in server.asked]
    assert asked == ["/1.tgz", "/2.tgz", "/2.tgz", "/gnd_small.pkl", "/gnd_small.pkl"]
    fails("unknown data set 'smal': did you mean 'small'", get, ["smal"], photos, tmp_path)


@pytest.fixture
def umask_of_a_group() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", MAKERS)
def test_the_wanted_members_come_out(tmp_path: Path, name: str, umask_of_a_group: None) -> None:
    files = {"top/a.jpg": b"a", "./top/b/c.jpg": b"c", "top/x": b""}
    archive = MAKERS[name](tmp_path / name, files)
    for members, expected in (
        ("(.+)", ["top/a.jpg", "top/b/c.jpg", "top/x"]),
        (r"(?:.*/)?([^/]+\.jpg)", ["a.jpg", "c.jpg"]),
        ("(?:top/)?(.+)", ["a.jpg", "b/c.jpg", "x"]),
        ("top/(b/.+)", ["b/c.jpg"]),
    ):
        out = tmp_path / str(len(expected)) / expected[-1]
        for _ in range(2):  # a second time, as after a kill
            unpack(archive, out, members)
        assert {path.stat().st_mode & 0o777 for path in out.rglob("*.jpg")} == {0o640}
        found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        assert sorted(found) == expected
        assert next(out.rglob("c.jpg")).read_bytes() == b"c"


def test_an_archive_inside_is_unpacked_in_its_place(tmp_path: Path) -> None:
    inner = make_tar(tmp_path / "inner", {"images/a.jpg": BODY, "notes": b""}).read_bytes()
    outer = tmp_path / "a.tar.gz"
    for content in (inner, inner[:90]):
        make_tar(outer, {"top/x.tar.gz": content, "top/list.txt": b"a.jpg"})
        if content == inner:
            unpack(outer, tmp_path / "out", r"top/(images/.+|.+\.txt)")
    found = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {tmp_path / "out" / name for name in ("images/a.jpg", "list.txt")}
    fails(r"/a\.tar\.gz cannot be unpacked \(.*x\.tar\.gz", unpack, outer, tmp_path / "out", "(.+)")
    assert not outer.exists()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("evil", ["../evil", "a/../../evil", "/evil"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str, evil: str) -> None:
    (tmp_path / "outer").mkdir()
    archive = MAKERS[name](tmp_path / "outer" / name, {evil: b"evil"})
    try:
        unpack(archive, tmp_path / "outer" / "out", "(.+)")
    except UserError as error:
        assert "outside the destination" in str(error)
    assert not Path("/evil").exists()
    assert all("out" in path.parts for path in tmp_path.rglob("evil"))


def test_no_link_comes_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("d/l")
        link.type, link.linkname = tarfile.SYMTYPE, "."
        tar.addfile(link)
    unpack(tmp_path / "a.tar", tmp_path / "out", "(.+)")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", MAKERS)
def test_a_broken_archive_is_one_line_and_deleted(tmp_path: Path, name: str) -> None:
    archive = MAKERS[name](tmp_path / name, {"photo": os.urandom(3000)})
    whole = archive.read_bytes()
    damaged = whole[:600] + b"damage" * 20 + whole[720:]
    for data in (b"<html>not found</html>", whole[:1500], *([damaged] if name != "a.tar" else [])):
        archive.write_bytes(data)
        fails(r"cannot be unpacked \(.*\): get it", unpack, archive, tmp_path / "out", "(.+)")
        assert not archive.exists()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"files": [{"file": "a", "mirrors": [], "archive": "zip"}]}, r"0\.files\.0\.archive"),
        ({"folder": 3}, r"0\.folder"),
        ({"shell": "rm"}, r"0\.shell"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    one = {"name": "x", "title": "x", "folder": "x", "files": []}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps([one]))
    assert list(read_manifest(path)) == ["x"]
    path.write_text(json.dumps([one | change]))
    fails(rf"manifest\.json is no manifest \({where}: .*: get it", read_manifest, path)
