"""Downloads from a server here that does what servers do: drop, lie, redirect, refuse."""

import hashlib
import http.server
import json
import pickle
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from filelock import FileLock

from dagf.cli import main
from dagf.datasets import download
from dagf.datasets.download import SOURCE, fetch, get
from dagf.datasets.manifest import DataSet, RemoteFile
from dagf.datasets.revisited import load_ground_truth
from dagf.errors import UserError
from dagf.paths import ROOT
from tests.datasets.test_unpack import make_tar

BODY = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


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
    monkeypatch.setenv("NO_PROXY", "*")
    state = Behaviour()

    class Handler(http.server.BaseHTTPRequestHandler):
        """/NAME with Range support; /plain/NAME without; /page/NAME is called a web page."""

        def log_message(self, *_: Any) -> None:
            pass

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

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        state.port = made.server_port
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        made.shutdown()
        thread.join()


def remote(server: Behaviour, *paths: str, **more: Any) -> RemoteFile:
    base = f"http://127.0.0.1:{server.port}"
    return RemoteFile(file=paths[-1].rpartition("/")[2], mirrors=[base + p for p in paths], **more)


def got(file: RemoteFile, folder: Path) -> tuple[str, str]:
    """The end of the address, and what was told of the checksum."""
    said = list[str]()
    source = fetch(file, folder, said.append)
    assert (folder / file.file).read_bytes() == BODY
    assert (source["bytes"], source["sha256"]) == (len(BODY), SHA256)
    assert SHA256 in said[0]
    return source["address"].partition("//")[2].partition("/")[2] or source["address"], said[0]


def test_a_file_and_what_is_told_of_it(server: Behaviour, tmp_path: Path) -> None:
    address, said = got(remote(server, "/a.bin"), tmp_path)
    assert (address, said.endswith("(in no manifest: recorded)")) == ("a.bin", True)
    assert "recorded" not in got(remote(server, "/a.bin", sha256=SHA256), tmp_path)[1]
    assert len(server.asked) == 1  # asked again, as after a kill, it is verified only
    (tmp_path / "b.bin").write_bytes(BODY)
    assert got(remote(server, "/b.bin"), tmp_path)[0] == "put here by hand"


def test_a_dropped_connection_is_taken_up_where_it_ended(server: Behaviour, tmp_path: Path) -> None:
    server.drops["/a.bin"] = 4
    got(remote(server, "/a.bin"), tmp_path)
    starts = [int(re.sub(r"\D", "", wanted or "0")) for _, wanted in server.asked]
    assert len(starts) == 5
    assert starts == sorted(set(starts))
    server.drops["/plain/a.bin"] = 2  # without ranges all is sent again
    (tmp_path / "a.bin").unlink()
    got(remote(server, "/plain/a.bin"), tmp_path)
    server.drops["/plain/a.bin"] = 99
    (tmp_path / "a.bin").unlink()
    with pytest.raises(UserError, match=r"cannot get a\.bin \(http://.*/plain/a\.bin: "):
        fetch(remote(server, "/plain/a.bin"), tmp_path, print)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, "bytes=1000-"),
        ({"version": '"old"'}, "bytes=1000-"),  # which the server answers with the whole
        ({"url": "http://other/a.bin"}, None),
        ({"version": None}, None),
    ],
)
def test_a_killed_download_goes_on(
    server: Behaviour, tmp_path: Path, change: dict[str, Any], wanted: str | None
) -> None:
    file = remote(server, "/a.bin")
    note = {"url": file.mirrors[0], "version": server.etag, "total": len(BODY)} | change
    (tmp_path / "a.bin.part").write_bytes((BODY[:1000], b"x" * 1000)[bool(change)])
    (tmp_path / "a.bin.part.json").write_text(json.dumps(note))
    got(file, tmp_path)
    assert server.asked == [("/a.bin", wanted)]


def test_a_whole_part_is_verified_and_not_fetched_again(server: Behaviour, tmp_path: Path) -> None:
    """As a kill leaves it while the checksum is computed."""
    file = remote(server, "/a.bin", sha256=SHA256)
    note = {"url": file.mirrors[0], "version": server.etag, "total": len(BODY)}
    for body in (BODY, bytes(len(BODY))):
        (tmp_path / "a.bin.part").write_bytes(body)
        (tmp_path / "a.bin.part.json").write_text(json.dumps(note))
        if body == BODY:
            got(file, tmp_path)
            (tmp_path / "a.bin").unlink()
        else:
            with pytest.raises(UserError, match=r"SHA256 hash .* does not match"):
                fetch(file, tmp_path, print)
        assert server.asked == []
    got(file, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.bin.part.json"]


def test_a_bad_mirror_is_passed_over(server: Behaviour, tmp_path: Path) -> None:
    server.files["wrong/a.bin"] = b""
    server.moved = {"/file/a.bin": tmp_path.as_uri(), "/moved/a.bin": "/a.bin"}
    server.faults["/503/a.bin"] = [503] * 99
    for number, bad in enumerate(("/missing/x.bin", "/page/a.bin", "/file/a.bin", "/503/a.bin")):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert got(remote(server, bad, "/moved/a.bin"), folder)[0] == "moved/a.bin"
    server.files["b.bin"] = b"wrong"
    with pytest.raises(UserError, match=r"b\.bin: SHA256 hash .* does not match"):
        fetch(remote(server, "/b.bin", sha256=SHA256), tmp_path, print)
    assert not (tmp_path / "b.bin").exists()


def test_passing_faults_and_a_length_that_nobody_tells(server: Behaviour, tmp_path: Path) -> None:
    server.faults["/chunkless/a.bin"] = [503, 429, 500]
    got(remote(server, "/chunkless/a.bin"), tmp_path)


def test_an_md5_beside_the_file(server: Behaviour, tmp_path: Path) -> None:
    texts = {"md5": f"{MD5}  a.bin\n", "bad": "0" * 32, "none": "hello"}
    server.files |= {f"{name}.txt": text.encode() for name, text in texts.items()}
    base = f"http://127.0.0.1:{server.port}"
    got(remote(server, "/a.bin", md5_from=f"{base}/md5.txt"), tmp_path)
    (tmp_path / "a.bin").unlink()
    for name, why in (
        ("bad", "MD5 hash .* does not match"),
        ("none", "holds no md5"),
        ("x", "404"),
    ):
        with pytest.raises(UserError, match=why):
            fetch(remote(server, "/a.bin", md5_from=f"{base}/{name}.txt"), tmp_path, print)


def a_set(*files: RemoteFile, name: str = "small", **more: Any) -> DataSet:
    more = {"expected": {}, "folder": f"test/{name}", **more}
    return DataSet(name=name, title="a set", files=[one.model_dump() for one in files], **more)


@pytest.fixture
def photos(server: Behaviour, tmp_path: Path) -> dict[str, DataSet]:
    """A set of two archives and a ground truth, and one that needs it."""
    for number in (1, 2):
        members = [(f"x/{number}{n}.jpg", BODY, "") for n in range(3)]
        server.files[f"{number}.tgz"] = make_tar(tmp_path / "x", members).read_bytes()
    entry = {"bbx": [1, 2, 3, 4], "ok": [0], "junk": [1]}
    truth = {"imlist": ["10", "11"], "qimlist": ["20"], "gnd": [entry]}
    server.files["gnd_small.pkl"] = pickle.dumps(truth, 2)
    options: dict[str, Any] = {"archive": "tgz", "into": "jpg", "flatten": True, "keep": "*.jpg"}
    archives = [remote(server, f"/{n}.tgz", **options) for n in (1, 2)]
    counts = {"queries": 1, "database": 2, "ok": 1, "junk": 1}
    expected = {"files": {"jpg/*.jpg": 6}, "benchmark": counts}
    files = (*archives, remote(server, "/gnd_small.pkl"))
    return {
        "small": a_set(*files, expected=expected, notes="a note"),
        "other": a_set(remote(server, "/a.bin"), name="other", needs=("small",)),
    }


def test_a_set_and_what_it_needs(
    server: Behaviour, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    data, said = tmp_path / "data", list[str]()
    assert download.state(photos["small"], data) == "not here"
    get(["other"], photos, data, said.append)
    home = data / "test" / "small"
    names = ["gnd_small.json", "gnd_small.pkl", "jpg", SOURCE]
    assert sorted(path.name for path in home.iterdir()) == names
    assert load_ground_truth(home / "gnd_small.json") == pickle.loads(server.files["gnd_small.pkl"])
    images = [f"{i}{j}.jpg" for i in (1, 2) for j in range(3)]
    assert sorted(path.name for path in (home / "jpg").iterdir()) == images
    assert (data / "test" / "other" / "a.bin").read_bytes() == BODY
    assert not [path for path in (data / "downloads").iterdir() if path.is_dir()]
    sources = json.loads((home / SOURCE).read_text())
    assert sources["1.tgz"]["sha256"] == hashlib.sha256(server.files["1.tgz"]).hexdigest()
    assert "small: a note" in said
    server.asked.clear()
    get(["other", "small"], photos, data, said.append)  # here: checked, not fetched
    assert server.asked == []
    assert download.state(photos["small"], data) == "here"
    (home / "jpg" / "10.jpg").unlink()
    with pytest.raises(UserError, match=r"has 5 files jpg/\*\.jpg \(expected 6\): move it away"):
        get(["small"], photos, data, said.append)


def test_a_stopped_set_goes_on(
    server: Behaviour, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    """Each file that fails ends a run; what was unpacked before is not fetched again."""
    for name in ("2.tgz", "gnd_small.pkl"):
        server.faults[f"/{name}"] = [404]
        with pytest.raises(UserError, match=f"cannot get {name}"):
            get(["small"], photos, tmp_path)
        assert download.state(photos["small"], tmp_path) == "begun"
    get(["small"], photos, tmp_path)
    asked = [path for path, _ in server.asked]
    assert asked == ["/1.tgz", "/2.tgz", "/2.tgz", "/gnd_small.pkl", "/gnd_small.pkl"]


def test_a_set_that_is_not_as_expected_gets_no_name(
    server: Behaviour, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    truth = pickle.loads(server.files["gnd_small.pkl"])
    truth["gnd"][0]["junk"] = []
    server.files["gnd_small.pkl"] = pickle.dumps(truth, 2)
    with pytest.raises(UserError, match=r"small has gnd_small\.pkl: 0 junk \(expected 1\): delete"):
        get(["small"], photos, tmp_path)
    assert not (tmp_path / "test").exists()
    server.asked.clear()
    small = photos["small"]
    loose = small.model_copy(
        update={"expected": small.expected.model_copy(update={"exact": False})}
    )
    said = list[str]()
    get(["small"], {"small": loose}, tmp_path, said.append)
    assert server.asked == []  # nothing is fetched twice
    assert "small: gnd_small.pkl: 0 junk (expected 1)" in said


def test_a_broken_archive_is_fetched_again(
    server: Behaviour, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    fine = server.files["2.tgz"]
    outside = make_tar(tmp_path / "h", [("../../evil.jpg", b"", "")]).read_bytes()
    empty = make_tar(tmp_path / "e", [("a.txt", b"", "")]).read_bytes()
    for data, why in ((fine[:200], "cannot be unpacked"), (empty, r"holds no \*\.jpg")):
        server.files["2.tgz"] = data
        with pytest.raises(UserError, match=rf"2\.tgz {why}"):
            get(["small"], photos, tmp_path / "data")
        assert not list((tmp_path / "data").rglob("2.tgz"))
    server.files["2.tgz"] = outside
    with pytest.raises(UserError, match=r"\d files jpg/\*\.jpg \(expected 6\)"):
        get(["small"], photos, tmp_path / "data")
    assert [path.parent.name for path in tmp_path.rglob("evil.jpg")] == ["jpg"]


def test_a_full_disk_is_told_before_anything_is_asked(
    server: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(tmp_path)._replace(free=download.SPARE + 1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    large = {"small": a_set(remote(server, "/a.bin", bytes=2 * 10**9))}
    with pytest.raises(UserError, match=r"small needs about 2\.0 GB .*0\.3 GB are free: make room"):
        get(["small"], large, tmp_path)
    assert server.asked == []


def test_two_at_once_and_unknown_names(photos: dict[str, DataSet], tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    with (
        FileLock(tmp_path / "downloads" / "small.lock"),
        pytest.raises(UserError, match="by another process"),
    ):
        get(["small"], photos, tmp_path)
    with pytest.raises(UserError, match="unknown data set 'smal': did you mean 'small'"):
        get(["smal"], photos, tmp_path)


def test_the_command(server: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, str(tmp_path))
    (tmp_path / "data").mkdir()
    one = a_set(remote(server, "/a.bin", bytes=307200), name="x").model_dump(mode="json")
    (tmp_path / "data" / "manifest.json").write_text(json.dumps({"format": 2, "sets": [one]}))

    def run(*words: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["data", *words])
        return result.exit_code, result.stdout, result.stderr

    *toytowns, public = run("list")[1].splitlines()
    pattern = r"toytown-[\w.-]+  \w+ profile, not made"
    assert toytowns and all(re.fullmatch(pattern, one) for one in toytowns)
    assert re.fullmatch(r"x +not here +0\.3 MB  a set", public)
    code, said, _ = run("get", "x")
    assert code == 0
    assert SHA256 in said
    assert re.fullmatch(r"x +here .*", run("list")[1].splitlines()[-1])
    assert run("get")[0] == 2
    assert run("get", "y")[2] == "dagf: unknown data set 'y': known: x\n"
