"""Ground truth is read as plain data: no pickle runs code, and a broken file is named."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagf.datasets.revisited import load_ground_truth, plain_file
from dagf.errors import UserError

TRUTH = {
    "imlist": ["a", "b", "é"],
    "qimlist": ["q"],
    "gnd": [{"bbx": [1, 2.5, 300, 70000], "easy": [0], "hard": [2], "junk": []}],
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_loads(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "gnd_x.pkl", pickle.dumps(TRUTH, protocol))
    assert plain_file(tmp_path, "gnd_x") == path
    assert load_ground_truth(path) == TRUTH
    plain = write(tmp_path / "gnd_x.json", json.dumps(TRUTH).encode())
    assert plain_file(tmp_path, "gnd_x") == plain
    assert load_ground_truth(plain) == TRUTH


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_never_runs(tmp_path: Path, protocol: int) -> None:
    fired = tmp_path / "fired"
    data = pickle.dumps({**TRUTH, "x": Bomb(fired)}, protocol)
    with pytest.raises(UserError, match=r"it asks for .*, which may run code"):
        load_ground_truth(write(tmp_path / "gnd_x.pkl", data))
    assert not fired.exists()


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("gnd_x.pkl", pickle.dumps([1], 2), "holds a list"),
        ("gnd_x.pkl", b"", "no pickle of plain data"),
        ("gnd_x.pkl", pickle.dumps(TRUTH, 2)[:40], "no pickle of plain data"),
        ("gnd_x.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 2**60), "no pickle of plain data"),
        ("gnd_x.json", b"[]", "holds a list"),
        ("gnd_x.json", b"{", "not valid JSON"),
        ("gnd_y.pkl", b"", "No such file"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    write(tmp_path / name.replace("y", "z"), data)
    with pytest.raises(UserError, match=match) as caught:
        load_ground_truth(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_published_ground_truth(shared_data: Path, name: str) -> None:
    path = shared_data / "ground_truth" / f"gnd_{name}.pkl"
    assert load_ground_truth(path) == load_ground_truth(path.with_suffix(".json"))
