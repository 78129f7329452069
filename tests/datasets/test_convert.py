"""Other people's ground truth becomes ours, and what cannot is told in one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagf.datasets.convert import convert
from dagf.datasets.folder import load_folder, read_labels, training_images
from dagf.errors import UserError
from dagf.retrieval.metrics import evaluate, mean_average_precision

FILES = [
    *("castle/1.jpg", "castle/2.JPG", "castle/3.png"),
    *("tower/a.jpg", "tower/b.jpg", "hut/x.jpg", "street.jpg"),
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for file in FILES:
        (tmp_path / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / file).touch()
    (tmp_path / "photos" / "notes.txt").touch()
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
    made = load_folder(photos)
    assert [len(query.labels["ok"]) for query in made.queries] == [2, 1]
    assert said == [
        f"{photos / 'labels.csv'}: 7 images of 3 instances",
        "database: 4 images", "distractor: 1 images", "query: 2 images",
        "1 instances have one image, which finds nothing and is found by nothing: hut",
        "no image has the role train: heads are not trained on this folder",
    ]  # fmt: skip


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_with_other_columns(photos: Path, tmp_path: Path, mark: str) -> None:
    lines = ["id,path,landmark,split", "1,castle/1.jpg,c,probe"]
    lines += [f"2,{photos}/castle/2.JPG,c,gallery"]
    lines += ["3,tower/a.jpg,t,train", "4,tower/b.jpg,t,train"]
    listing = table(tmp_path / "x.csv", *(line.replace(",", mark) for line in lines))
    said = convert(photos, listing, {"file": "path", "instance": "landmark", "role": "split"})
    assert read_labels(photos)[["file", "role"]].to_numpy().tolist() == [
        ["castle/1.jpg", "query"], ["castle/2.JPG", "database"],
        ["tower/a.jpg", "train"], ["tower/b.jpg", "train"],
    ]  # fmt: skip
    assert "3 images are in no line, and are not used: castle/3.png, hut/x.jpg, street.jpg" in said
    assert not any("role train" in line for line in said)


def test_columns_may_have_large_letters(photos: Path, tmp_path: Path) -> None:
    """Without the roles that it gives, the list would be another benchmark."""
    lines = ["File,instance,Role,PATH", "castle/1.jpg,c,train,", "tower/a.jpg,t,query,"]
    convert(photos, table(tmp_path / "x.csv", *lines, "tower/b.jpg,t,database,"))
    assert read_labels(photos)["role"].tolist() == ["train", "query", "database"]
    both = ["file,instance,role,Role", "castle/1.jpg,c,query,train"]
    listing = table(tmp_path / "x.csv", *both, "castle/2.JPG,c,database,train")
    convert(photos, listing, force=True)
    assert read_labels(photos)["role"].tolist() == ["query", "database"]
    convert(photos, listing, {"role": "Role"}, force=True)  # what is named explicitly wins
    assert read_labels(photos)["role"].tolist() == ["train", "train"]
    (photos / "labels.csv").unlink()
    lines = ["Query,Positives,JUNK", "castle/1.jpg,castle/2.JPG,hut/x.jpg"]
    convert(photos, table(tmp_path / "x.csv", *lines))
    assert [len(query.labels["junk"]) for query in load_folder(photos).queries] == [1]


def test_a_training_set_is_no_benchmark(photos: Path, tmp_path: Path) -> None:
    lines = ["file,instance,role", *(f"{file},i,train" for file in FILES[:3])]
    said = convert(photos, table(tmp_path / "x.csv", *lines))
    assert "no image is a query: this is a training set, not a benchmark" in said
    assert len(training_images(photos)[0]) == 3


def test_pairs(photos: Path, tmp_path: Path) -> None:
    lines = ["q,refs,junk", "castle/1.jpg,castle/2.JPG castle/1.jpg,castle/3.png"]
    listing = table(tmp_path / "x.csv", *lines, "tower/a.jpg,castle/1.jpg,", "hut/x.jpg,,")
    said = convert(photos, listing, {"query": "q", "positives": "refs"})
    made = load_folder(photos)
    # the queries are no database images, but for the one that another query is to find
    rows = ["castle/1.jpg", "castle/2.JPG", "castle/3.png", "street.jpg", "tower/b.jpg"]
    assert list(made.database) == rows
    found = [
        (query.file, *(query.labels[label].tolist() for label in ("ok", "junk")))
        for query in made.queries
    ]
    assert found == [("castle/1.jpg", [1], [0, 2]), ("tower/a.jpg", [0], []), ("hut/x.jpg", [], [])]
    assert said[:3] == [
        f"{photos / 'ground_truth.json'}: 3 queries, 5 database images", "2 positives, 2 junk",
        "1 queries have no positive: hut/x.jpg",
    ]  # fmt: skip
    assert "no query has a box: whole images are searched for" in said


def test_names_with_spaces_are_parted_by_semicolons(tmp_path: Path) -> None:
    for name in ("a b.jpg", "c d.jpg", "q.jpg"):
        (tmp_path / name).touch()
    convert(tmp_path, table(tmp_path / "x.csv", "query,positives", "q.jpg,a b.jpg; c d.jpg"))
    assert [query.labels["ok"].tolist() for query in load_folder(tmp_path).queries] == [[0, 1]]


PAIR = "query,positives"
NEVER: list[tuple[list[str], dict[str, str], str]] = [
    (["file,instance", "gone.jpg,a", "castle/1.jpg,a"], {}, r"as gone\.jpg: mend the names"),
    (["file,instance", "../x.jpg,a", "castle/1.jpg,a"], {}, r"'\.\./x\.jpg' is no image in the f"),
    (["file,instance,role", "castle/1.jpg,a,quer"], {}, "did you mean 'query'"),
    (["file,instance", "castle/1.jpg,a,b"], {}, "more cells than columns"),
    (["a,b", "castle/1.jpg,a"], {}, r"x\.csv has the columns a, b: say with --column OURS=THEIRS"),
    (
        ["a,b", "castle/1.jpg,a"],
        {"file": "c"},
        r"x\.csv .* its first line must name c",
    ),
    (
        ["path,instance,file", "x,a,b"],
        {"file": "path"},
        "no instance has two images",
    ),
    (["file,instance", "castle/1.jpg,a", "castle/2.JPG,b"], {}, "no instance has two images"),
    (["file,instance"], {}, r"x\.csv has no line"),
    ([PAIR, "castle/1.jpg,1.jpg 2.jpg"], {}, r"names 2 images .* as 1\.jpg, 2\.jpg: mend"),
    ([PAIR, "castle/1.jpg,"], {}, "has no query with a positive"),
    ([PAIR, "castle/1.jpg,castle/1.jpg"], {}, "has no query with a positive"),
    ([PAIR, *("castle/1.jpg,castle/2.JPG",) * 2], {}, r"the query castle/1\.jpg is in two lines"),
]


@pytest.mark.parametrize(("lines", "columns", "why"), NEVER)
def test_what_cannot_be_leaves_nothing(
    photos: Path, tmp_path: Path, lines: list[str], columns: dict[str, str], why: str
) -> None:
    before = sorted(photos.rglob("*"))
    with pytest.raises(UserError, match=why) as caught:
        convert(photos, table(tmp_path / "x.csv", *lines), columns)
    assert "\n" not in str(caught.value)
    assert sorted(photos.rglob("*")) == before


def test_nothing_is_replaced_unless_asked(photos: Path, tmp_path: Path) -> None:
    table(photos / "labels.csv", "mine")
    with pytest.raises(UserError, match=r"labels\.csv exists already: give --force to replace it"):
        convert(photos)
    pairs = table(tmp_path / "x.csv", PAIR, "castle/1.jpg,castle/2.JPG")
    with pytest.raises(UserError, match=r"labels\.csv exists, and a folder has one ground truth"):
        convert(photos, pairs, force=True)
    bad = table(
        tmp_path / "y.csv", "file,instance,role", "tower/a.jpg,a,query", "hut/x.jpg,b,query"
    )
    with pytest.raises(UserError, match=f"^{photos / 'labels.csv'} has no database image"):
        convert(photos, bad, force=True)
    assert (photos / "labels.csv").read_text() == "mine\n"
    convert(photos, force=True)
    assert len(read_labels(photos)) == 7


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no image"):
        convert(tmp_path / "nowhere")
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"no instance has two images: put those .* into one sub-f"):
        convert(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*x\.csv"):
        convert(tmp_path, tmp_path / "x.csv")


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
    scores = np.full((111, 111), -1.0) * np.abs(np.subtract.outer(np.arange(111), np.arange(111)))
    assert mean_average_precision(evaluate(made, scores), "Classic") == 100
    assert mean_average_precision(evaluate(made, -scores), "Classic") < 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FILES), st.sets(st.sampled_from(FILES)), min_size=1))
def test_any_pair_list_comes_out_as_it_went_in(photos: Path, pairs: dict[str, set[str]]) -> None:
    listing = table(
        photos / "x.csv",
        "query,positives",
        *(f"{q},{' '.join(sorted(ok))}" for q, ok in pairs.items()),
    )
    if not any(ok - {query} for query, ok in pairs.items()):
        with pytest.raises(UserError, match="has no query with a positive"):
            convert(photos, listing, force=True)
        return
    convert(photos, listing, force=True)
    made = load_folder(photos)
    found = {
        query.file: {made.database[row] for row in query.labels["ok"]} for query in made.queries
    }
    assert found == {query: ok - {query} for query, ok in pairs.items()}
    assert set(made.database) == (set(FILES) - set(pairs)) | set().union(*pairs.values())
    for query in made.queries:
        assert all(made.database[row] == query.file for row in query.labels["junk"])
