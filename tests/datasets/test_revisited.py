import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagf.datasets import revisited
from dagf.datasets.benchmark import EASY, from_ground_truth
from dagf.datasets.revisited import check_counts, keep_as_json, load_ground_truth, plain_file
from dagf.errors import UserError
from dagf.files import file_sha256

TRUTH = {
    "imlist": ["a", "b", "é"],
    "qimlist": ["q"],
    "gnd": [{"bbx": [1, 2.5, 300, 70000], "easy": [0], "hard": [2], "junk": []}],
}
MALICIOUS = {
    "GLOBAL": b"cos\nsystem\n.",
    "REDUCE": b"\x80\x02}}R.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(}o.",
    "NEWOBJ": b"\x80\x02}}\x81.",
    "NEWOBJ_EX": b"\x80\x04}}}\x92.",
    "BUILD": b"}}b.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pid\n.",
    "BINPERSID": b"}Q.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "TUPLE1": b"}\x85.",
    "LONG_BINPUT": b"}r\xff\xff\xff\x7f.",
    "PUT": b"}p99999999\n.",
}


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_load(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "gnd_x.pkl", pickle.dumps(TRUTH, protocol))
    assert load_ground_truth(path) == TRUTH


def test_json_is_the_same(tmp_path: Path) -> None:
    assert load_ground_truth(write(tmp_path / "gnd_x.json", json.dumps(TRUTH).encode())) == TRUTH


@pytest.mark.parametrize("opcode", MALICIOUS)
def test_every_opcode_beyond_plain_data_is_refused_by_name(tmp_path: Path, opcode: str) -> None:
    path = write(tmp_path / "gnd_x.pkl", MALICIOUS[opcode])
    with pytest.raises(UserError, match="refused") as caught:
        load_ground_truth(path)
    first = "STRING" if opcode == "INST" else opcode  # INST takes its arguments from text strings
    assert str(path) in str(caught.value)
    assert f" {first} " in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_never_runs(tmp_path: Path, protocol: int) -> None:
    fired = tmp_path / "fired"
    path = write(tmp_path / "gnd_x.pkl", pickle.dumps({**TRUTH, "x": Bomb(fired)}, protocol))
    with pytest.raises(UserError, match="refused"):
        load_ground_truth(path)
    assert not fired.exists()


@pytest.mark.parametrize("opcode", ["GLOBAL", "STACK_GLOBAL", "EXT1", "PERSID", "BINPERSID"])
def test_the_unpickler_is_a_second_wall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcode: str
) -> None:
    monkeypatch.setattr(revisited, "_PLAIN", {*revisited._PLAIN, opcode})
    with pytest.raises(UserError, match="not a valid pickle"):
        load_ground_truth(write(tmp_path / "gnd_x.pkl", MALICIOUS[opcode]))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(
            st.sampled_from([bytes([code]) for code in b"()]}aeustlh0jqr\x80\x94\x95XIJKM.N"]),
            max_size=30,
        ).map(b"".join),
    )
)
def test_any_bytes_give_a_dictionary_or_a_user_error(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "gnd_x.pkl", data)
    try:
        assert isinstance(load_ground_truth(path), dict)
    except UserError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
@given(st.data())
def test_a_damaged_pickle_gives_a_dictionary_or_a_user_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    good = pickle.dumps(TRUTH, 2)
    at, byte = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    path = write(tmp_path / "gnd_x.pkl", good[:at] + bytes([byte]) + good[at + 1 :])
    try:
        from_ground_truth("x", tmp_path, load_ground_truth(path))
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("gnd_x.pkl", pickle.dumps([1], 2), "holds a list"),
        ("gnd_x.pkl", b"", "not a valid pickle"),
        ("gnd_x.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 2**60), "not a valid pickle|refused"),
        ("gnd_x.json", b"[]", "holds a list"),
        ("gnd_x.json", b"{", "not valid JSON"),
        ("gnd_x.json", b"\xff", "not valid JSON"),
        ("gnd_x.txt", b"", "neither .pkl nor .json"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_ground_truth(write(tmp_path / name, data))
    assert name in str(caught.value)


def test_missing_and_huge_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_ground_truth(tmp_path / "gnd_x.pkl")
    monkeypatch.setattr(revisited, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="too many for a ground truth"):
        load_ground_truth(write(tmp_path / "gnd_x.pkl", pickle.dumps(TRUTH)))


SHA256 = {
    "roxford5k": "ba7967754bd2d7d2210a5799f9c45ad5835e269a80ef9d3eba44caa35816c471",
    "rparis6k": "d2e729a5293dda7dda8a15c8383424a42e4964a2c4cfea2f32fa85d11d2df499",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_published_ground_truth(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / "ground_truth" / f"gnd_{name}.pkl"
    assert file_sha256(path) == SHA256[name]
    truth = load_ground_truth(path)
    assert truth == load_ground_truth(path.with_suffix(".json"))
    copy = write(tmp_path / path.name, path.read_bytes())
    keep_as_json(copy)
    assert plain_file(tmp_path, f"gnd_{name}") == copy.with_suffix(".json")
    assert load_ground_truth(copy.with_suffix(".json")) == truth
    made = from_ground_truth(name, path.parent, truth)
    check_counts(made)
    without_easy = [i for i, query in enumerate(made.queries) if not len(query.relevance(EASY)[0])]
    without_junk = [i for i, query in enumerate(made.queries) if not len(query.labels["junk"])]
    assert all(query.box is not None for query in made.queries)
    assert not {query.file for query in made.queries} & set(made.database)
    if name == "roxford5k":
        assert without_easy == [11, 66]
    else:
        assert len(without_junk) == 5
        assert without_easy == []
