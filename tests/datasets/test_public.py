"""Public sets by name: miniatures of their layouts, the real ground truth, and what is wrong with a copy."""

import collections
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagf.datasets import groups, oxford, public, revisited
from dagf.datasets.benchmark import CLASSIC, Benchmark, from_ground_truth
from dagf.datasets.checks import check
from dagf.datasets.images import load_image
from dagf.datasets.public import (
    LOADERS,
    distractor_files,
    folders_of,
    open_benchmark,
    place,
    spelled,
)
from dagf.datasets.revisited import COUNTS, check_counts, keep_as_json
from dagf.errors import UserError
from dagf.files import existing_file
from tests.datasets.sets import (
    HOLIDAYS,
    OXFORD,
    PICKLE,
    SMALL,
    white,
    write_images,
    write_set,
    write_text_truth,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of the miniatures in place of the real ones."""
    monkeypatch.setattr(revisited, "COUNTS", SMALL)


@pytest.mark.usefixtures("small")
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
    again = open_benchmark(str(home), tmp_path / "elsewhere")
    assert (again.name, again.database, labels(again)) == (made.name, made.database, labels(made))
    assert home in folders_of(name, tmp_path)
    assert place(name, tmp_path) == home


def labels(made: Benchmark) -> list[dict[str, list[int]]]:
    return [{key: rows.tolist() for key, rows in query.labels.items()} for query in made.queries]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", ["oxford5k", "oxford5k/gt", "oxford5k-gt"])
def test_text_and_pickle_of_oxford_say_the_same(tmp_path: Path, where: str) -> None:
    home = write_set("oxford5k", tmp_path)
    of_pickle = open_benchmark("oxford5k", tmp_path)
    (home / "gnd_oxford5k.pkl").unlink()
    with pytest.raises(UserError, match=r"no ground truth of oxford5k: expected .*oxford5k-gt"):
        open_benchmark("oxford5k", tmp_path)
    write_text_truth(tmp_path / "test" / where)
    of_text = open_benchmark("oxford5k", tmp_path)
    assert of_text.database == of_pickle.database == tuple(f"{one}.jpg" for one in OXFORD)
    assert [(query.file, query.box) for query in of_text.queries] == [
        ("all_souls_000001.jpg", (1.5, 2.0, 30.0, 28.25)), ("oxford_000000.jpg", (0.0, 0.0, 32.0, 32.0)),
    ]  # fmt: skip
    assert (
        labels(of_text)
        == labels(of_pickle)
        == [{"ok": [0, 1, 2], "junk": [3]}, {"ok": [4, 5], "junk": []}]
    )
    assert of_text.settings == (CLASSIC,)


@pytest.mark.usefixtures("small")
def test_json_is_read_before_a_pickle(tmp_path: Path) -> None:
    home = write_set("roxford5k", tmp_path)
    of_pickle = open_benchmark("roxford5k", tmp_path)
    assert of_pickle.truth == home / "gnd_roxford5k.pkl"
    keep_as_json(home / "gnd_roxford5k.pkl")
    (home / "gnd_roxford5k.pkl").write_bytes(b"no pickle")
    of_json = open_benchmark("roxford5k", tmp_path)
    assert of_json.truth == home / "gnd_roxford5k.json"
    assert (of_json.database, labels(of_json)) == (of_pickle.database, labels(of_pickle))
    assert [query.box for query in of_json.queries] == [query.box for query in of_pickle.queries]


@pytest.mark.usefixtures("small")
def test_a_mismatch_names_the_files(tmp_path: Path) -> None:
    home = write_set("oxford5k", tmp_path)
    (home / "gnd_oxford5k.pkl").unlink()
    write_text_truth(home / "gt")
    (home / "gt" / "oxford_1_ok.txt").write_text("")
    with pytest.raises(
        UserError,
        match=rf"^{home / 'gt'}: oxford5k has 4 ok \(expected 5\): another version of the set",
    ):
        open_benchmark("oxford5k", tmp_path)
    home = write_set("holidays", tmp_path)  # whose photographs' names are the ground truth
    (home / "jpg" / "100101.jpg").unlink()
    with pytest.raises(UserError, match=rf"^{home / 'jpg'}: holidays has 4 database"):
        open_benchmark("holidays", tmp_path)


@pytest.mark.usefixtures("small")
def test_the_corrupt_files_of_paris_are_left_out(tmp_path: Path) -> None:
    assert len(oxford.CORRUPT) == 20
    home = write_set("paris6k", tmp_path)
    (home / "gnd_paris6k.pkl").unlink()
    for path in (home / "jpg").iterdir():
        path.rename(path.with_name(f"paris_{path.name}"))
    write_text_truth(tmp_path / "test" / "paris6k-gt", prefix="paris_")
    for name in sorted(oxford.CORRUPT):
        (home / "jpg" / f"{name}.jpg").touch()
    junk = tmp_path / "test" / "paris6k-gt" / "oxford_1_junk.txt"
    junk.write_text(f"{min(oxford.CORRUPT)}\n")
    made = open_benchmark("paris6k", tmp_path)
    assert made.database == tuple(f"paris_{one}.jpg" for one in OXFORD)
    assert labels(made)[1] == {"ok": [4, 5], "junk": []}


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("oxc1_all_souls_000001 1 2 3", r"all_souls_1_query\.txt: expected 'NAME x1 y1 x2 y2'"),
        ("oxc1_all_souls_000001 1 2 3 x", r"expected 'NAME x1 y1 x2 y2'"),
        ("", r"expected 'NAME x1 y1 x2 y2'"),
        (
            "oxc1_gone_000001 1 2 3 4",
            r"names 1 images that are not in .*jpg, as gone_000001: unpack",
        ),
    ],
)
def test_a_broken_text_file_is_named(tmp_path: Path, query: str, why: str) -> None:
    write_images(tmp_path / "jpg", [f"{one}.jpg" for one in OXFORD])
    write_text_truth(tmp_path / "gt")
    (tmp_path / "gt" / "all_souls_1_query.txt").write_text(query)
    with pytest.raises(UserError, match=why):
        oxford.load_oxford("oxford5k", tmp_path)
    (tmp_path / "gt" / "all_souls_1_ok.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*all_souls_1_ok\.txt"):
        oxford.load_oxford("oxford5k", tmp_path)


@pytest.mark.usefixtures("small")
def test_two_sets_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("oxford5k", "paris6k"):
        write_set(name, tmp_path)
    jpg = tmp_path / "test" / "paris6k" / "jpg"
    for path in jpg.iterdir():
        path.rename(path.with_name(f"paris_{path.name}"))
    with pytest.raises(
        UserError,
        match=r"7 of 7 images of paris6k are not in .*, as all_souls_000000\.jpg, all_souls_0",
    ):
        open_benchmark("paris6k", tmp_path)
    home = write_set("roxford5k", tmp_path)
    truth = {**PICKLE, "gnd": [{"bbx": [0, 0, 9, 9], "easy": [0], "hard": [1], "junk": []}] * 2}
    (home / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, 2))
    wrong = r"gnd_roxford5k\.pkl: roxford5k has 2 queries \(expected 1\), 7 database \(expected 6\)"
    with pytest.raises(UserError, match=wrong):
        open_benchmark("roxford5k", tmp_path)
    monkeypatch.setattr(
        public, "DISTRACTORS", {"r1m": public.DistractorSet("test/oxford5k", "jpg/*")}
    )
    with pytest.raises(
        UserError, match=r"7 distractors are images of oxford5k itself, as .*all_souls_000000\.jpg"
    ):
        open_benchmark("oxford5k", tmp_path, ["r1m"])


def test_what_is_not_there_or_not_known(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown benchmark 'roxfrod': did you mean 'roxford5k'.*or name a folder"
    ):
        open_benchmark("roxfrod", tmp_path)
    with pytest.raises(UserError, match="unknown distractor set 'r1': did you mean 'r1m'"):
        distractor_files("r1", tmp_path)
    with pytest.raises(
        UserError,
        match=r"rparis6k is not here: get it with `dagf data get rparis6k`, or put it into",
    ):
        open_benchmark("rparis6k", tmp_path)
    with pytest.raises(UserError, match="nowhere is no folder"):
        spelled(str(tmp_path / "nowhere"))
    (tmp_path / "test" / "rparis6k").mkdir(parents=True)
    with pytest.raises(UserError, match="images of rparis6k are not at"):
        open_benchmark("rparis6k", tmp_path)
    (tmp_path / "test" / "paris6k" / "jpg").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"no ground truth of rparis6k: expected .*gnd_rparis6k\.pkl; get it"
    ):
        open_benchmark("rparis6k", tmp_path)
    with pytest.raises(UserError, match=r"the images of ukbench are not in .*full"):
        groups.load_ukbench("ukbench", tmp_path)


@pytest.mark.usefixtures("small")
def test_holidays_and_ukbench_by_their_names(tmp_path: Path) -> None:
    write_set("holidays", tmp_path)
    made = open_benchmark("holidays", tmp_path)
    assert made.database == tuple(f"{one}.jpg" for one in HOLIDAYS)
    assert [query.file for query in made.queries] == ["100000.jpg", "100100.jpg"]
    assert labels(made) == [{"ok": [1, 2], "junk": [0]}, {"ok": [4], "junk": [3]}]
    assert not made.fours
    write_set("holidays-upright", tmp_path)
    assert open_benchmark("holidays-upright", tmp_path).name == "holidays-upright"
    shutil.copytree(tmp_path / "test" / "holidays-upright", tmp_path / "Holidays_Upright")
    assert open_benchmark(str(tmp_path / "Holidays_Upright"), tmp_path).name == "holidays-upright"
    write_set("ukbench", tmp_path)
    made = open_benchmark("ukbench", tmp_path)
    assert [query.file for query in made.queries] == list(made.database)
    assert labels(made) == [{"ok": [0, 1, 2, 3]}] * 4 + [{"ok": [4, 5, 6, 7]}] * 4
    assert made.fours


@pytest.mark.usefixtures("small")
def test_missing_and_foreign_photographs_of_groups_are_named(tmp_path: Path) -> None:
    home = write_set("holidays", tmp_path) / "jpg"
    (home / "100101.jpg").unlink()  # the last of its group: only the counts tell
    with pytest.raises(
        UserError, match=r"holidays has 4 database \(expected 5\), 2 ok \(expected 3\)"
    ):
        open_benchmark("holidays", tmp_path)
    (home / "100001.jpg").unlink()
    with pytest.raises(
        UserError, match=r"1 photographs of holidays are not in .*, as 1 of group 1000"
    ):
        open_benchmark("holidays", tmp_path)
    (home / "x.jpg").touch()
    with pytest.raises(UserError, match=r"1 files that are not of holidays, as x\.jpg"):
        open_benchmark("holidays", tmp_path)
    (write_set("ukbench", tmp_path) / "full" / "ukbench00007.jpg").unlink()
    with pytest.raises(
        UserError, match=r"1 photographs of ukbench are not in .*full, as 3 of group 1"
    ):
        open_benchmark("ukbench", tmp_path)


def mat(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A .mat ground truth, from 1, in our form from 0; and its queries' names."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    raw = loadmat(path)
    names = [str(one[0]) for one in raw["imlist"].ravel()]
    asked = [names[int(one) - 1] for one in raw["qidx"].ravel()]
    gnd = []
    for entry in raw["gnd"].ravel():
        one: dict[str, Any] = {
            key: [int(row) - 1 for row in entry[key].ravel()] for key in ("ok", "junk")
        }
        gnd.append(
            one | ({"bbx": entry["bbx"].ravel().tolist()} if "bbx" in entry.dtype.names else {})
        )
    return {"imlist": names, "qimlist": asked, "gnd": gnd}, asked


@pytest.mark.parametrize("name", ["oxford5k", "paris6k", "holidays"])
def test_the_real_ground_truth_has_every_count(shared_data: Path, name: str) -> None:
    truth, _ = mat(shared_data / "ground_truth" / f"gnd_{name}.mat")
    made = from_ground_truth(name, shared_data, truth)
    check_counts(made)
    queries = made.queries
    assert len(queries) == (500 if name == "holidays" else 55)
    if name != "holidays":
        assert len({stem.rsplit("_", 1)[0] for stem in truth["imlist"]}) >= 11
        assert not {Path(file).stem for file in made.database} & oxford.CORRUPT
        assert all(query.box for query in queries)
    first = queries[0]
    fewer = {**first.labels, "ok": first.labels["ok"][1:]}
    with pytest.raises(UserError, match=rf"{name} has \d+ ok \(expected {COUNTS[name].ok}\)"):
        check_counts(replace(made, queries=(replace(first, labels=fewer), *queries[1:])))
    swapped = replace(first, file=queries[7].file)
    with pytest.raises(UserError, match=r"1 queries that are not labelled .*, as number 0 \("):
        check_counts(replace(made, queries=(swapped, *queries[1:])))


def test_our_holidays_rule_gives_the_published_ground_truth(
    shared_data: Path, tmp_path: Path
) -> None:
    truth, asked = mat(shared_data / "ground_truth" / "gnd_holidays.mat")
    (tmp_path / "jpg").mkdir()
    for name in truth["imlist"]:
        (tmp_path / "jpg" / f"{name}.jpg").touch()
    made, published = (
        groups.load_holidays("holidays", tmp_path),
        from_ground_truth("holidays", tmp_path, truth),
    )
    check_counts(made)
    assert made.database == published.database
    assert [query.file for query in made.queries] == [f"{one}.jpg" for one in asked]
    assert labels(made) == labels(published)


def test_a_full_ukbench_has_every_count(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    for number in range(10200):
        (tmp_path / "full" / f"ukbench{number:05d}.jpg").touch()
    made = groups.load_ukbench("ukbench", tmp_path)
    check_counts(made)
    assert made.fours
    sizes = collections.Counter(
        int(row) // 4 for query in made.queries for row in query.labels["ok"]
    )
    assert set(sizes.values()) == {16}


@pytest.mark.parametrize(
    ("name", "label", "index"), [("roxford5k", "easy", 11), ("rparis6k", "junk", 25)]
)
def test_which_queries_lack_a_label_is_checked(
    shared_data: Path, name: str, label: str, index: int
) -> None:
    truth = revisited.load_ground_truth(shared_data / "ground_truth" / f"gnd_{name}.pkl")
    for part in ("gnd", "qimlist"):  # two queries change places: every sum stays
        truth[part][0], truth[part][index] = truth[part][index], truth[part][0]
    with pytest.raises(
        UserError, match=rf"other queries without {label}, as number 0 .*, number {index} "
    ):
        check_counts(from_ground_truth(name, shared_data, truth))


@pytest.mark.parametrize("what", ["x" * 5000, "a/" + "x" * 5000, "a\0b"])
def test_a_name_that_no_folder_can_have(tmp_path: Path, what: str) -> None:
    for read in (
        lambda: check(what, tmp_path),
        lambda: open_benchmark(what, tmp_path),
        lambda: existing_file(what),
    ):
        with pytest.raises(
            UserError, match=r"unknown (data set|benchmark)|is no (folder|file): check the spelling"
        ):
            read()


def test_distractors_are_counted_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "distractors" / "revisitop1m"
    with pytest.raises(UserError, match="holds no image of r1m: get it"):
        distractor_files("r1m", tmp_path)
    write_images(home / "jpg", ["0/a1.jpg", "0/a2.jpg", "1/b1.jpg"])
    files, wrong = distractor_files("R1M", tmp_path)
    assert [path.relative_to(home).as_posix() for path in files] == [
        "jpg/0/a1.jpg",
        "jpg/0/a2.jpg",
        "jpg/1/b1.jpg",
    ]
    assert wrong == ["3 images (expected 1001001)"]
    (home / "revisitop1m.txt").write_text("jpg/0/a1.jpg\n1/b1.jpg\n9/z.jpg\n9/y.jpg\n")
    assert distractor_files("r1m", tmp_path)[1][1:] == [
        "2 images in its list are not here, as 9/y.jpg, 9/z.jpg", "1 images are not in its list, as 0/a2.jpg",
    ]  # fmt: skip
    assert check("r1m", tmp_path)[0] == "distractor: 3 images"
    assert len(check("r1m", tmp_path)) == 4
    with pytest.raises(
        UserError, match="holds no image of oxford100k: unpack its parts there with an unrar tool"
    ):
        distractor_files("oxford100k", tmp_path)
    monkeypatch.setattr(revisited, "COUNTS", SMALL)
    write_set("rparis6k", tmp_path)
    made = open_benchmark("rparis6k", tmp_path, ["r1m"])
    assert list(made.distractors) == files
    assert folders_of("r1m", tmp_path) == [home]
    assert folders_of(str(home), tmp_path) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("box", [[40, 0, 50, 9], [-9, -9, 0, 0], [0, 32.5, 9, 40]])
def test_a_box_outside_its_image_is_named_with_the_size(tmp_path: Path, box: list[float]) -> None:
    home = write_set("oxford5k", tmp_path)
    white(home / "jpg" / "oxford_000000.jpg", 40, 32)
    truth = {**PICKLE, "gnd": [PICKLE["gnd"][0], {**PICKLE["gnd"][1], "bbx": box}]}  # type: ignore[dict-item]
    (home / "gnd_oxford5k.pkl").write_bytes(pickle.dumps(truth, 2))
    made = open_benchmark("oxford5k", tmp_path)
    for per_query in (
        lambda: check("oxford5k", tmp_path),
        lambda: load_all(made),
    ):
        with pytest.raises(UserError) as caught:
            per_query()
        for part in ("oxford_000000.jpg", str(made.queries[1].box), "40 x 32"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)


def load_all(made: Benchmark) -> None:
    for query in made.queries:
        load_image(made.root / query.file, box=query.box)
