"""A list of images that changes: what is described anew is counted, and the rows are those of a fresh extraction."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from dagf.collections import changes
from dagf.collections.changes import CONTENTS, extract_changes
from dagf.datasets.batches import image_batches
from dagf.datasets.images import ImageSpec
from dagf.distributed import SINGLE, Group
from dagf.errors import UserError
from dagf.files import read_json, write_json
from dagf.retrieval.extract import SHARDS, Extracted, extract, extract_shards
from tests.fixtures import photograph

SPEC = ImageSpec(16, "squash")
ABOUT = ["some encoder", 1]


class Sampler(nn.Module):
    """Sixteen values of each image, as a unit vector; counts the images."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return nn.functional.normalize(images.mean(1)[:, ::4, ::4].flatten(1))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Eleven photographs, all different."""
    (tmp_path / "photos").mkdir()
    files = [tmp_path / "photos" / f"{number:02}.png" for number in range(11)]
    for number, file in enumerate(files):
        photograph(number, 0).save(file)
    return files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where shards of four images go."""
    monkeypatch.setattr(changes, "SHARD", 4)
    monkeypatch.setattr("dagf.retrieval.extract.SHARD", 4)
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def extracted(
    files: list[Path], folder: Path, about: Any = ABOUT, precision: Any = "float32"
) -> Extracted:
    """`extract_changes`: what it says it described is what the network saw, and its rows are those of the files."""
    net = Sampler()
    found = extract_changes(net, about, files, SPEC, folder, precision, SINGLE)
    assert found.made == net.seen
    expected = extract(net, image_batches(files, SPEC), len(files))
    np.testing.assert_allclose(
        found.descriptors[:], expected, atol=1e-6 if precision == "float32" else 1e-3
    )
    assert found.descriptors.dtype == precision
    return found


def test_a_first_extraction_is_that_of_extract(
    photos: list[Path], folder: Path, tmp_path: Path
) -> None:
    found = extracted(photos, folder)
    other = extract_shards(Sampler(), ABOUT, photos, SPEC, tmp_path / "other")
    assert (found.made, found.descriptors.names) == (11, other.descriptors.names)
    for name in found.descriptors.names:
        assert (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert {path.name for path in folder.iterdir()} == {CONTENTS, *found.descriptors.names}
    listed = read_json(folder / CONTENTS)
    assert [listed[name] for name in found.descriptors.names] == list(
        changes._parts(changes.hashes(photos, SINGLE))
    )


def _new_first(files: list[Path]) -> list[Path]:
    photograph(50, 0).save(files[0].parent / "0.png")
    return [files[0].parent / "0.png", *files]


def _changed(files: list[Path]) -> list[Path]:
    photograph(51, 0).save(files[5])
    return files


def _moved(files: list[Path]) -> list[Path]:
    return [file.rename(file.parent / f"moved-{file.name}") for file in files]


def _copied(files: list[Path]) -> list[Path]:
    return [*files, Path(shutil.copy(files[2], files[2].parent / "copy.png"))]


@pytest.mark.parametrize(
    ("change", "described"),
    [
        (_new_first, 1),  # which moves all others by a row
        (_changed, 1),
        (_moved, 0),
        (_copied, 0),
        (lambda files: files, 0),
        (lambda files: files[::-1], 0),
        (lambda files: files[3:], 0),
        (lambda files: files[:-1], 0),
        (lambda files: _changed(_new_first(files))[:-2], 2),
    ],
)
def test_only_new_contents_are_described(
    photos: list[Path], folder: Path, change: Callable[[list[Path]], list[Path]], extracted: int
) -> None:
    extracted(photos, folder)
    files = change(photos)
    assert extracted(files, folder).made == extracted
    assert extracted(files, folder).made == 0


def test_two_files_of_one_content_are_described_once(photos: list[Path], folder: Path) -> None:
    assert extracted([*photos, *photos, photos[3]], folder).made == 11


def test_another_encoder_size_or_finer_precision_describes_all(
    photos: list[Path], folder: Path
) -> None:
    extracted(photos, folder)
    assert extracted(photos, folder, "another").made == 11
    assert extracted(photos, folder, "another", "float16").made == 0
    assert extracted(photos[:2], folder, "a third", "float16").made == 2
    assert extracted(photos[:2], folder, "a third").made == 2
    assert (
        extract_changes(
            Sampler(), ABOUT, photos, ImageSpec(20, "squash"), folder, "float32", SINGLE
        ).made
        == 11
    )


def test_a_stopped_job_goes_on_though_images_were_added(
    photos: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight of eleven are described, in two shards; then one more comes, before all others."""

    class Stopped(Sampler):
        def forward(self, images: Tensor) -> Tensor:
            if self.seen == 8:
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        extract_changes(Stopped(), ABOUT, photos, SPEC, folder, "float32", SINGLE)
    assert len(list(folder.glob(SHARDS))) == 2
    assert extracted(_new_first(photos), folder).made == 4


@pytest.mark.parametrize("text", ["", "[1]", '"x"', "{}", '{"shard-0.npy": 3}', "no JSON"])
def test_without_contents_whole_shards_still_serve(
    photos: list[Path], folder: Path, text: str
) -> None:
    extracted(photos, folder)
    (folder / CONTENTS).write_text(text)
    assert extracted(photos[:9], folder).made == 1
    assert extracted(photos, folder).made == 0


def test_contents_that_are_not_those_of_a_shard_count_for_nothing(
    photos: list[Path], folder: Path
) -> None:
    names = extracted(photos, folder).descriptors.names
    listed = read_json(folder / CONTENTS)
    first, second = (listed[name] for name in names[:2])
    write_json(folder / CONTENTS, {names[0]: second, names[1]: first})
    assert extracted(photos[::-1], folder).made == 11


def test_a_broken_shard_is_described_again(photos: list[Path], folder: Path) -> None:
    broken = folder / extracted(photos, folder).descriptors.names[1]
    broken.write_bytes(broken.read_bytes()[:-1])
    assert extracted(photos, folder).made == 4


def head(shape: str, kind: str = "<f4") -> bytes:
    """The head of a shard that claims a shape, and no rows."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        head("()") + bytes(4),
        head(f"({10**26}, 16)"),
        head("(4,)") + bytes(16),
        head("(4, 16)", "<i4") + bytes(256),
    ],
)
@pytest.mark.parametrize("changed", [False, True])
def test_a_shard_of_another_shape_is_described_again(
    photos: list[Path], folder: Path, content: bytes, changed: bool
) -> None:
    """Also where all of it is new, and so is looked for by `extract`."""
    broken = folder / extracted(photos, folder).descriptors.names[1]
    broken.write_bytes(content)
    if changed:
        (folder / CONTENTS).unlink()
    assert extracted(photos, folder).made == 4


def test_an_image_that_changes_meanwhile_is_seen(
    photos: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract_shards

    def late(*given: Any) -> Extracted:
        _changed(photos)
        return whole(*given)

    monkeypatch.setattr(changes, "extract", late)
    with pytest.raises(UserError, match="images were changed while they were described"):
        extract_changes(Sampler(), ABOUT, photos, SPEC, folder, "float32", SINGLE)
    monkeypatch.undo()
    monkeypatch.setattr(changes, "SHARD", 4)
    monkeypatch.setattr("dagf.retrieval.extract.SHARD", 4)
    assert extracted(photos, folder).made == 0


def test_an_image_that_cannot_be_read_is_named(photos: list[Path], folder: Path) -> None:
    photos[4].unlink()
    with pytest.raises(UserError, match=r"cannot read .*04.png \(No such file or directory\)"):
        extract_changes(Sampler(), ABOUT, photos, SPEC, folder, "float32", SINGLE)


def test_processes_hash_a_share_each(photos: list[Path]) -> None:
    """Each of three sees a third of the files; together they give the list of one."""
    alone = changes.hashes(photos, SINGLE)
    shares = [alone[rank::3] for rank in range(3)]

    class Together(Group):
        def gather(self, value: Any) -> list[Any]:
            assert value == shares[self.rank]
            return shares

    for rank in range(3):
        assert changes.hashes(photos, Together(rank, 3)) == alone
