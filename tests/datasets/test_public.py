"""Public sets by name: miniatures of their layouts, the real ground truth, wrong copies."""

import json
from pathlib import Path

import numpy as np
import pytest

from dagf.datasets import public
from dagf.datasets.benchmark import from_ground_truth
from dagf.datasets.images import has_mask
from dagf.files import file_sha256, write_json
from tests.datasets import sets
from tests.datasets.sets import write_gldv2, write_sfm
from tests.fixtures import fails, write_photographs

SETS = public.read_manifest(sets.MANIFEST)


def test_the_manifest() -> None:
    for one in SETS.values():
        assert one.title
        assert set(one.needs) <= SETS.keys()
        assert one.holds or one.counts
        unchecked = any(not file.sha256 and not file.md5_from for file in one.files)
        assert bool(one.unmeasured) == unchecked, one.name
        for file in one.files:
            assert all(address.endswith(f"/{file.file}") for address in file.mirrors)
    assert [len(SETS[name].files) for name in ("r1m", "gldv2", "oxford100k")] == [101, 502, 40]
    md5 = "https://s3.amazonaws.com/google-landmark/md5sum/train/md5.images_007.txt"
    assert SETS["gldv2"].files[7].md5_from == md5
    assert SETS["oxford100k"].files[0].file == "oxc1_100k.part01.rar"
    places = {name: f"test/{name}" for name in public.PUBLIC}
    places |= public.TRAINING_SETS | public.DISTRACTORS
    for name, folder in places.items():  # it lands where it is looked for
        assert SETS[name].folder == folder


def test_the_counts_are_those_of_the_protocols() -> None:
    """Philbin et al. 2007, 2008; Radenovic et al. 2018; Jegou et al. 2008; Nister 2006."""
    holidays = {"queries": 500, "database": 1491, "ok": 991, "junk": 500}
    classic, graded = {"queries": 55, "boxes": 55}, {"queries": 70, "boxes": 70}
    assert {name: one.counts for name, one in SETS.items() if one.counts} == {
        "oxford5k": classic | {"database": 5063, "ok": 2840, "junk": 1495},
        "paris6k": classic | {"database": 6392, "ok": 8955, "junk": 8245},
        "roxford5k": graded | {"database": 4993, "easy": 3029, "hard": 2497, "junk": 1356},
        "rparis6k": graded | {"database": 6322, "easy": 6874, "hard": 10350, "junk": 7153},
        "holidays": holidays,
        "holidays-upright": holidays,
        "ukbench": {"queries": 10200, "database": 10200, "ok": 40800},
        "grocery": {"queries": 88, "database": 417, "ok": 3761},
        "flickrlogos27": {"queries": 13 * 5, "database": 13 * 30 - 1, "ok": 13 * 150 - 5},
        "sfm120k": {"images": 91642 + 6403},  # train and val, as its author counts them
        "gldv2": {"images": 1580470},
    }
    assert SETS["oxford5k"].holds["jpg/*.jpg"] == 5063
    assert SETS["paris6k"].holds["jpg/*.jpg"] == 6392 + 20  # corrupt ones, in no ground truth


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k", "oxford5k", "paris6k", "holidays"])
def test_the_real_ground_truth_has_every_count(shared_data: Path, name: str) -> None:
    folder = shared_data / "ground_truth"
    mat, json_file = folder / f"gnd_{name}.mat", folder / f"gnd_{name}.json"
    truth = json_file if name.startswith("r") else sets.mat(mat)
    made = from_ground_truth(name, folder, truth)
    public.check_counts(name, made.counts, sets.MANIFEST.parent)
    if name in ("oxford5k", "paris6k"):
        assert len(set(made.clusters())) == 10  # two landmarks share images
    if name.startswith("r"):
        (file,) = SETS[name].files
        path = folder / file.file
        assert (path.stat().st_size, file_sha256(path)) == (file.bytes, file.sha256)


def test_two_sets_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = sets.write_set("roxford5k", tmp_path)
    assert public.folders_of("roxford5k", tmp_path) == [home.with_name("oxford5k"), home]
    monkeypatch.setitem(public.DISTRACTORS, "r1m", "test/oxford5k")
    match = r"6 distractors, as .*all_souls_000001\.jpg, are in roxford5k: name another set"
    fails(match, public.open_benchmark, "roxford5k", tmp_path, ["r1m"])
    write_json(home / "gnd_roxford5k.json", {**sets.REVISITED, "imlist": sets.OXFORD})
    match = r"roxford5k has 7 database \(expected 6\): it is not whole"
    fails(match, public.open_benchmark, "roxford5k", tmp_path)
    write_json(home / "gnd_roxford5k.json", sets.REVISITED)
    for path in home.with_name("oxford5k").glob("jpg/*"):
        path.rename(path.with_name(f"paris_{path.name}"))
    match = r"roxford5k names 7 images that are not in .*, as all_soul"
    fails(match, public.open_benchmark, "roxford5k", tmp_path)


def test_distractors_of_a_public_set_or_of_a_folder(tmp_path: Path) -> None:
    home = tmp_path / "distractors" / "revisitop1m"
    for name in ("r1m", "oxford100k"):
        says = rf"no image in .*: get it with `dagf data get {name}`, and unpack"
        fails(says, public.distractor_files, name, tmp_path)
    sets.write_images(home / "jpg", ["0/a1.jpg", "0/a2.jpg", ".thumb/a1.jpg"])
    sets.write_images(tmp_path / "disk", ["b1.jpg"])
    (home / "jpg" / "1").symlink_to(tmp_path / "disk")  # on another disk
    files = [home / "jpg" / name for name in ("0/a1.jpg", "0/a2.jpg", "1/b1.jpg")]
    assert public.distractor_files("R1M", tmp_path) == files
    assert public.differences(SETS["r1m"], home) == []
    (home / "gone").symlink_to("nothing")
    fails(r"cannot read .*gone \(it leads nowhere\)", public.distractor_files, "r1m", tmp_path)
    (home / "gone").unlink()
    own = tmp_path / "own"
    sets.write_images(own, ["a1.jpg", "b1.jpg"])
    (own / "labels.csv").write_text("file,instance,role\na1.jpg,,distractor\nb1.jpg,,database\n")
    sets.write_set("rparis6k", tmp_path)
    made = public.open_benchmark("rparis6k", tmp_path, ["r1m", str(own)])
    assert list(made.distractors) == [*files, own / "a1.jpg"]
    (own / "labels.csv").write_text("file,instance,role\nb1.jpg,,database\n")
    says = "has no image here: give the role distractor"
    fails(says, public.open_benchmark, "rparis6k", tmp_path, [str(own)])
    assert public.folders_of("r1m", tmp_path) == [home]
    assert public.folders_of(str(home), tmp_path) == [home]


def test_sfm(tmp_path: Path) -> None:
    assert public.image_path("0123456789abcdef") == "ef/cd/ab/0123456789abcdef"
    parts = write_sfm(tmp_path)
    found = public.load_sfm(tmp_path)
    train, val = parts["train"], parts["val"]
    assert [file.name for file in found.files] == train["cids"]
    assert all(file.is_file() for file in found.files)
    assert found.labels == tuple(np.repeat(range(5), 4))
    assert found.pairs == tuple(zip(train["qidxs"], train["pidxs"], strict=True))
    kept = found.validation
    assert [Path(file).name for file in kept.database] == val["cids"]
    assert [kept.database.index(query.file) for query in kept.queries] == [0, 1, 2, 4, 5, 6]
    # Of the second's cluster 0..3, the next is its positive; itself and the others are junk.
    labels = kept.queries[1].labels
    assert (labels["ok"].tolist(), labels["junk"].tolist()) == ([2], [0, 1, 3])

    train["qidxs"].append(3)  # a pair of one file is left out
    train["pidxs"].append(3)
    write_json(tmp_path / f"{public.SFM}.json", parts)
    after = public.load_sfm(tmp_path)
    assert after.pairs == found.pairs
    assert after.id != found.id
    val["cids"][0] = "0123456789"
    write_json(tmp_path / f"{public.SFM}.json", parts)
    fails(r"120k\.json names 1 images .*, as 89/67", public.load_sfm, tmp_path)


def test_the_whitening_split(tmp_path: Path) -> None:
    folder = tmp_path / public.TRAINING_SETS["sfm120k"]
    train = write_sfm(folder)["train"]
    files, pairs = public.load_whitening_split(tmp_path)
    assert [file.name for file in files] == train["cids"]
    assert pairs.tolist() == list(map(list, zip(train["qidxs"], train["pidxs"], strict=True))) * 10
    (folder / f"{public.SFM}-whiten.json").unlink()
    fails(r"cannot read .*retrieval-SfM-120k-whiten\.json", public.load_whitening_split, tmp_path)


def test_gldv2(tmp_path: Path) -> None:
    write_gldv2(tmp_path)
    found = public.load_gldv2(tmp_path, held_out=2)
    # Without gaps: 81,313 classes are as many weights.
    assert found.labels == tuple(np.repeat(range(4), 4))
    assert found.pairs == ()
    files = [*found.files, *(tmp_path / "train" / file for file in found.validation.files)]
    assert sorted(files) == sorted((tmp_path / "train").rglob("*.jpg"))
    assert len(found.validation.queries) == len(found.validation.database) == 4
    assert all(len(query.labels["ok"]) == 2 for query in found.validation.queries)
    assert public.load_gldv2(tmp_path, held_out=2).id == found.id
    assert public.load_gldv2(tmp_path, held_out=3).id != found.id
    with (tmp_path / "train_clean.csv").open("a") as stream:
        stream.write("99,0123456789abcdef\n")
    says = r"clean\.csv names 1 .* as 0/1/2/0123456789abcdef\.jpg"
    fails(says, public.load_gldv2, tmp_path, held_out=2)


@pytest.mark.parametrize(("name", "images"), [("sfm120k", 5 * 4 + 2 * 4), ("gldv2", 6 * 4)])
def test_a_training_set_is_counted(tmp_path: Path, name: str, images: int) -> None:
    (write_sfm if name == "sfm120k" else write_gldv2)(tmp_path / public.TRAINING_SETS[name])
    sets.write_manifest(tmp_path)
    assert public.open_training_set(name, tmp_path, held_out=2).landmarks >= 4
    (tmp_path / "manifest.json").write_text(sets.MANIFEST.read_text())
    says = rf"{name} has {images} images \(expected \d+\)"
    fails(says, public.open_training_set, name, tmp_path, held_out=2)


def test_a_ground_truth_in_the_fields_form_is_a_benchmark(tmp_path: Path) -> None:
    """Of a folder that has labels of its own, too; its queries are cut to their boxes."""
    folder = write_photographs(tmp_path / "mine")
    truth = {
        "imlist": ["jpg/5-1.jpg", "jpg/6-1.jpg"],
        "qimlist": ["jpg/5-0.jpg"],
        "gnd": [{"bbx": [1, 2, 9, 9], "ok": [0], "junk": []}],
        "instances": ["i5"],
    }
    path = folder / "gnd_boxed.json"
    path.write_text(json.dumps(truth))
    made = public.open_benchmark(str(path), tmp_path)
    assert (made.name, made.root, made.database) == ("boxed", folder, tuple(truth["imlist"]))
    assert made.queries[0].box == (1, 2, 9, 9)
    assert public.place(str(path), tmp_path) == folder
    assert public.folders_of(str(path), tmp_path) == [folder]
    truth["imlist"] = ["9-9", "5-1"]
    path.write_text(json.dumps(truth | {"qimlist": ["5-0"]}))
    says = r"gnd_boxed\.json names 1 images that are not in .*jpg, as 9-9\.jpg: mend the names"
    fails(says, public.open_benchmark, str(path), tmp_path)
    fails("name a folder that exists", public.open_benchmark, str(folder / "labels.csv"), tmp_path)


REAL = {  # real photographs: queries by their set, their boxes and clusters, database images
    "products": ({"query": 78, "query-iconic": 10}, 0, 10, 417),
    "landmarks": ({"query": 55}, 0, 5, 213),
    "logos/gnd_logos_boxed.json": ({"query": 92}, 92, 13, 297),
    "paris_part/gnd_rparis_part.json": ({"query": 12}, 12, 5, 238),
}


@pytest.mark.parametrize("name", REAL)
def test_real_photographs(shared_data: Path, tmp_path: Path, name: str) -> None:
    made = public.open_benchmark(str(shared_data / name), tmp_path)
    queries, *counts = REAL[name]
    assert {key: len(rows) for key, rows in made.query_sets.items()} == queries
    clusters = len(set(made.clusters()))
    assert [made.counts.get("boxes", 0), clusters, len(made.database)] == counts
    assert all(len(query.positives) for query in made.queries)
    assert has_mask(made.database_paths[0]) == name.startswith("logos")
