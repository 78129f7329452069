"""Public sets by name: miniatures of their layouts, the real ground truth, wrong copies."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from dagf.datasets import public
from dagf.datasets.benchmark import CLASSIC, Benchmark, from_ground_truth
from dagf.datasets.manifest import check_counts, read_manifest
from dagf.datasets.public import (
    CORRUPT,
    LOADERS,
    distractor_files,
    folders_of,
    load_holidays,
    load_ukbench,
    open_benchmark,
    place,
    spelled,
)
from dagf.errors import UserError
from tests.datasets.sets import (
    HOLIDAYS,
    MANIFEST,
    OXFORD,
    REVISITED,
    write_images,
    write_set,
    write_text_truth,
)

SETS = read_manifest(MANIFEST)


@pytest.mark.parametrize("layout", public.LAYOUTS)
@pytest.mark.parametrize("name", LOADERS)
def test_each_set_by_name_and_by_folder_in_both_layouts(
    tmp_path: Path, name: str, layout: str
) -> None:
    home = write_set(name, tmp_path, layout)
    made = open_benchmark(name, tmp_path)
    assert made.name == name
    assert all(path.is_file() for path in made.database_paths)
    assert open_benchmark(name.upper(), tmp_path).database == made.database
    again = open_benchmark(str(home), tmp_path)
    assert (again.name, again.database, labels(again)) == (made.name, made.database, labels(made))
    assert home in folders_of(name, tmp_path)
    assert place(name, tmp_path) == home


def labels(made: Benchmark) -> list[dict[str, list[int]]]:
    return [{key: rows.tolist() for key, rows in query.labels.items()} for query in made.queries]


@pytest.mark.parametrize("where", ["oxford5k", "oxford5k/gt", "oxford5k-gt"])
def test_text_and_pickle_of_oxford_say_the_same(tmp_path: Path, where: str) -> None:
    home = write_set("oxford5k", tmp_path)
    of_pickle = open_benchmark("oxford5k", tmp_path)
    (home / "gnd_oxford5k.pkl").unlink()
    with pytest.raises(UserError, match=r"no ground truth of oxford5k: .*gnd_oxford5k\.pkl does"):
        open_benchmark("oxford5k", tmp_path)
    write_text_truth(tmp_path / "test" / where)
    of_text = open_benchmark("oxford5k", tmp_path)
    assert of_text.database == of_pickle.database == tuple(f"{one}.jpg" for one in OXFORD)
    assert [(query.file, query.box) for query in of_text.queries] == [
        ("all_souls_000001.jpg", (1.5, 2.0, 30.0, 28.25)),
        ("oxford_000000.jpg", (0.0, 0.0, 32.0, 32.0)),
    ]
    assert labels(of_text) == [{"ok": [0, 1, 2], "junk": [3]}, {"ok": [4, 5], "junk": []}]
    assert labels(of_text) == labels(of_pickle)
    assert of_text.settings == (CLASSIC,)


def test_json_is_read_before_a_pickle(tmp_path: Path) -> None:
    home = write_set("roxford5k", tmp_path)
    of_pickle = open_benchmark("roxford5k", tmp_path)
    assert of_pickle.truth == home / "gnd_roxford5k.pkl"
    (home / "gnd_roxford5k.json").write_text(json.dumps(REVISITED))
    (home / "gnd_roxford5k.pkl").write_bytes(b"no pickle")
    of_json = open_benchmark("roxford5k", tmp_path)
    assert of_json.truth == home / "gnd_roxford5k.json"
    assert (of_json.database, labels(of_json)) == (of_pickle.database, labels(of_pickle))
    assert [query.box for query in of_json.queries] == [query.box for query in of_pickle.queries]


def test_the_corrupt_files_of_paris_are_left_out(tmp_path: Path) -> None:
    assert len(CORRUPT) == 20
    home = write_set("paris6k", tmp_path)
    (home / "gnd_paris6k.pkl").unlink()
    for path in (home / "jpg").iterdir():
        path.rename(path.with_name(f"paris_{path.name}"))
    write_text_truth(tmp_path / "test" / "paris6k-gt", prefix="paris_")
    for name in CORRUPT:
        (home / "jpg" / f"{name}.jpg").touch()
    (tmp_path / "test" / "paris6k-gt" / "oxford_1_junk.txt").write_text(f"{min(CORRUPT)}\n")
    made = open_benchmark("paris6k", tmp_path)
    assert made.database == tuple(f"paris_{one}.jpg" for one in OXFORD)
    assert labels(made)[1] == {"ok": [4, 5], "junk": []}


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("query", "oxc1_all_souls_000001 1 2 3 x", "could not convert string to float: 'x'"),
        ("query", "oxc1_all_souls_000001 1 2 3", "query 'all_souls_000001': not enough values"),
        ("query", "", "not enough values to unpack"),
        ("query", "oxc1_gone_000001 1 2 3 4", r"number 0 \(gone_000001\.jpg\)"),
        ("ok", "gone_000001", "oxford5k has 8 database .expected 7.*"),
        ("junk", None, "cannot read .*all_souls_1_junk.txt"),
    ],
)
def test_a_broken_text_file_is_named(tmp_path: Path, file: str, text: str | None, why: str) -> None:
    home = write_set("oxford5k", tmp_path)
    (home / "gnd_oxford5k.pkl").unlink()
    write_text_truth(home / "gt")
    path = home / "gt" / f"all_souls_1_{file}.txt"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=why):
        open_benchmark("oxford5k", tmp_path)


def test_two_sets_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("oxford5k", "paris6k"):
        write_set(name, tmp_path)
    jpg = tmp_path / "test" / "paris6k" / "jpg"
    for path in jpg.iterdir():
        path.rename(path.with_name(f"paris_{path.name}"))
    with pytest.raises(UserError, match=r"paris6k names 7 images that are not in .*, as all_souls"):
        open_benchmark("paris6k", tmp_path)
    home = write_set("roxford5k", tmp_path)
    (home / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({**REVISITED, "imlist": OXFORD}, 2))
    with pytest.raises(UserError, match=r"gnd_roxford5k\.pkl.* 7 database \(expected 6\)"):
        open_benchmark("roxford5k", tmp_path)
    monkeypatch.setattr(public, "DISTRACTORS", {"r1m": ("test/oxford5k", "jpg/*")})
    with pytest.raises(
        UserError, match=r"7 distractors, as .*all_souls_000000\.jpg, are in oxford"
    ):
        open_benchmark("oxford5k", tmp_path, ["r1m"])


def test_what_is_not_there_or_not_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'roxfrod': did you mean 'roxford5k'.*or name a folder"):
        open_benchmark("roxfrod", tmp_path)
    with pytest.raises(UserError, match="unknown distractor set 'r1': did you mean 'r1m'"):
        distractor_files("r1", tmp_path)
    with pytest.raises(UserError, match=r"rparis6k is not in .*: get it with `dagf data get rpar"):
        open_benchmark("rparis6k", tmp_path)
    with pytest.raises(
        UserError, match=r"unknown benchmark .*nowhere'.*or name a folder that exist"
    ):
        spelled(str(tmp_path / "nowhere"))
    (tmp_path / "test" / "rparis6k").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no ground truth of rparis6k: .*gnd_rparis6k\.pkl"):
        open_benchmark("rparis6k", tmp_path)
    with pytest.raises(UserError, match=r"the images of ukbench are not in .*full"):
        load_ukbench("ukbench", tmp_path)


def test_holidays_and_ukbench_by_their_names(tmp_path: Path) -> None:
    write_set("holidays", tmp_path)
    made = open_benchmark("holidays", tmp_path)
    assert made.database == tuple(f"{one}.jpg" for one in HOLIDAYS)
    assert [query.file for query in made.queries] == ["100000.jpg", "100100.jpg"]
    assert labels(made) == [{"ok": [1, 2], "junk": [0]}, {"ok": [4], "junk": [3]}]
    assert not made.fours
    write_set("holidays-upright", tmp_path)
    shutil.copytree(tmp_path / "test" / "holidays-upright", tmp_path / "Holidays_Upright")
    assert open_benchmark(str(tmp_path / "Holidays_Upright"), tmp_path).name == "holidays-upright"
    write_set("ukbench", tmp_path)
    made = open_benchmark("ukbench", tmp_path)
    assert [query.file for query in made.queries] == list(made.database)
    assert labels(made) == [{"ok": [0, 1, 2, 3]}] * 4 + [{"ok": [4, 5, 6, 7]}] * 4
    assert made.fours


def test_missing_and_foreign_photographs_of_groups_are_named(tmp_path: Path) -> None:
    home = write_set("holidays", tmp_path) / "jpg"
    (home / "100101.jpg").unlink()
    with pytest.raises(UserError, match=r"holidays has 4 database \(expected 5\), 2 ok \(expected"):
        open_benchmark("holidays", tmp_path)
    (home / "x.jpg").touch()
    with pytest.raises(UserError, match=r"x\.jpg is no image of holidays: move it away"):
        open_benchmark("holidays", tmp_path)


def mat(path: Path) -> dict[str, Any]:
    """A .mat ground truth, from 1, in our form from 0."""
    raw = pytest.importorskip("scipy.io").loadmat(path)
    names = [str(one[0]) for one in raw["imlist"].ravel()]
    gnd = []
    for entry in raw["gnd"].ravel():
        one = {key: [int(row) - 1 for row in entry[key].ravel()] for key in ("ok", "junk")}
        if "bbx" in entry.dtype.names:
            one["bbx"] = entry["bbx"].ravel().tolist()
        gnd.append(one)
    queries = [names[int(one) - 1] for one in raw["qidx"].ravel()]
    return {"imlist": names, "qimlist": queries, "gnd": gnd}


@pytest.mark.parametrize("name", ["oxford5k", "paris6k"])
def test_the_real_ground_truth_has_every_count(shared_data: Path, name: str) -> None:
    truth = mat(shared_data / "ground_truth" / f"gnd_{name}.mat")
    made = from_ground_truth(name, shared_data, truth)
    check_counts(made, SETS)
    assert not {Path(file).stem for file in made.database} & CORRUPT
    assert len(set(made.clusters())) == 10  # two landmarks share images


def test_our_holidays_rule_gives_the_published_ground_truth(
    shared_data: Path, tmp_path: Path
) -> None:
    truth = mat(shared_data / "ground_truth" / "gnd_holidays.mat")
    (tmp_path / "jpg").mkdir()
    for name in truth["imlist"]:
        (tmp_path / "jpg" / f"{name}.jpg").touch()
    made = load_holidays("holidays", tmp_path)
    published = from_ground_truth("holidays", tmp_path, truth)
    check_counts(made, SETS)
    assert made.files == published.files
    assert labels(made) == labels(published)


def test_distractors_of_a_public_set_or_of_a_folder(tmp_path: Path) -> None:
    home = tmp_path / "distractors" / "revisitop1m"
    for name in ("r1m", "oxford100k"):
        with pytest.raises(UserError, match=rf"{name} has no image here: get it .*, and unpack"):
            distractor_files(name, tmp_path)
    write_images(home / "jpg", ["0/a1.jpg", "0/a2.jpg", "1/b1.jpg"])
    files = [home / "jpg" / name for name in ("0/a1.jpg", "0/a2.jpg", "1/b1.jpg")]
    assert distractor_files("R1M", tmp_path) == files
    own = tmp_path / "own"
    write_images(own, ["a1.jpg", "b1.jpg"])
    (own / "labels.csv").write_text("file,instance,role\na1.jpg,,distractor\nb1.jpg,,database\n")
    write_set("rparis6k", tmp_path)
    made = open_benchmark("rparis6k", tmp_path, ["r1m", str(own)])
    assert list(made.distractors) == [*files, own / "a1.jpg"]
    (own / "labels.csv").write_text("file,instance,role\nb1.jpg,,database\n")
    with pytest.raises(UserError, match="has no image here: give the role distractor"):
        open_benchmark("rparis6k", tmp_path, [str(own)])
    assert folders_of("r1m", tmp_path) == [home]
    assert folders_of(str(home), tmp_path) == []
