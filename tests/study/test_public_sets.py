"""Each public set in miniature: downloaded from a server here, checked and evaluated."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagf.datasets import download
from dagf.datasets.public import PUBLIC
from tests.commands import dagf, fine
from tests.datasets import sets
from tests.fixtures import FOLDER, Opened, fails, write_photographs

pytestmark = pytest.mark.usefixtures("one_process")
ARCHIVES = {  # file in the manifest -> what is packed, under which folder
    "oxbuild_images-v1.tgz": ("jpg", ""),
    "paris_1-v1.tgz": ("jpg", "paris/eiffel"),
    "jpg1.tar.gz": ("jpg", "jpg"),
    "ukbench.zip": ("jpg", "ukbench/full"),
    "master.zip": ("dataset", "GroceryStoreDataset-master/dataset"),
}
EMPTY = ("paris_2-v1.tgz", "jpg2.tar.gz")  # all lies in the first archive


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served."""
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")
    (tmp_path / "served").mkdir()
    with sets.serving(tmp_path / "served") as port:
        yield tmp_path / "served", f"http://127.0.0.1:{port}"


def serve_set(name: str, home: Path, folder: Path, address: str) -> dict[str, Any]:
    """Pack the miniature at `home` as the real set is; its entry of the manifest, changed so."""
    whole = json.loads(sets.MANIFEST.read_text(encoding="utf-8"))
    (one,) = (one for one in whole if one["name"] == name)
    files = [file for file in one["files"] if file["file"] not in EMPTY]
    for file in files:
        path, (inner, outer) = folder / file["file"], ARCHIVES.get(file["file"], ("", ""))
        if name == "flickrlogos27":
            sets.pack_logos(home, path)
        elif inner:
            members = [path for path in sorted((home / inner).rglob("*")) if path.is_file()]
            names = [f"{outer}/{one.relative_to(home / inner)}".lstrip("/") for one in members]
            packed = {name: one.read_bytes() for name, one in zip(names, members, strict=True)}
            (sets.make_zip if path.suffix == ".zip" else sets.make_tar)(path, packed)
        else:
            path.write_bytes((home / file["file"]).read_bytes())
        file |= {"mirrors": [f"{address}/{file['file']}"], "sha256": None, "bytes": 0}
    holds = {pattern: sum(1 for _ in home.glob(pattern)) for pattern in one.get("holds", {})}
    return {**one, "files": files, "holds": holds, "counts": sets.SMALL[name]}


@pytest.mark.parametrize("name", sorted({*PUBLIC} - {"holidays-upright"}))  # no server has it
def test_get_check_extract_evaluate(
    name: str,
    project: Path,
    tmp_path: Path,
    served: tuple[Path, str],
    profile: Callable[..., str],
    backbone_weights: str,
) -> None:
    made = tmp_path / "made"
    names = [name.removeprefix("r"), name] if name.startswith("r") else [name]
    for needed in names:
        sets.write_set(needed, made)
    entries = [serve_set(one, made / "test" / one, *served) for one in names]
    (project / "data").mkdir()
    (project / "data" / "manifest.json").write_text(json.dumps(entries))
    assert f"{name}: here" in fine("data", "get", name)
    home = project / "data" / "test" / name
    labelled = name in ("grocery", "flickrlogos27")
    assert (home / ("labels.csv" if labelled else f"gnd_{name}.json")).is_file()
    assert f"{name}: here" in fine("data", "get", name)
    for path in home.glob("gnd_*.pkl"):
        path.write_bytes(b"read no more")
    counts = sets.SMALL[name]
    end = f"a benchmark: {counts['queries']} queries, {counts['database']} database images"
    assert end in fine("data", "check", name).splitlines()
    words = ["--benchmark", name, "--profile", profile(**FOLDER, held_out=1)]
    words += ["--weights", backbone_weights, "--off-the-shelf", "--json"]
    rows = json.loads(fine("evaluate", "gem", *words))
    revisited = ["Easy", "Medium", "Hard"]
    settings = revisited if name.startswith("r") else ["Classic"] * (1 + (name == "grocery"))
    assert [row["setting"] for row in rows] == settings
    assert all(0 < row["mAP"] <= 100 for row in rows)
    assert [1 <= row.get("N-S", 0) <= 4 for row in rows] == [name == "ukbench"] * len(rows)


def test_stanfords_set_is_three_folders(project: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    whole = json.loads(sets.MANIFEST.read_text(encoding="utf-8"))
    (one,) = (one for one in whole if one["name"] == "smvs")
    for file, (part, names) in zip(one["files"], sets.smvs_files().items(), strict=True):
        outer = file["file"].removesuffix(".zip")
        pixel = b"P6 1 1 255\n" + part[:1].encode()  # of another colour each
        packed = {
            f"{outer}/{name}": pixel + number.to_bytes(2) for number, name in enumerate(names)
        }
        extra = {f"__MACOSX/{outer}/Reference/._001.jpg": b"", f"{outer}/.DS_Store": b""}
        sets.make_zip(folder / file["file"], packed | extra)
        file["mirrors"] = [f"{address}/{file['file']}"]
    (project / "data").mkdir()
    (project / "data" / "manifest.json").write_text(json.dumps([one]))
    assert "smvs: here" in fine("data", "get", "smvs")
    home = project / "data" / "test" / "smvs"
    assert "smvs: whole, but no benchmark by itself: three folders" in fine("data", "check", "smvs")
    for part, ends in {
        "dvd": ["train: 250 images", "a benchmark: 50 queries, 200 database images", "500 images"],
        "street": ["a benchmark: 101 queries, 101 database images", "202 images; left out: 10"],
        "books": ["train: 202 images", "202 images"],
    }.items():
        said = fine("data", "check", home / part)
        assert all(end in said for end in ends), said


def test_distractors(project: Path, profile: Callable[..., str], backbone_weights: str) -> None:
    sets.write_set("rparis6k", project / "data")
    one = project / "data" / "distractors" / "revisitop1m" / "jpg" / "0"
    sets.write_images(one, ["a1.jpg", "a2.jpg"], size=40)  # other photographs than those of the set
    words = ["evaluate", "gem", "--off-the-shelf", "--benchmark", "RParis6k"]
    words += ["--distractors", "r1m", "--profile", profile(**FOLDER), "--weights", backbone_weights]
    assert "rparis6k: 6 database images, 2 distractors\n" in dagf(*words).stderr


def test_what_a_public_set_is_opened_with(heads_on: Opened, project: Path, capsys: Any) -> None:
    """Distractors and training images of folders, and what of them is in the set."""
    folder = write_photographs(project / "photos", first=20)
    home = sets.write_set("oxford5k", project / "data")
    assert heads_on("oxford5k").training is None
    shutil.copy(home / "jpg" / "all_souls_000001.jpg", folder / "jpg" / "other-0.jpg")
    study = heads_on("oxford5k", distractors=[folder], train_on=[folder])
    assert study.training is not None and study.title == "oxford5k"
    match = r"000001\.jpg is .* and, as .*other-0\.jpg, a distractor"
    assert re.search(match, capsys.readouterr().err)
    shutil.copy(home / "jpg" / "all_souls_000001.jpg", folder / "jpg" / "20-1.jpg")
    says = r"20-1\.jpg would be trained on and, as all_souls_000001\.jpg, tested on"
    fails(says, heads_on, "oxford5k", train_on=[folder])
