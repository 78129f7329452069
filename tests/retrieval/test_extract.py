"""Shards: against all descriptors at once, after a kill, a changed or broken photograph, and by several processes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.datasets.batches import image_batches
from dagf.datasets.images import ImageSpec
from dagf.distributed import Group
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.retrieval.extract import (
    SHARDS,
    Extracted,
    ShardedDescriptors,
    extract_shards,
    shard_name,
)
from dagf.retrieval.inference import extract
from dagf.retrieval.search import search
from tests.pictures import save, smooth

from .networks import SPEC, Counted


class Colours(nn.Module):
    """A small descriptor of an image: the unit vector of its corner's colours."""

    def forward(self, images: Tensor) -> Tensor:
        return fn.normalize(images[:, :, :2, :2].flatten(1) + 3)


def made(
    files: Sequence[Path], folder: Path, encode: nn.Module | None = None, **options: Any
) -> Extracted:
    return extract_shards(
        encode or Colours(), "colours", files, SPEC, folder, **{"shard": 5, "batch": 3} | options
    )


def shards(folder: Path) -> dict[str, int]:
    """The shards that are there, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(SHARDS)}


@pytest.fixture
def whole(files: list[Path]) -> NDArray[np.float32]:
    return extract(Colours(), image_batches(files, SPEC), len(files))


@pytest.mark.parametrize("shard", [1, 5, 23, 4096])
def test_shards_hold_what_one_array_would(
    files: list[Path], whole: NDArray[np.float32], tmp_path: Path, shard: int
) -> None:
    found = made(files, tmp_path / "out", shard=shard)
    assert found.made == len(files) == len(found.descriptors)
    assert found.descriptors.shape == whole.shape
    assert found.descriptors.dtype == np.float32
    assert len(found.descriptors.names) == len(shards(tmp_path / "out")) == -(-len(files) // shard)
    np.testing.assert_array_equal(found.descriptors[:], whole)


def test_in_half_precision(files: list[Path], whole: NDArray[np.float32], tmp_path: Path) -> None:
    found = made(files, tmp_path, precision="float16").descriptors
    assert found.dtype == found[2:4].dtype == np.float16
    np.testing.assert_allclose(found[:], whole, atol=5e-4)


def test_a_network_is_extracted_as_described(
    files: list[Path], net: RetrievalNet, tmp_path: Path
) -> None:
    found = made(files, tmp_path, net)
    np.testing.assert_allclose(
        found.descriptors[:], extract(net, image_batches(files, SPEC), 23), atol=1e-6
    )


def test_search_reads_them_as_an_array(
    files: list[Path], whole: NDArray[np.float32], tmp_path: Path
) -> None:
    found = made(files, tmp_path).descriptors
    scores, rows = search(np.asarray(found[:]), whole[[3, 8]], 4)
    expected = search(whole, whole[[3, 8]], 4)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(rows, expected[1])


# --- what is kept, and what is made anew --------------------------------------------------------------------------


def test_asked_twice_described_once(files: list[Path], tmp_path: Path) -> None:
    counted = Counted(Colours())
    made(files, tmp_path, counted)
    before = shards(tmp_path)
    again = made(files, tmp_path, counted)
    assert (again.made, counted.seen) == (0, 23)
    assert shards(tmp_path) == before


class Killed(Colours):
    """Stops when it has seen some images."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def forward(self, images: Tensor) -> Tensor:
        self.left -= len(images)
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(images)


def test_a_job_that_stops_goes_on_with_what_is_missing(
    files: list[Path], whole: NDArray[np.float32], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        made(files, tmp_path / "out", Killed(13))
    before = shards(tmp_path / "out")
    assert len(before) == 2
    assert [
        path.name for path in (tmp_path / "out").iterdir() if path.name not in before
    ] == []  # no half shard
    counted = Counted(Colours())
    again = made(files, tmp_path / "out", counted)
    assert again.made == counted.seen == 13
    assert before.items() <= shards(tmp_path / "out").items()
    np.testing.assert_array_equal(again.descriptors[:], whole)


def test_a_changed_photograph_has_its_shard_made_anew(files: list[Path], tmp_path: Path) -> None:
    first = made(files, tmp_path / "out").descriptors
    save(smooth(40, 40).rotate(90), files[11])
    counted = Counted(Colours())
    second = made(files, tmp_path / "out", counted).descriptors
    assert counted.seen == 5
    assert [old == new for old, new in zip(first.names, second.names, strict=True)] == [
        True,
        True,
        False,
        True,
        True,
    ]
    changed = (first[:] != second[:]).any(1)
    assert np.flatnonzero(changed).tolist() == [11]
    np.testing.assert_array_equal(second[:], extract(Colours(), image_batches(files, SPEC), 23))


def test_a_name_holds_all_that_decides_a_shard() -> None:
    a, b, c = "abc"
    others = [
        shard_name("net", [a, b, c], SPEC, "float16"),
        shard_name(["net", 0.5], [a, b, c], SPEC, "float16"),
        shard_name("net", [a, b, c], ImageSpec(33), "float16"),
        shard_name("net", [a, b, c], SPEC, "float32"),
        shard_name("net", [b, a, c], SPEC, "float16"),
        shard_name("net", [a, b], SPEC, "float16"),
    ]
    assert len({*others}) == 6


def test_an_image_that_cannot_be_read_is_named_and_what_is_done_is_kept(
    files: list[Path], tmp_path: Path
) -> None:
    good = files[12].read_bytes()
    files[12].write_bytes(good[:60])
    with pytest.raises(UserError, match=r"cannot decode .*12\.png") as caught:
        made(files, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert len(shards(tmp_path / "out")) == 2
    files[12].unlink()
    with pytest.raises(UserError, match=r"12\.png does not exist"):
        made(files, tmp_path / "out")
    files[12].write_bytes(good)
    assert made(files, tmp_path / "out").made == 13


@pytest.mark.parametrize("content", [b"", b"no array", b"half"])
def test_a_broken_shard_is_named_and_made_anew(
    files: list[Path], tmp_path: Path, content: bytes
) -> None:
    found = made(files, tmp_path).descriptors
    path = tmp_path / found.names[1]
    path.write_bytes(path.read_bytes()[:-20] if content == b"half" else content)
    with pytest.raises(UserError, match=rf"{path.name} is missing or broken"):
        ShardedDescriptors(tmp_path, found.names)
    assert made(files, tmp_path).made == 5


def test_shards_that_do_not_belong_together_are_refused(files: list[Path], tmp_path: Path) -> None:
    full, last = (made(files, tmp_path).descriptors.names[place] for place in (0, -1))
    half = made(files, tmp_path, precision="float16").descriptors.names[0]
    np.save(tmp_path / "shard-wide.npy", np.zeros((5, 3), np.float32))
    for names in ([full, half], [full, last, full], [last, full], [full, "shard-wide.npy"]):
        with pytest.raises(UserError, match="does not fit the shards beside it"):
            ShardedDescriptors(tmp_path, names)
    for other in (np.float32(1), np.zeros(5, np.float32), np.zeros((5, 12), np.int64)):
        np.save(tmp_path / "shard-other.npy", other)
        with pytest.raises(UserError, match=r"shard-other\.npy holds no descriptors"):
            ShardedDescriptors(tmp_path, ["shard-other.npy"])


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["float16", "float32"])
def table(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ShardedDescriptors, Any]:
    """17 rows in shards of 4, and the same as one array."""
    folder, rows = (
        tmp_path_factory.mktemp("table"),
        np.random.default_rng(0).normal(size=(17, 3)).astype(request.param),
    )
    names = [f"shard-{first}.npy" for first in range(0, 17, 4)]
    for number, name in enumerate(names):
        np.save(folder / name, rows[4 * number : 4 * number + 4])
    return ShardedDescriptors(folder, names), rows


numbers = st.integers(-20, 20) | st.none()


@given(st.builds(slice, numbers, numbers, st.sampled_from([None, 1])))
def test_slices_are_those_of_an_array(table: tuple[ShardedDescriptors, Any], rows: slice) -> None:
    found = table[0][rows]
    np.testing.assert_array_equal(found, table[1][rows])
    assert found.dtype == table[1].dtype
    assert found.flags.c_contiguous
    assert found.flags.writeable or found.size == 0  # as PyTorch wants it


@given(st.lists(st.integers(0, 16), max_size=30))
def test_rows_are_those_of_an_array(table: tuple[ShardedDescriptors, Any], rows: list[int]) -> None:
    asked = np.array(rows, np.int64)
    np.testing.assert_array_equal(table[0][asked], table[1][asked])


def test_rows_outside_are_an_error(table: tuple[ShardedDescriptors, Any]) -> None:
    for rows in ([17], [-18], [0, 99]):
        with pytest.raises(IndexError, match="of 17"):
            table[0][np.array(rows)]


def test_what_rows_do_not_promise_is_refused(table: tuple[ShardedDescriptors, Any]) -> None:
    """Steps, numbers from the end, and masks: nobody asks for them."""
    for rows in (slice(None, None, 2), slice(9, 2, -1)):
        with pytest.raises(IndexError, match=r"without a step, and not slice\("):
            table[0][rows]
    for rows in (np.array([3, -1]), np.ones(17, bool), np.zeros(17, bool)):
        with pytest.raises(IndexError, match="of 17"):
            table[0][rows]


def test_what_is_read_can_be_changed_and_the_file_stays(
    table: tuple[ShardedDescriptors, Any],
) -> None:
    part = table[0][4:8]
    part += 1
    np.testing.assert_array_equal(table[0][4:8], table[1][4:8])


def test_no_rows(tmp_path: Path) -> None:
    found = made([], tmp_path)
    assert (found.made, len(found.descriptors), found.descriptors.shape) == (0, 0, (0, 0))
    assert found.descriptors[:].shape == (0, 0)


# --- several processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 7])
def test_every_image_is_extracted_by_one_process_once(
    files: list[Path], whole: NDArray[np.float32], tmp_path: Path, size: int
) -> None:
    """Threads play the processes."""
    barrier, given = threading.Barrier(size), dict[int, Any]()

    class Member(Group):
        def gather(self, value: Any) -> list[Any]:
            barrier.wait()
            given[self.rank] = value
            barrier.wait()
            return [given[rank] for rank in range(self.size)]

    counted = [Counted(Colours()) for _ in range(size)]
    with ThreadPoolExecutor(size) as pool:
        all_found = list(
            pool.map(
                lambda rank: made(files, tmp_path, counted[rank], group=Member(rank, size)),
                range(size),
            )
        )
    for found in all_found:
        assert found.made == len(files)
        np.testing.assert_array_equal(found.descriptors[:], whole)
    assert [one.seen for one in counted] == [
        sum(len(files[first : first + 5]) for first in range(5 * rank, 23, 5 * size))
        for rank in range(size)
    ]


JOB = """
import json, os, signal, sys
from pathlib import Path
import torch
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.model.backbone import BackboneSpec
from dagf.retrieval.extract import extract_shards
from dagf.datasets.images import ImageSpec
from dagf.distributed import process_group

class Dying(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, images):
        self.calls += 1
        if self.calls > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(images)

photos, out, dies = sys.argv[1:]
torch.manual_seed(0)
<<<<<<< HEAD
net, group = RetrievalNet(BackboneSpec("small"), variant("gem")).eval(), process_group()
=======
net, group = RetrievalNet(BackboneSpec("small"), variant("gem")).eval(), team()
>>>>>>> d8a6da0 (Variant is what a network is made of: it checks its names, classes say what they are, a new pooling touches its file and the table)
net = Dying(net) if str(group.rank) == dies else net
found = extract_shards(net, "job", sorted(Path(photos).glob("*.png")), ImageSpec(32), Path(out), "float32", group, shard=4)
print("\\n" + json.dumps({"rank": group.rank, "made": found.made, "names": found.descriptors.names}), flush=True)
"""


def start(folder: Path, processes: int, dies: str = "no") -> "subprocess.CompletedProcess[str]":
    """Extract the pictures of `folder` to `folder`/out, with torchrun; the process of rank `dies` does so half-way."""
    (folder / "job.py").write_text(JOB)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    command = [*launcher, "job.py", ".", f"out-{processes}", dies]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120
    )


@pytest.mark.study
def test_two_processes_extract_what_one_does(files: list[Path], tmp_path: Path) -> None:
    arrays = []
    for processes in (1, 2):
        ran = start(tmp_path, processes)
        assert ran.returncode == 0, ran.stderr
        said = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        assert sorted(one["rank"] for one in said) == list(range(processes))
        assert {one["made"] for one in said} == {len(files)}
        assert len({tuple(one["names"]) for one in said}) == 1
        arrays.append(ShardedDescriptors(tmp_path / f"out-{processes}", said[0]["names"])[:])
    np.testing.assert_allclose(arrays[0], arrays[1], atol=1e-6)


@pytest.mark.study
def test_a_process_that_dies_fails_the_job_which_then_goes_on(
    files: list[Path], tmp_path: Path
) -> None:
    died = start(tmp_path, 2, dies="1")
    assert died.returncode not in (0, 124)
    assert "SIGKILL" in died.stderr
    kept = shards(tmp_path / "out-2")
    assert 1 <= len(kept) < 6
    again = start(tmp_path, 2)
    assert again.returncode == 0, again.stderr
    assert kept.items() <= shards(tmp_path / "out-2").items()
    said = next(json.loads(line) for line in again.stdout.splitlines() if line.startswith("{"))
    assert said["made"] == len(files) - 4 * len(kept)
    assert len(ShardedDescriptors(tmp_path / "out-2", said["names"])) == len(files)
