"""Copies and changed drawings, which make figures wrong without a word, are found and named."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dagf.datasets.benchmark import Benchmark, Query
from dagf.datasets.checks import SEEN, check, check_unchanged, copies
from dagf.datasets.contents import Contents
from dagf.errors import UserError
from dagf.files import read_json, write_json
from dagf.study.opening import open_study
from dagf.study.study import Study
from tests.fixtures import FOLDER, write_photographs

# --- drawings that were changed -------------------------------------------------------------------------------------


def test_a_changed_drawing_is_named_where_a_study_opens_it(
    project: Path, profile: Callable[..., str]
) -> None:
    """Its maps are kept under the name of the set, and would be those of the old picture."""
    root = open_study(profile()).toytown
    assert root is not None
    check_unchanged(root, Contents())
    file = min((root / "test" / "jpg").glob("*.jpg"))
    before, times = file.read_bytes(), file.stat()
    file.write_bytes(before)  # the same picture at another time
    check_unchanged(root, Contents())
    Image.new("RGB", (48, 48)).save(file)
    with pytest.raises(
        UserError, match=f"files in {root} were changed since it was drawn: delete {root}"
    ):
        open_study(profile())
    file.write_bytes(before)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    open_study(profile())
    (root / SEEN).unlink()
    open_study(profile())
    assert (root / SEEN).is_file()


# --- copies -------------------------------------------------------------------------------------------------------


def copied(folder: Path, source: str, line: str) -> Path:
    """Photographs with a copy of one of them under another name, labelled by `line`."""
    write_photographs(folder, train_instances=5)
    shutil.copy(folder / "jpg" / source, folder / "jpg" / "copy.jpg")
    labels = folder / "labels.csv"
    labels.write_text(f"{labels.read_text()}jpg/copy.jpg,{line}\n")
    return folder


@pytest.mark.parametrize(
    ("source", "line", "match"),
    [
        ("5-0.jpg", "i5,database", r"5-0\.jpg is a query and, as jpg/copy\.jpg, in the database"),
        ("5-0.jpg", "i6,database", r"5-0\.jpg is a query and, as jpg/copy\.jpg, in the database"),
    ],
)
def test_a_query_that_is_in_the_database_is_named(
    project: Path,
    profile: Callable[..., str],
    tmp_path: Path,
    source: str,
    line: str,
    match: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = copied(tmp_path / "mine", source, line)
    open_study(profile(**FOLDER), str(folder))
    assert re.search(match, capsys.readouterr().err)
    with pytest.raises(UserError, match=f"{match}: leave one of the two out"):
        check(str(folder), tmp_path)


@pytest.mark.parametrize(
    ("source", "line", "match"),
    [
        (
            "0-1.jpg",
            "i5,database",
            r"0-1\.jpg would be trained on and, as jpg/copy\.jpg, tested on",
        ),
        ("5-1.jpg", "i0,train", r"copy\.jpg would be trained on and, as jpg/5-1\.jpg, tested on"),
    ],
)
def test_a_photograph_that_is_trained_and_tested_on_is_named(
    project: Path, profile: Callable[..., str], tmp_path: Path, source: str, line: str, match: str
) -> None:
    folder = copied(tmp_path / "mine", source, line)
    with pytest.raises(UserError, match=match):
        open_study(profile(**FOLDER), str(folder))
    with pytest.raises(UserError, match=match):
        check(str(folder), tmp_path)


def test_copies_that_are_no_leak(
    project: Path, profile: Callable[..., str], tmp_path: Path
) -> None:
    folder = copied(tmp_path / "mine", "5-1.jpg", "i5,database")  # two rows that are alike
    assert open_study(profile(**FOLDER), str(folder)).training is not None
    assert check(str(folder), tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    for label, leaks in (("ok", 1), ("junk", 0)):
        test = Benchmark("some", tmp_path, ("b.png",), (Query("a.png", {label: np.array([0])}),))
        assert len(copies(test, Contents())) == leaks
    for label, leaks in (("ok", 0), ("junk", 0), ("", 1)):  # as in the classic protocols
        own = {label: np.array([0])} if label else {"ok": np.array([1])}
        test = Benchmark("classic", tmp_path, ("a.png", "c.png"), (Query("a.png", own),))
        Image.new("RGB", (9, 8)).save(tmp_path / "c.png")
        assert len(copies(test, Contents())) == leaks


@pytest.mark.parametrize(
    ("source", "line", "match"),
    [
        ("5-0.jpg", ",distractor", r"5-0\.jpg is a query and, as .*jpg/copy\.jpg, a distractor"),
        (
            "5-1.jpg",
            ",distractor",
            r"5-1\.jpg is right for a query and, as .*copy\.jpg, a distractor, wrong",
        ),
        (
            "5-1.jpg",
            "i6,database",
            r"5-1\.jpg is right for a query and, as jpg/copy\.jpg, in the database, wrong",
        ),
        ("other-0.jpg", ",distractor", ""),
    ],
)
def test_a_copy_that_counts_as_wrong_is_named(
    project: Path,
    profile: Callable[..., str],
    tmp_path: Path,
    source: str,
    line: str,
    match: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = copied(tmp_path / "mine", source, line)
    if not match:
        assert open_study(profile(**FOLDER), str(folder)).training is not None
        assert "Note: " not in capsys.readouterr().err
        return
    open_study(profile(**FOLDER), str(folder))
    assert re.search(match, capsys.readouterr().err)
    with pytest.raises(UserError, match=f"{match}.*: leave one of the two out"):
        check(str(folder), tmp_path)


def test_a_photograph_to_train_on_is_no_distractor(
    project: Path, profile: Callable[..., str], tmp_path: Path
) -> None:
    folder = copied(tmp_path / "mine", "0-1.jpg", ",distractor")
    match = r"0-1\.jpg would be trained on and, as .*copy\.jpg, tested on"
    with pytest.raises(UserError, match=match):
        open_study(profile(**FOLDER), str(folder))
    with pytest.raises(UserError, match=match):
        check(str(folder), tmp_path)


def with_truth(folder: Path, own: str = "") -> Path:
    """Photographs with a ground truth instead of labels; the first query is among its rows as `own`."""
    write_photographs(folder, train_instances=0)
    (folder / "labels.csv").unlink()
    names = [f"jpg/{instance}-{view}.jpg" for instance in range(3) for view in range(1, 5)]
    names += ["jpg/0-0.jpg"] * bool(own)
    gnd = [
        {"ok": list(range(4 * number, 4 * number + 4)), "junk": list[int]()} for number in range(3)
    ]
    if own in gnd[0]:
        gnd[0][own].append(12)
    asked = [f"jpg/{number}-0.jpg" for number in range(3)]
    write_json(folder / "ground_truth.json", {"imlist": names, "qimlist": asked, "gnd": gnd})
    return folder


@pytest.mark.parametrize(
    ("own", "leaks"), [("", False), ("ok", False), ("junk", False), ("nothing", True)]
)
def test_a_query_of_a_ground_truth_that_is_in_its_database(
    project: Path,
    profile: Callable[..., str],
    tmp_path: Path,
    own: str,
    leaks: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a label, as the classic protocols have it, and not without one."""
    folder, match = (
        with_truth(tmp_path / "mine", own),
        r"0-0\.jpg is a query and, as jpg/0-0\.jpg, in the database",
    )
    if not leaks:
        assert open_study(profile(**FOLDER), str(folder)).test.queries
        assert check(str(folder), tmp_path)
        assert "Note: " not in capsys.readouterr().err
        return
    open_study(profile(**FOLDER), str(folder))
    assert re.search(match, capsys.readouterr().err)
    with pytest.raises(UserError, match=f"{match}: leave one of the two out, or give it the label"):
        check(str(folder), tmp_path)


def test_a_copy_in_a_ground_truth_is_named(
    project: Path, profile: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_truth(tmp_path / "mine")
    shutil.copy(folder / "jpg" / "0-0.jpg", folder / "jpg" / "1-1.jpg")
    match = r"0-0\.jpg is a query and, as jpg/1-1\.jpg, in the database"
    open_study(profile(**FOLDER), str(folder))
    assert re.search(match, capsys.readouterr().err)
    with pytest.raises(UserError, match=match):
        check(str(folder), tmp_path)


def test_a_ground_truth_is_not_trained_on(
    project: Path, profile: Callable[..., str], tmp_path: Path
) -> None:
    folder, others = (
        with_truth(tmp_path / "mine"),
        write_photographs(tmp_path / "others", train_instances=5, first=20),
    )
    assert open_study(profile(**FOLDER), str(folder), train_on=str(others)).training is not None
    for view in range(5):  # also where it is only held out to choose an epoch by
        for number in range(20, 25):
            shutil.copy(others / "jpg" / f"{number}-{view}.jpg", tmp_path / "kept.jpg")
            shutil.copy(folder / "jpg" / "1-1.jpg", others / "jpg" / f"{number}-{view}.jpg")
            with pytest.raises(
                UserError, match=r"would be trained on and, as jpg/1-1\.jpg, tested on"
            ):
                open_study(profile(**FOLDER), str(folder), train_on=str(others))
            shutil.copy(tmp_path / "kept.jpg", others / "jpg" / f"{number}-{view}.jpg")


def test_a_held_out_instance_shares_no_photograph(
    project: Path, profile: Callable[..., str], tmp_path: Path
) -> None:
    folder = copied(tmp_path / "mine", "0-1.jpg", "i1,train")
    shutil.copy(folder / "jpg" / "0-1.jpg", folder / "jpg" / "copy-2.jpg")
    labels = folder / "labels.csv"
    others = "".join(f"jpg/copy-{name}.jpg,i{name},train\n" for name in (2, 3, 4))
    for name in (3, 4):
        shutil.copy(folder / "jpg" / "0-1.jpg", folder / "jpg" / f"copy-{name}.jpg")
    labels.write_text(labels.read_text() + others)
    with pytest.raises(UserError, match=r"would be trained on and, as .*, tested on"):
        open_study(profile(**FOLDER), str(folder))


def test_a_copy_among_real_photographs(shared_data: Path) -> None:
    """One photograph was published three times: as two queries and as a database image of their landmark."""
    with pytest.raises(
        UserError,
        match=r"test_hue_imperial_city_4\.jpg is a query and, as .*_8\.jpg, .*, and 1 more",
    ):
        check(str(shared_data / "landmarks"), shared_data)


# --- drawings and photographs ------------------------------------------------------------------


@pytest.mark.parametrize("spec", ['{"openapi": "3.0"}', "{", None])
def test_photographs_beside_a_spec_are_no_drawing(
    toy: Study, tmp_path: Path, spec: str | None
) -> None:
    """Whose folder would be told to be deleted."""
    folder = write_photographs(tmp_path / "mine", train_instances=0)
    expected = check(str(folder), tmp_path)
    assert toy.toytown is not None
    text = (toy.toytown / "spec.json").read_text() if spec is None else spec
    (folder / "spec.json").write_text(text)
    assert check(str(folder), tmp_path) == expected
    (folder / "labels.csv").rename(folder / "mine.csv")
    shutil.copy(folder / "jpg" / "0-0.jpg", folder)
    with pytest.raises(UserError, match=r"labels\.csv does not exist"):
        check(str(folder), tmp_path)


def test_a_damaged_spec_is_that_of_a_drawing(toy: Study, tmp_path: Path) -> None:
    assert toy.toytown is not None
    root = tmp_path / toy.toytown.name
    root.mkdir()
    (root / "spec.json").write_text("{}")
    with pytest.raises(UserError, match=r"spec\.json does not describe a Toytown .*; delete"):
        check(str(root), tmp_path)


def test_drawings_that_changed_are_named(toy: Study, tmp_path: Path) -> None:
    assert toy.toytown is not None
    root = tmp_path / toy.toytown.name
    shutil.copytree(toy.toytown, root)
    lines = check(str(root), tmp_path)
    assert lines[0] == f"{root.name}: complete"
    assert lines[1].endswith("images drawn again, and found as they are")
    file = sorted((root / "test" / "jpg").iterdir())[3]
    picture = Image.open(file)
    Image.open(file).save(file, quality=97)  # another encoding of the same picture
    assert check(str(root), tmp_path) == lines
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, quality=95)
    with pytest.raises(UserError, match=f"{file.name} is not the image that was drawn: delete"):
        check(str(root), tmp_path)
    assert read_json(root / "spec.json")
