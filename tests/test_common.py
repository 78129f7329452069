import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from dagf import common
from dagf.console import announced, progress
from dagf.errors import UserError, choose, name_fault, printable, shown
from dagf.files import (
    atomic_folder,
    atomic_path,
    canonical_json,
    code_only,
    content_hash,
    file_sha256,
    read_json,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_in_mid_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_written_file_is_readable_by_all_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    with atomic_path(path) as temporary:
        temporary.write_text("{}")
        assert temporary.parent == path.parent  # a rename works inside one file system only
        assert temporary.suffix == ".json"  # writers such as numpy.save look at it
        assert not path.exists()
    assert path.read_text() == "{}"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["a.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_told_by_the_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(common.os, "fsync", full)
    with pytest.raises(UserError, match=os.strerror(code)) as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_name_that_no_file_can_have_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    for path, said in (
        (tmp_path / "a.txt" / "b", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(OSError) as caught:
            path.read_text()
        assert name_fault(caught.value).endswith(f" cannot be a file or folder: {said}")
    assert (
        name_fault(OSError(errno.ENOTDIR, "of no file"))
        == name_fault(FileNotFoundError(2, "gone", "a"))
        == ""
    )


def test_a_full_disk_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(common.tempfile, "mkstemp", full)
    monkeypatch.setattr(common.tempfile, "mkdtemp", full)
    with pytest.raises(UserError, match=r"a\.txt: No space left"):
        write_text(tmp_path / "a.txt", "new")
    with (
        pytest.raises(UserError, match="folder: No space left"),
        atomic_folder(tmp_path / "folder"),
    ):
        pass
    assert names(tmp_path) == []


def test_other_faults_of_the_work_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "input").read_text()
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: Permission denied"):
        write_text(closed / "a.txt", "x")
    with pytest.raises(UserError, match="Permission denied"), atomic_folder(closed / "a"):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with pytest.raises(ZeroDivisionError), atomic_folder(folder) as temporary:
        (temporary / "half").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    with atomic_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("whole")
        assert not folder.exists()
    assert (folder / "inner" / "a").read_text() == "whole"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert names(tmp_path) == ["data"]


def test_a_filled_folder_is_not_replaced_but_an_empty_one_is(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("first")
    with pytest.raises(OSError, match="not empty"), atomic_folder(folder) as temporary:
        (temporary / "a").write_text("second")
    assert (folder / "a").read_text() == "first"
    assert names(tmp_path) == ["data"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left, other = tmp_path / ".data.abcdefgh.part", tmp_path / ".database.abcdefgh.part"
    for folder in (left, other):
        folder.mkdir()
    with atomic_folder(tmp_path / "data"):
        assert not left.exists()
    assert names(tmp_path) == [other.name, "data"]


def test_the_folder_of_a_longer_name_being_filled_is_left_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "run.1") as temporary:
        with atomic_folder(tmp_path / "run"):
            pass
        (temporary / "a").write_text("whole")
    assert names(tmp_path) == ["run", "run.1"]


def test_names_are_suggested() -> None:
    assert choose("variant", "gem", ["spoc", "gem"]) == "gem"
    with pytest.raises(
        UserError, match=r"unknown variant 'spok': did you mean 'spoc'\? known: gem, spoc"
    ):
        choose("variant", "spok", ["spoc", "gem"])
    with pytest.raises(UserError) as caught:
        choose("variant", "xyz", ["spoc", "gem"])
    assert str(caught.value) == "unknown variant 'xyz': known: gem, spoc"


def test_equal_values_have_one_hash() -> None:
    one, other = {"b": [1, 2.5], "a": None}, {"a": None, "b": (1, 2.5)}
    assert content_hash(one) == content_hash(other)
    assert canonical_json(one) == '{"a":null,"b":[1,2.5]}'
    assert content_hash({"b": [2.5, 1], "a": None}) != content_hash(one)
    assert content_hash(b"abc") == "ba7816bf8f01"  # FIPS 180-2, appendix B.1
    assert content_hash(b"abc", 4) == "ba78"
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash({"a": float("nan")})


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


CODE = """
def double(x: int) -> int:
    if x > "2":
        return not x
    return 2 * x
"""
SAME = [
    CODE.replace("def", '"""A module."""\n\n\ndef', 1),
    CODE.replace("int:\n", 'int:\n    """Twice."""\n'),
    CODE.replace("int:\n", 'int:\n    """Twice,\n\n    or more."""\n\n'),
    CODE.replace("    return 2", "\n    # twice\n    return 2"),
    CODE.replace("2 * x", "2*x  # twice"),
    CODE.replace("    ", "  "),
    CODE.replace("(x: int)", "(\n    x: int  # a number\n)"),
    CODE.strip(),
]
OTHER = [
    CODE.replace("2 *", "3 *"),
    CODE.replace('> "2"', '> "3"'),
    CODE.replace('> "2"', '< "2"'),
    CODE.replace("not x", "notx"),
    CODE.replace("    return 2", "        return 2"),
    CODE.replace("    return 2", "return 2"),
    CODE.replace("double", "Double"),
    CODE + '"a".join(x)\n',
]


@pytest.mark.parametrize("source", SAME)
def test_comments_docstrings_and_layout_are_not_code(source: str) -> None:
    assert code_only(source) == code_only(CODE)


def test_all_the_rest_is_code() -> None:
    assert (
        len({code_only(source) for source in [CODE, *OTHER, CODE + '"b".join(x)\n']})
        == len(OTHER) + 2
    )


def test_a_docstring_alone_may_come_and_change() -> None:
    assert code_only('def f():\n    """One."""\n') == code_only(
        "def f():\n    '''Two.'''  # three\n"
    )


def test_json_comes_back_and_is_fit_for_git(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 0.1], "a": "é"})
    assert read_json(path) == {"a": "é", "b": [1, 0.1]}
    text = path.read_text(encoding="utf-8")
    assert text.index('"a": "é"') < text.index('"b"')
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8"))["a"] == "é"


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\xff\xfe", b"[" * 200_000])
def test_broken_json_names_the_file_and_the_remedy(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"is not valid JSON .* delete it and make it again"
    ) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"is not valid JSON .*\); get it again$"):
        read_json(path, "get it again")


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*a\.json: No such file"):
        read_json(tmp_path / "a.json")


def test_no_bar_in_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(common.HEADLESS, "1")
    assert common.headless()
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.delenv(common.HEADLESS)
    assert not common.headless()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_bar_counts_amounts_and_one_process_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str
) -> None:
    monkeypatch.delenv(common.HEADLESS, raising=False)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(
        "tqdm.auto.tqdm",
        lambda **options: tqdm(**options | {"delay": 0, "mininterval": 0, "miniters": 1}),
    )
    assert list(progress(["ab", "c"], "counting", 3, "letter", len)) == ["ab", "c"]
    assert ("3/3" in capsys.readouterr().err) == (rank == "0")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_cannot_be_counted_is_announced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str
) -> None:
    monkeypatch.delenv(common.HEADLESS, raising=False)
    monkeypatch.setenv("RANK", rank)
    with announced("training, which takes a while"):
        said = capsys.readouterr().err
    assert said.strip() == ("training, which takes a while" if rank == "0" else "")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"file": name, "other": "é"})
    assert read_json(tmp_path / "a.json") == {"file": name, "other": "é"}
    assert content_hash([name]) != content_hash(["café"])
    assert content_hash(["é"]) == hashlib.sha256('["é"]'.encode()).hexdigest()[:12]


def test_what_a_terminal_is_shown() -> None:
    assert printable("plain é\nnext", lines=True) == "plain é\nnext"
    assert printable("plain é\nnext") == "plain é\\nnext"
    assert printable("\x1b[2J\r\x9b" + os.fsdecode(b"\xe9")) == "\\x1b[2J\\r\\x9b\\udce9"


def test_a_value_in_a_message_is_short_and_one_line() -> None:
    many: list[Any] = ["x"]
    for _ in range(30):
        many = [many] * 9
    for value in (many, "a\nb" * 10**6, 10**5000, {"a": many}, 1 << 20000):
        assert len(shown(value)) < 1000
        assert "\n" not in shown(value)
    assert shown([1, "a"]) == "[1, 'a']"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "write error in a.faiss: 3 != 7 (No space left on device)"
        ),  # as FAISS says it
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
        OSError("4096 requested and 512 written"),  # as NumPy says it
        OSError("encoder error -2 when writing image file"),  # as Pillow says it
    ],
)
def test_a_full_disk_as_libraries_tell_it(tmp_path: Path, error: Exception) -> None:
    match = r"cannot write .*a: (No space left on device|the disk took only a part)"
    for place in (atomic_path, atomic_folder):
        with pytest.raises(UserError, match=match), place(tmp_path / "a"):
            raise error
        assert names(tmp_path) == []
