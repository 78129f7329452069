"""Other people's ground truth becomes ours, and what cannot is told in one line."""

import csv
import json
import os
import pickle
import re
import shutil
import struct
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagf.datasets.convert import convert, convert_public, groups, smvs_labels, unpickled
from dagf.datasets.folder import load_folder, read_boxes, read_labels
from dagf.datasets.public import open_benchmark
from tests.datasets.sets import HOLIDAYS, MANIFEST, mat, smvs_files, write_grocery
from tests.fixtures import Code, fails

FILES = ["castle/1.jpg", "castle/2.JPG", "castle/3.png"]
FILES += ["tower/a.jpg", "tower/b.jpg", "hut/x.jpg", "street.jpg"]
PACKED = re.compile(r"images/(test_|val_|iconic_|)(.+)_(\d+|Iconic)\.jpg")
TRUTH = {
    "imlist": ["a", "b", "é"],
    "qimlist": ["q"],
    "gnd": [{"bbx": [1, 2.5, 300, 70000], "easy": [0], "hard": [2], "junk": []}],
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for file in (*FILES, "notes.txt"):
        (tmp_path / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / file).touch()
    return tmp_path / "photos"


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_sub_folders_are_instances(photos: Path) -> None:
    said = convert(photos)
    rows = read_labels(photos).itertuples(index=False)
    assert {file: (instance, role) for file, instance, role in rows} == {
        "castle/1.jpg": ("castle", "query"), "castle/2.JPG": ("castle", "database"),
        "castle/3.png": ("castle", "database"), "tower/a.jpg": ("tower", "query"),
        "tower/b.jpg": ("tower", "database"), "hut/x.jpg": ("hut", "database"),
        "street.jpg": ("", "distractor"),
    }  # fmt: skip
    assert [len(query.labels["ok"]) for query in load_folder(photos).queries] == [2, 1]
    roles = ["database: 4 images", "distractor: 1 images", "query: 2 images"]
    last = "7 images; left out: 1 of other kinds (.txt)"
    assert said == [f"{photos / 'labels.csv'}: 7 images of 3 instances", *roles, last]


def test_linked_folders_are_instances_and_numbers_in_order(photos: Path, tmp_path: Path) -> None:
    (photos / "castle" / "10.jpg").touch()
    (photos / "castle" / "1.jpg").rename(photos / "castle" / "09.jpg")
    (tmp_path / "far").mkdir()
    for name in ("10.jpg", "9.jpg"):
        (tmp_path / "far" / name).touch()
    (photos / "mill").symlink_to(tmp_path / "far")
    convert(photos)
    queries = [query.file for query in load_folder(photos).queries]
    assert queries == ["castle/2.JPG", "mill/9.jpg", "tower/a.jpg"]
    (photos / "gone.jpg").symlink_to("nowhere")
    fails("cannot read .*gone.jpg .it leads nowhere", convert, photos, force=True)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_with_other_columns(photos: Path, tmp_path: Path, mark: str) -> None:
    lines = ["id,path,landmark,Role", "1,castle/1.jpg,c,probe"]
    lines += [f"2,{photos}/castle/2.JPG,c,gallery"]
    lines += ["3,tower/a.jpg,t,train", "4,tower/b.jpg,t,train"]
    listing = table(tmp_path / "x.csv", *(line.replace(",", mark) for line in lines))
    convert(photos, listing, {"file": "path", "instance": "landmark"})
    assert read_labels(photos)[["file", "role"]].to_numpy().tolist() == [
        ["castle/1.jpg", "query"], ["castle/2.JPG", "database"],
        ["tower/a.jpg", "train"], ["tower/b.jpg", "train"],
    ]  # fmt: skip


def test_pairs(photos: Path, tmp_path: Path) -> None:
    lines = ["q,refs,junk", "castle/1.jpg,castle/2.JPG; castle/1.jpg,castle/3.png"]
    lines += ["tower/a.jpg,castle/1.jpg castle/2.JPG,castle/2.JPG", "hut/x.jpg,,"]
    listing = table(tmp_path / "x.csv", *lines)
    said = convert(photos, listing, {"query": "q", "positives": "refs"})
    made = load_folder(photos)
    # the queries are no database images, but for the one that another query is to find
    rows = ["castle/1.jpg", "castle/2.JPG", "castle/3.png", "street.jpg", "tower/b.jpg"]
    assert list(made.database) == rows
    assert [query.file for query in made.queries] == ["castle/1.jpg", "tower/a.jpg", "hut/x.jpg"]
    assert [query.labels["ok"].tolist() for query in made.queries] == [[1], [0], []]
    assert [query.labels["junk"].tolist() for query in made.queries] == [[0, 2], [1], []]
    counts = "3 queries, 5 database images"
    last = "7 images; left out: 1 of other kinds (.txt)"
    assert said == [f"{photos / 'ground_truth.json'}: {counts}", "2 positives, 3 junk", last]
    table(listing, "query,positives,junk", "CASTLE\\1.jpg,castle\\2.jpg;castle/1.jpg,castle/3.PNG")
    convert(photos, listing, force=True)  # as other systems spell them
    made = load_folder(photos)
    assert (made.queries[0].file, made.database[0]) == ("castle/1.jpg", "castle/1.jpg")
    assert [rows.tolist() for rows in made.queries[0].labels.values()] == [[1], [0, 2]]


def test_columns_that_two_forms_share(photos: Path, tmp_path: Path) -> None:
    """And whole paths by way of a link."""
    (tmp_path / "link").symlink_to(photos)
    lines = ["file,instance,query", f"{tmp_path}/link/castle/1.jpg,c,1", "castle/2.JPG,c,0"]
    convert(tmp_path / "link", table(tmp_path / "x.csv", *lines))
    assert read_labels(photos)["file"].tolist() == ["castle/1.jpg", "castle/2.JPG"]


def test_a_name_that_is_no_text(photos: Path) -> None:
    (photos / "castle" / os.fsdecode(b"caf\xe9.jpg")).touch()
    fails(r"the name 'castle/caf\\udce9\.jpg' is no UTF-8: rename the file", convert, photos)
    assert not (photos / "labels.csv").exists()


PAIR, LABELS = "query,positives", "file,instance"
NEVER: list[tuple[list[str], dict[str, str], str]] = [
    ([LABELS, "gone.jpg,a", "castle/1.jpg,a"], {}, r"as gone\.jpg: mend the names"),
    ([LABELS, "../x.jpg,a", "castle/1.jpg,a"], {}, r"'\.\./x\.jpg' is no image in the f"),
    ([LABELS, '"street.jpg,a', *"ab" * 99, '",a', "hut/x.jpg,a"], {}, "'street.* is no image in"),
    (["file,instance,role", "castle/1.jpg,a,quer"], {}, "did you mean 'query'"),
    (["a,b", "castle/1.jpg,a"], {}, r"x\.csv has 1 lines with a, b: say with --column OURS=T"),
    ([LABELS], {}, r"x\.csv has 0 lines with file, instance"),
    (["a,b", "castle/1.jpg,a"], {"file": "c"}, r"x\.csv .*it has the columns a, b.* columns c"),
    ([LABELS, "castle/1.jpg,a", "castle/2.JPG,b"], {}, "no instance has two images"),
    ([PAIR, "castle/1.jpg,1.jpg 2.jpg"], {}, r"names 2 images .* as 1\.jpg, 2\.jpg: mend"),
    ([PAIR, "castle/1.jpg,castle/1.jpg"], {}, "has no query with a positive"),
    ([PAIR, *("castle/1.jpg,castle/2.JPG",) * 2], {}, r"the query castle/1\.jpg is in two lines"),
]


@pytest.mark.parametrize(("lines", "columns", "why"), NEVER)
def test_what_cannot_be_leaves_nothing(
    photos: Path, tmp_path: Path, lines: list[str], columns: dict[str, str], why: str
) -> None:
    before = sorted(photos.rglob("*"))
    fails(why, convert, photos, table(tmp_path / "x.csv", *lines), columns)
    assert sorted(photos.rglob("*")) == before


def test_nothing_is_replaced_unless_asked(photos: Path, tmp_path: Path) -> None:
    fails("there is no image in", convert, tmp_path / "nowhere")
    table(photos / "labels.csv", "mine")
    fails(r"labels\.csv exists already: give --force to replace it", convert, photos)
    pairs = table(tmp_path / "x.csv", PAIR, "castle/1.jpg,castle/2.JPG")
    says = r"labels\.csv exists, and a folder has one ground truth"
    fails(says, convert, photos, pairs, force=True)
    lines = ["file,instance,role", "tower/a.jpg,a,query", "hut/x.jpg,b,query"]
    says = f"^{photos / 'labels.csv'} has no query with a positive"
    fails(says, convert, photos, table(tmp_path / "y.csv", *lines), force=True)
    assert (photos / "labels.csv").read_text() == "mine\n"
    convert(photos, force=True)
    assert len(read_labels(photos)) == 7


def test_the_real_corridor(shared_data: Path, tmp_path: Path) -> None:
    """A link to each frame stands for it: the shared folder is not written to."""
    home = tmp_path / "corridor"
    for part in ("query", "ref"):
        (home / part).mkdir(parents=True)
        for path in (shared_data / "corridor" / part).iterdir():
            (home / part / path.name).symlink_to(path)
    said = convert(home, shared_data / "corridor" / "ground_truth.csv")
    assert said[0] == f"{home / 'ground_truth.json'}: 111 queries, 111 database images"
    made = load_folder(home)
    for number, query in enumerate(made.queries):
        near = [f"ref/{other:07d}.jpg" for other in range(max(0, number - 2), min(111, number + 3))]
        assert query.file == f"query/{number:07d}.jpg"
        assert [made.database[row] for row in query.labels["ok"]] == near


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.dictionaries(st.sampled_from(FILES), st.sets(st.sampled_from(FILES)), min_size=1))
def test_any_pair_list_comes_out_as_it_went_in(photos: Path, pairs: dict[str, set[str]]) -> None:
    lines = [f"{query},{' '.join(sorted(ok))}" for query, ok in pairs.items()]
    listing = table(photos / "x.csv", PAIR, *lines)
    if not any(ok - {query} for query, ok in pairs.items()):
        fails("has no query with a positive", convert, photos, listing, force=True)
        return
    convert(photos, listing, force=True)
    made = load_folder(photos)
    assert {query.file for query in made.queries} == set(pairs)
    for query in made.queries:
        found = {made.database[row] for row in query.labels["ok"]}
        assert found == pairs[query.file] - {query.file}
    assert set(made.database) == (set(FILES) - set(pairs)) | set().union(*pairs.values())
    for query in made.queries:
        assert all(made.database[row] == query.file for row in query.labels["junk"])


def test_names_give_the_groups_of_holidays_and_ukbench() -> None:
    found = groups([f"{one}.jpg" for one in HOLIDAYS], 100)
    assert found["qimlist"] == ["100000.jpg", "100100.jpg"]
    assert found["gnd"] == [{"ok": [1, 2], "junk": [0]}, {"ok": [4], "junk": [3]}]
    files = [f"ukbench{number:05d}.jpg" for number in range(8)]
    found = groups(files, 4)
    assert found["imlist"] == found["qimlist"] == files
    assert [entry["ok"] for entry in found["gnd"]] == [[0, 1, 2, 3]] * 4 + [[4, 5, 6, 7]] * 4


def test_our_holidays_rule_gives_the_published_ground_truth(shared_data: Path) -> None:
    truth = mat(shared_data / "ground_truth" / "gnd_holidays.mat")
    found = groups([f"{name}.jpg" for name in truth["imlist"]], 100)
    assert found["gnd"] == truth["gnd"]
    assert found["qimlist"] == [f"{name}.jpg" for name in truth["qimlist"]]


def test_the_rows_are_those_of_the_measured_labels(shared_data: Path, tmp_path: Path) -> None:
    """The real layout is built up from what labels.csv tells of it."""
    with (shared_data / "products" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    roles = {row["instance"]: row["role"] for row in rows}
    for row in rows:
        part, name, number = PACKED.fullmatch(row["file"]).groups()
        assert name == row["instance"]
        if part != "iconic_":
            numbers[name][part].append(int(number))
    kinds = []
    for place, (name, parts) in enumerate(numbers.items()):
        # every second photograph, counted through the lists: where a list starts says whether the
        # last is missing
        counts = [max(parts.get(part, [0])) for part in ("", "test_", "val_")]
        if roles[name] == "train-category":
            for at, (this, following) in enumerate((("", "test_"), ("test_", "val_"))):
                before = sum(counts[:at])
                if following in parts and (before + counts[at] + parts[following][0]) % 2 == 0:
                    counts[at] += 1
                assert (before + parts[this][0]) % 2 == 1
        family = {"train": "Milk", "train-category": "Fruit"}.get(roles[name], "Juice")
        folder = "Fruit" if family == "Fruit" else f"Packages/{family}"
        kinds.append((name, place, family, 0, folder, tuple(counts)))
    home = tmp_path / "test" / "grocery"
    write_grocery(home, kinds, pixels=False)
    convert_public("grocery", home)

    def packed(file: str) -> str:
        part = file.split("/")[1]
        prefix = {"train": "", "iconic-images-and-descriptions": "iconic_"}.get(part, f"{part}_")
        return f"images/{prefix}{Path(file).name}"

    found = read_labels(home)
    found["file"] = found["file"].map(packed)
    assert found.to_dict("records") == rows
    shutil.copy(MANIFEST, tmp_path)
    assert open_benchmark("grocery", tmp_path).settings[0].name == "Classic"  # the real counts hold
    (home / "dataset" / "val.txt").write_text("")
    convert_public("grocery", home)
    match = r"grocery has 388 database \(expected 417\), 3508 ok \(expected 3761\)"
    fails(match, open_benchmark, "grocery", tmp_path)
    (home / "dataset" / "test.txt").unlink()
    says = r"dataset is no whole copy of .*test\.txt.*: get it again"
    fails(says, convert_public, "grocery", home)


def test_the_logos_are_those_of_the_measured_folder(shared_data: Path, tmp_path: Path) -> None:
    """The authors' lists are built up from labels.csv and boxes.csv."""
    measured, home = shared_data / "logos", tmp_path / "test" / "flickrlogos27"
    rows, boxes = read_labels(measured), read_boxes(measured)
    (home / "images").mkdir(parents=True)
    for file in rows["file"]:
        (home / file).touch()
    lines = [
        " ".join(map(str, [file[7:], logo, subset, *box]))
        for subset in (1, 2)  # each has all boxes of those before it
        for _, file, logo, *box in boxes.itertuples()
    ]
    lines += [f"3759339764.jpg {logo} 1 12 280 73 327" for logo in ("Cocacola", "Pepsi")]
    table(home / "training_set_annotation.txt", *lines)
    queries = rows[~rows["file"].isin(boxes["file"])]
    lines = [f"{file[7:]}\t{logo or 'none'}" for _, file, logo, _ in queries.itertuples()]
    table(home / "query_set_annotation.txt", *lines)
    convert_public("flickrlogos27", home)
    assert read_labels(home).to_numpy().tolist() == rows.to_numpy().tolist()
    assert read_boxes(home).to_numpy().tolist() == boxes.drop_duplicates().to_numpy().tolist()
    boxed = json.loads((home / "gnd_flickrlogos27_boxed.json").read_text())
    truth = json.loads((measured / "gnd_logos_boxed.json").read_text())
    assert boxed == {key: truth[key] for key in ("imlist", "qimlist", "gnd")}
    shutil.copy(MANIFEST, tmp_path)
    assert open_benchmark("flickrlogos27", tmp_path).distractors  # the real counts hold


@pytest.mark.parametrize("part", ["dvd", "street", "books"])
def test_stanfords_rows_are_those_measured(shared_data: Path, tmp_path: Path, part: str) -> None:
    for file in smvs_files()[part]:
        (tmp_path / part / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part / file).touch()

    def spelled(file: str) -> str:
        """As there: images/CAMERA_NUMBER, or query/ and reference/."""
        camera, number = file.split("/")
        other = "reference" if camera == "Reference" else "query"
        return f"images/{camera}_{number}" if part == "dvd" else f"{other}/{number}"

    rows = smvs_labels(tmp_path / part)
    found = rows.assign(file=rows["file"].map(spelled)).to_numpy().tolist()
    assert sorted(found) == sorted(read_labels(shared_data / part).to_numpy().tolist())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_loads_and_code_never_runs(tmp_path: Path, protocol: int) -> None:
    path, code = tmp_path / "gnd_x.pkl", Code(tmp_path / "fired")
    path.write_bytes(pickle.dumps(TRUTH, protocol))
    convert_public("x", tmp_path)
    assert json.loads((tmp_path / "gnd_x.json").read_text()) == TRUTH
    path.write_bytes(pickle.dumps({**TRUTH, "x": code}, protocol))
    fails(r"gnd_x\.pkl .*it asks for .*, which may run code", unpickled, path)
    assert not code.file.exists()


@pytest.mark.parametrize(
    "data", [b"", pickle.dumps(TRUTH, 2)[:40], b"\x80\x04\x8e" + struct.pack("<Q", 2**60)]
)
def test_a_broken_pickle_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "gnd_x.pkl").write_bytes(data)
    fails(r"gnd_x\.pkl is no pickle of plain data", unpickled, tmp_path / "gnd_x.pkl")


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_published_pickle_is_the_published_json(shared_data: Path, name: str) -> None:
    path = shared_data / "ground_truth" / f"gnd_{name}.pkl"
    assert unpickled(path) == json.loads(path.with_suffix(".json").read_text())
