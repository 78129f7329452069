"""Downloads from a server on this machine that does what servers do: drop, lie, redirect, refuse."""

import hashlib
import http.server
import json
import pickle
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from filelock import FileLock

from dagf.cli import main
from dagf.datasets import download, transfer
from dagf.datasets.download import SOURCE, get
from dagf.datasets.manifest import ARCHIVES, DataSet, Expected, RemoteFile, read_manifest
from dagf.datasets.public import DISTRACTORS, LOADERS
from dagf.datasets.revisited import COUNTS, load_ground_truth
from dagf.datasets.transfer import fetch, forget
from dagf.errors import UserError
from dagf.files import file_sha256
from dagf.paths import ROOT
from tests.datasets.test_unpack import make_tar

BODY = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
MANIFEST = Path(__file__).parents[2] / "data" / "manifest.json"


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    drops: dict[str, int]  # path -> how many more times the connection ends midway
    moved: dict[str, str]
    etags: dict[str, str]
    faults: dict[str, list[int]]


class Handler(http.server.BaseHTTPRequestHandler):
    """/NAME with Range support; /plain/NAME without; /long/NAME and /short/NAME lie about the length."""

    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, self.path
        server.asked.append((path, self.headers.get("Range")))
        way, _, name = path.rpartition("/")
        if server.faults.get(path):
            self.send_error(server.faults[path].pop(0))
        elif path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[path])
            self.end_headers()
        elif name not in server.files:
            self.send_error(404)
        else:
            self.serve(path, way, server.files[name])

    def serve(self, path: str, way: str, body: bytes) -> None:
        start, etag = 0, self.server.etags.get(path)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        current = self.headers.get("If-Range") in (None, etag)
        if wanted and current and way != "/plain":
            start = int(wanted[1])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        lie = {"/long": 1000, "/short": -1000}.get(way, 0)
        if way != "/chunkless":
            self.send_header("Content-Length", str(len(body) - start + lie))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.server.drops.get(path, 0) > 0:
            self.server.drops[path] -= 1
            self.wfile.write(body[start : start + (len(body) - start) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(body[start:])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")
    with Server(("127.0.0.1", 0), Handler) as made:
        made.files, made.asked, made.drops = {"a.bin": BODY}, [], {}
        made.moved, made.etags, made.faults = {}, {}, {}
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def remote(server: Server, *paths: str, file: str = "a.bin", **more: Any) -> RemoteFile:
    base = f"http://127.0.0.1:{server.server_port}"
    return RemoteFile(file, tuple(path if "://" in path else base + path for path in paths), **more)


def leave_part(path: Path, data: bytes, **state: Any) -> None:
    path.with_name(f"{path.name}.part").write_bytes(data)
    path.with_name(f"{path.name}.part.json").write_text(json.dumps(state))


def test_a_file_and_what_is_told_of_it(server: Server, tmp_path: Path) -> None:
    source = fetch(remote(server, "/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert (source.bytes, source.sha256) == (len(BODY), SHA256)
    assert source.address.endswith("/a.bin")
    assert (
        fetch(remote(server, "/a.bin"), tmp_path / "a.bin") == source
    )  # as a run that was killed since asks again
    assert len(server.asked) == 1
    forget(tmp_path / "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_dropped_connection_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.drops["/a.bin"] = 3
    fetch(remote(server, "/a.bin", sha256=SHA256), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(server.asked) == 4
    starts = [int(re.sub(r"\D", "", wanted or "0")) for _, wanted in server.asked]
    assert starts == sorted(set(starts))


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.drops["/plain/a.bin"] = 2
    fetch(remote(server, "/plain/a.bin", sha256=SHA256), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    server.drops["/plain/a.bin"] = 99
    with pytest.raises(
        UserError, match=r"mirror 1, a\.bin: the connection ended at \d+ of \d+ bytes"
    ):
        fetch(remote(server, "/plain/a.bin"), tmp_path / "b.bin")


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    leave_part(path, BODY[:1000])  # with a checksum, at any mirror
    fetch(remote(server, "/a.bin", sha256=SHA256), path)
    assert server.asked == [("/a.bin", "bytes=1000-")]
    assert path.read_bytes() == BODY
    address = remote(server, "/a.bin").mirrors[0]
    for state, wanted in (
        ({"address": address, "total": len(BODY)}, "bytes=1000-"),
        (
            {"address": "http://other/a.bin", "total": len(BODY)},
            None,
        ),  # without a checksum: another version, perhaps
        ({}, None),
    ):
        path.unlink()
        leave_part(path, BODY[:1000], **state)
        server.asked.clear()
        assert fetch(remote(server, "/a.bin"), path).sha256 == SHA256
        assert server.asked == [("/a.bin", wanted)]


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    address = remote(server, "/a.bin").mirrors[0]
    server.etags["/a.bin"] = '"new"'
    leave_part(path, b"old" * 100, address=address, validator='"old"', total=len(BODY))
    assert fetch(remote(server, "/a.bin"), path).sha256 == SHA256
    server.etags.clear()
    for total, data in (
        (len(BODY) + 5, b"old" * 100),
        (2 * len(BODY), BODY + b"x"),
    ):  # another size; 416
        path.unlink()
        leave_part(path, data, address=address, total=total)
        assert fetch(remote(server, "/a.bin"), path).sha256 == SHA256
    path.unlink()
    leave_part(path, b"old" * 100)  # the checksum tells
    assert fetch(remote(server, "/a.bin", sha256=SHA256), path).sha256 == SHA256
    assert server.asked[-2:] == [("/a.bin", "bytes=300-"), ("/a.bin", None)]


@pytest.mark.parametrize("first", ["/missing/x.bin", "/other.bin", "/long/a.bin", "/short/a.bin"])
def test_a_bad_mirror_is_passed_over(server: Server, tmp_path: Path, first: str) -> None:
    server.files["other.bin"] = b"wrong" * 60
    file = remote(server, first, "/a.bin", sha256=SHA256)
    assert fetch(file, tmp_path / "a.bin").address.endswith("/a.bin")
    assert file_sha256(tmp_path / "a.bin") == SHA256


def test_what_is_wrong_is_one_line_with_the_remedy(server: Server, tmp_path: Path) -> None:
    server.files["other.bin"] = b"wrong" * 60
    server.files["empty.bin"] = b""
    file = remote(server, "/gone.bin", "/other.bin", "/empty.bin", sha256=SHA256)
    with pytest.raises(UserError) as caught:
        fetch(file, tmp_path / "a.bin")
    assert str(caught.value) == (
        "cannot get a.bin (mirror 1, gone.bin: HTTP 404; mirror 2, other.bin: its sha256 is another; mirror 3, "
        f"empty.bin: it is empty): start the same command again to go on, or put it at {tmp_path / 'a.bin'}"
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=f"it has 300 bytes, expected {len(BODY)}"):
        fetch(remote(server, "/other.bin", bytes=len(BODY)), tmp_path / "a.bin")
    with pytest.raises(UserError, match="it is no tgz archive"):
        fetch(remote(server, "/other.bin", archive="tgz"), tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"mirror 1, a\.bin: .*refused"):
        fetch(remote(server, "http://127.0.0.1:9/a.bin"), tmp_path / "a.bin")


def test_a_passing_fault_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.faults["/a.bin"] = [503, 429, 500]
    fetch(remote(server, "/a.bin"), tmp_path / "a.bin")
    server.faults["/a.bin"] = [503] * 9
    with pytest.raises(UserError, match="HTTP 503"):
        fetch(remote(server, "/a.bin"), tmp_path / "b.bin")


def test_redirects_stay_on_the_web(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    server.moved = {
        "/moved": "/a.bin", "/file": secret.as_uri(), "/ftp": "ftp://127.0.0.1/a.bin", "/round": "/round",
    }  # fmt: skip
    assert fetch(remote(server, "/moved"), tmp_path / "a.bin").sha256 == SHA256
    for path, why in (("/file", "HTTP 302"), ("/ftp", "not http or https"), ("/round", "HTTP 302")):
        with pytest.raises(UserError, match=why):
            fetch(remote(server, path), tmp_path / "b.bin")


def test_a_length_that_nobody_tells(server: Server, tmp_path: Path) -> None:
    assert fetch(remote(server, "/chunkless/a.bin"), tmp_path / "a.bin").sha256 == SHA256


def test_an_md5_beside_the_file(server: Server, tmp_path: Path) -> None:
    server.files |= {
        "md5.txt": f"{MD5}  a.bin\n".encode(),
        "bad.txt": b"0" * 32,
        "none.txt": b"hello",
    }
    base = f"http://127.0.0.1:{server.server_port}"
    assert (
        fetch(remote(server, "/a.bin", md5_from=f"{base}/md5.txt"), tmp_path / "a.bin").sha256
        == SHA256
    )
    for name, why in (
        ("bad", "its md5 is another"),
        ("none", "holds no md5"),
        ("gone", r"gone\.txt: HTTP 404"),
    ):
        with pytest.raises(UserError, match=why):
            fetch(remote(server, "/a.bin", md5_from=f"{base}/{name}.txt"), tmp_path / "b.bin")


def test_a_file_put_there_by_hand(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(BODY)
    assert fetch(remote(server, "/gone.bin", sha256=SHA256), path).address == "put here by hand"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=r"a\.bin is not the file that was asked for .*delete it"):
        fetch(remote(server, "/a.bin", sha256=SHA256), path)
    assert server.asked == []


def test_a_full_disk_is_told_before_anything_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = transfer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        transfer.shutil, "disk_usage", lambda _: usage._replace(free=transfer.SPARE + 1000)
    )
    with pytest.raises(UserError, match=r"a\.bin needs about 0\.0 GB in .*: make room"):
        fetch(remote(server, "/a.bin"), tmp_path / "a.bin")  # what the server says
    server.asked.clear()
    with pytest.raises(
        UserError, match=r"small needs about 2\.0 GB in .*0\.3 GB are free: make room"
    ):
        get(["small"], {"small": a_set(remote(server, "/a.bin", about_bytes=2 * 10**9))}, tmp_path)
    assert server.asked == []


def a_set(
    *files: RemoteFile, name: str = "small", expected: Expected | None = None, **more: Any
) -> DataSet:
    return DataSet(
        name,
        "a set",
        f"test/{name}",
        more.pop("needs", ()),
        files,
        expected or Expected({}),
        **more,
    )


@pytest.fixture
def photos(server: Server, tmp_path: Path) -> dict[str, DataSet]:
    """A set of two archives and a ground truth, and one that needs it."""
    for number in (1, 2):
        packed = make_tar(
            tmp_path / f"{number}.tgz", [(f"x/{number}{n}.jpg", BODY, "") for n in range(3)]
        )
        server.files[packed.name] = packed.read_bytes()
    truth = {
        "imlist": ["10", "11"],
        "qimlist": ["20"],
        "gnd": [{"bbx": [1, 2, 3, 4], "ok": [0], "junk": [1]}],
    }
    server.files["gnd_small.pkl"] = pickle.dumps(truth, 2)
    options: dict[str, Any] = {"archive": "tgz", "into": "jpg", "flatten": True, "keep": "*.jpg"}
    archives = [remote(server, f"/{n}.tgz", file=f"{n}.tgz", **options) for n in (1, 2)]
    counts = {"file": "gnd_small.pkl", "queries": 1, "database": 2, "ok": 1, "junk": 1}
    small = a_set(
        *archives, remote(server, "/gnd_small.pkl", file="gnd_small.pkl"),
        expected=Expected({"jpg/*.jpg": 6}, counts), notes="a note",
    )  # fmt: skip
    other = a_set(remote(server, "/a.bin", sha256=SHA256), name="other", needs=("small",))
    return {"small": small, "other": other}


def test_a_set_and_what_it_needs(
    server: Server, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    data, said = tmp_path / "data", list[str]()
    assert download.state(photos["small"], data) == "not here"
    get(["other"], photos, data, said.append)
    home = data / "test" / "small"
    assert sorted(path.name for path in home.iterdir()) == [
        "gnd_small.json",
        "gnd_small.pkl",
        "jpg",
        SOURCE,
    ]
    assert load_ground_truth(home / "gnd_small.json") == pickle.loads(server.files["gnd_small.pkl"])
    assert sorted(path.name for path in (home / "jpg").iterdir()) == [
        f"{i}{j}.jpg" for i in (1, 2) for j in range(3)
    ]
    assert (data / "test" / "other" / "a.bin").read_bytes() == BODY
    assert not [path for path in (data / "downloads").iterdir() if path.is_dir()]
    sources = json.loads((home / SOURCE).read_text())
    assert sources["1.tgz"]["sha256"] == hashlib.sha256(server.files["1.tgz"]).hexdigest()
    assert any(sources["1.tgz"]["sha256"] in line and "recorded" in line for line in said)
    assert "small: a note" in said
    assert not any("recorded" in line for line in said if line.startswith("a.bin"))
    server.asked.clear()
    get(["other", "small"], photos, data, said.append)  # here: checked, not fetched
    assert server.asked == []
    assert download.state(photos["small"], data) == "here"
    left = data / "downloads" / "small" / "1.tgz.unpacked"  # by a kill just before the end
    left.mkdir(parents=True)
    get(["small"], photos, data, said.append)
    assert not left.parent.exists()
    (home / "jpg" / "10.jpg").unlink()
    left.mkdir(parents=True)  # what may be of use once the set is moved away stays
    with pytest.raises(
        UserError, match=r"small has 5 files jpg/\*\.jpg \(expected 6\): move it away"
    ):
        get(["small"], photos, data)
    assert left.exists()


def test_an_unfinished_set_has_no_name_and_goes_on(
    server: Server, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    data, home = tmp_path / "data", tmp_path / "data" / "test" / "small"
    server.faults["/2.tgz"] = [404]
    with pytest.raises(UserError, match=r"cannot get 2\.tgz"):
        get(["small"], photos, data)
    assert not home.exists()
    assert download.state(photos["small"], data) == "begun"
    server.asked.clear()
    truth = server.files.pop("gnd_small.pkl")
    with pytest.raises(UserError, match=r"cannot get gnd_small\.pkl"):
        get(["small"], photos, data)
    assert [path for path, _ in server.asked] == [
        "/2.tgz",
        "/gnd_small.pkl",
    ]  # 1.tgz is unpacked already
    server.files["gnd_small.pkl"] = truth
    whole = (
        data / "downloads" / "small" / "whole" / "jpg"
    )  # a kill while the parts were being brought together
    whole.mkdir(parents=True)
    (data / "downloads" / "small" / "1.tgz.unpacked" / "jpg" / "11.jpg").replace(whole / "11.jpg")
    get(["small"], photos, data)
    assert len(list((home / "jpg").iterdir())) == 6


def test_what_is_not_as_the_manifest_says(
    server: Server, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    data, said = tmp_path / "data", list[str]()
    truth = dict(photos["small"].expected.truth or {}, ok=2)
    wrong = Expected({"jpg/*.jpg": 7, "*.pkl": None, "*.txt": None}, truth)
    with pytest.raises(UserError) as caught:
        get(["small"], {"small": replace(photos["small"], expected=wrong)}, data)
    for part in (
        r"6 files jpg/\*\.jpg \(expected 7\); 0 files \*\.txt \(expected some\)",
        r"pkl: 1 ok \(expected 2\)",
    ):
        assert re.search(part, str(caught.value))
    assert not (data / "test" / "small").exists()
    server.asked.clear()
    get(
        ["small"],
        {"small": replace(photos["small"], expected=replace(wrong, exact=False))},
        data,
        said.append,
    )
    assert server.asked == []  # nothing is fetched twice
    assert "small: 6 files jpg/*.jpg (expected 7)" in said


def test_a_ground_truth_that_is_none_leaves_no_set(
    server: Server, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    """A few hundred bytes whose text as JSON is without end, and a list that holds itself."""
    endless = {
        "imlist": ["10", "11"],
        "qimlist": ["20"],
        "gnd": [{"ok": [0], "junk": [1]}],
        "more": ["x" * 99],
    }
    for _ in range(40):
        endless["more"] = [endless["more"]] * 2
    circular = {**endless, "more": list[Any]()}
    circular["more"].append(circular["more"])
    for value, why in ((endless, "more than 16777216 bytes"), (circular, "Circular")):
        server.files["gnd_small.pkl"] = pickle.dumps(value, 2)
        with pytest.raises(UserError, match=rf"gnd_small\.pkl cannot be kept as JSON \({why}"):
            get(["small"], photos, tmp_path / why[:4])
        assert not (tmp_path / why[:4] / "test" / "small").exists()
        assert not list(tmp_path.rglob("*gnd_small*.json"))


def test_a_list_is_counted(server: Server, tmp_path: Path) -> None:
    server.files["l.csv"] = b"id,images\n1,a b\n2,c\n"
    made = a_set(
        remote(server, "/l.csv", file="l.csv"),
        expected=Expected({}, None, {"l.csv": {"rows": 2, "items": 4}}),
    )
    with pytest.raises(UserError, match=r"small has l\.csv: 3 items \(expected 4\)"):
        get(["small"], {"small": made}, tmp_path)


def test_a_hostile_or_broken_archive_leaves_nothing(
    server: Server, photos: dict[str, DataSet], tmp_path: Path
) -> None:
    fine = server.files["2.tgz"]
    hostile = make_tar(
        tmp_path / "h", [("a.jpg", b"", ""), ("../../evil.jpg", b"", "")]
    ).read_bytes()
    empty = make_tar(tmp_path / "e", [("a.txt", b"", "")]).read_bytes()
    for data, why in (
        (hostile, "is refused"),
        (fine[:200], "cannot be unpacked"),
        (empty, r"holds no \*\.jpg"),
    ):
        server.files["2.tgz"] = data
        with pytest.raises(UserError, match=rf"2\.tgz {why}"):
            get(["small"], photos, tmp_path / "data")
        assert not list(tmp_path.rglob("evil.jpg"))
        assert not list((tmp_path / "data").rglob("2.tgz*"))  # so the next start fetches it again
    server.files["2.tgz"] = fine
    get(["small"], photos, tmp_path / "data")
    server.files["2.tgz"] = server.files["1.tgz"]
    with pytest.raises(UserError, match=r"small: two of its archives hold 10\.jpg"):
        get(["small"], photos, tmp_path / "again")


def test_two_at_once_and_unknown_names(photos: dict[str, DataSet], tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    with (
        FileLock(tmp_path / "downloads" / "small.lock"),
        pytest.raises(UserError, match="by another process"),
    ):
        get(["small"], photos, tmp_path)
    with pytest.raises(UserError, match="unknown data set 'smal': did you mean 'small'"):
        get(["smal"], photos, tmp_path)


def test_the_manifest() -> None:
    sets = read_manifest(MANIFEST)
    raw = json.loads(MANIFEST.read_text(encoding="utf-8"))
    assert list(sets) == [one["name"] for one in raw["sets"]]
    folders = [one.folder for one in sets.values()]
    assert len(set(folders)) == len(folders)
    for one in sets.values():
        assert one.title
        assert one.expected.files or one.expected.truth
        assert bool(one.unmeasured) == any(not file.checked for file in one.files), (
            one.name
        )  # null, and said so
        for file in one.files:
            assert file.archive in ARCHIVES
            assert all("{" not in address for address in file.mirrors)
            assert all(re.match("https?://", address) for address in file.mirrors)
            assert all(address.endswith(f"/{file.file}") for address in file.mirrors)
    assert [len(sets[name].files) for name in ("r1m", "gldv2", "oxford100k")] == [101, 502, 40]
    assert (
        sets["gldv2"].files[7].md5_from
        == "https://s3.amazonaws.com/google-landmark/md5sum/train/md5.images_007.txt"
    )
    assert sets["oxford100k"].files[0].file == "oxc1_100k.part01.rar"


def test_the_manifests_counts_are_the_protocols() -> None:
    sets = read_manifest(MANIFEST)
    truths = {
        name: {k: v for k, v in (one.expected.truth or {}).items() if k != "file"}
        for name, one in sets.items()
    }
    for name in ("oxford5k", "paris6k", "roxford5k", "rparis6k"):
        assert truths[name]
        assert truths[name] == {key: getattr(COUNTS[name], key) for key in truths[name]}
        assert sum(truths[name].values()) == sum(
            value for value in vars(COUNTS[name]).values() if type(value) is int
        )
    assert truths["oxford5k"] == {"queries": 55, "database": 5063, "ok": 2840, "junk": 1495}
    assert truths["paris6k"] == {"queries": 55, "database": 6392, "ok": 8955, "junk": 8245}
    for name in LOADERS:  # each lands where it is looked for
        assert name == "holidays-upright" or sets[name].folder == f"test/{name}"
    assert {name: folder for name, (folder, _) in DISTRACTORS.items()} == {
        name: sets[name].folder for name in DISTRACTORS
    }  # one name in `dagf data get`, `dagf data check` and `--distractors`
    files = {name: one.expected.files for name, one in sets.items()}
    assert files["oxford5k"]["jpg/*.jpg"] == 5063
    assert files["paris6k"]["jpg/*.jpg"] == 6392 + 20  # the corrupt ones
    assert files["r1m"] == {DISTRACTORS["r1m"][1]: 1_001_001}
    assert files["holidays"] == {"jpg/*.jpg": 1491, "jpg/*00.jpg": 500}
    assert list(files["ukbench"].values()) == [10_200]


def test_the_published_ground_truth_is_accepted(shared_data: Path) -> None:
    sets = read_manifest(MANIFEST)
    for name in ("roxford5k", "rparis6k"):
        (file,) = sets[name].files
        path = shared_data / "ground_truth" / file.file
        assert (path.stat().st_size, file_sha256(path)) == (file.bytes, file.sha256)
        assert download.differences(sets[name], path.parent) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "format 2"),
        ({"sets": [{}]}, "files"),
        ({"name": "../x"}, "the name"),
        ({"folder": "/etc"}, "the folder"),
        ({"folder": "a/../../b"}, "the folder"),
        ({"needs": ["nothing"]}, "a need"),
        ({"file": "../evil"}, "the file name"),
        ({"into": ".."}, "the folder"),
        ({"mirrors": ["file:///etc/passwd"]}, "the addresses"),
        ({"mirrors": ["ftp://host/a"]}, "the addresses"),
        ({"mirrors": []}, "the addresses"),
        ({"sha256": "abc"}, "the sha256"),
        ({"archive": "exe"}, "the archive"),
        ({"shell": "rm"}, "unknown keys"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    file: dict[str, Any] = {"file": "a", "mirrors": ["https://host/a"]}
    one: dict[str, Any] = {
        "name": "x",
        "title": "x",
        "folder": "x",
        "needs": [],
        "files": [file],
        "expected": {"files": {}},
    }
    whole: dict[str, Any] = {"format": 1, "sets": [one]}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(whole))
    assert list(read_manifest(path)) == ["x"]
    for key, value in change.items():
        next((level for level in (whole, one) if key in level), file)[key] = value
    path.write_text(json.dumps(whole))
    with pytest.raises(
        UserError, match=rf"manifest\.json is no manifest of this version \(.*{why}"
    ):
        read_manifest(path)


def test_the_command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, str(tmp_path))
    (tmp_path / "data").mkdir()
    address = f"http://127.0.0.1:{server.server_port}/a.bin"
    file = {"file": "a.bin", "mirrors": [address], "about_bytes": 307200}
    one = {
        "name": "x",
        "title": "a title",
        "folder": "test/x",
        "needs": [],
        "files": [file],
        "expected": {"files": {}},
    }
    (tmp_path / "data" / "manifest.json").write_text(json.dumps({"format": 1, "sets": [one]}))

    def run(*words: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["data", *words])
        return result.exit_code, result.stdout, result.stderr

    toytowns, public = run("list")[1].splitlines()[:-1], run("list")[1].splitlines()[-1]
    assert toytowns and all(
        re.fullmatch(r"toytown-[0-9a-f]{12}  \w+ profile, not made", one) for one in toytowns
    )
    assert re.fullmatch(r"x +not here +0\.3 MB  a title", public)
    code, said, _ = run("get", "x")
    assert code == 0
    assert SHA256 in said
    assert re.fullmatch(r"x +here .*", run("list")[1].splitlines()[-1])
    assert run("get") == (2, "", "dagf: name a data set to get: `dagf data list` shows them\n")
    assert run("get", "y")[2] == "dagf: unknown data set 'y': known: x\n"
