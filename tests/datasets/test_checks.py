"""Copies, photographs that are trained and tested on, and boxes outside images are named."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dagf.datasets.benchmark import Benchmark, Query
from dagf.datasets.checks import check, check_apart_from, check_boxes, copies
from dagf.datasets.contents import Contents
from dagf.errors import UserError
from dagf.files import write_json
from dagf.study.study import open_study
from tests.datasets.sets import white
from tests.fixtures import Opened, fails, write_photographs

QUERY, RIGHT = r"5-0\.jpg is a query and, as ", r"5-1\.jpg is right for a query and, as "
TRAINED = r"would be trained on and, as .*, tested on"


@pytest.mark.parametrize(
    ("source", "line", "match"),
    [
        ("5-0.jpg", "i5,database", QUERY + r".*copy\.jpg, in the database"),
        ("5-0.jpg", ",distractor", QUERY + r".*jpg/copy\.jpg, a distractor"),
        ("5-1.jpg", ",distractor", RIGHT + r".*copy\.jpg, a distractor"),
        ("5-1.jpg", "i6,database", RIGHT + r".*copy\.jpg, in the database"),
        ("5-1.jpg", "i5,database", ""),  # two rows that are alike, and right
        ("other-0.jpg", ",distractor", ""),
        ("0-1.jpg", "i5,database", rf"0-1\.jpg {TRAINED}"),
        ("5-1.jpg", "i0,train", rf"copy\.jpg {TRAINED}"),
        ("0-1.jpg", ",distractor", rf"0-1\.jpg {TRAINED}"),
        ("0-1.jpg", "i1,train", TRAINED),  # one of the two is held out to choose an epoch by
    ],
)
def test_a_copy_is_named(
    heads_on: Opened, tmp_path: Path, source: str, line: str, match: str, capsys: Any
) -> None:
    """A check refuses it; a study notes it, for published sets have some, or refuses to train."""
    folder = write_photographs(tmp_path / "mine", train_instances=5)
    shutil.copy(folder / "jpg" / source, folder / "jpg" / "copy.jpg")
    with (folder / "labels.csv").open("a") as labels:
        labels.write(f"jpg/copy.jpg,{line}\n")
    if "train" in match:
        fails(match, heads_on, folder)
    else:
        assert heads_on(folder).training is not None
        assert bool(re.search(f"Note: .*{match}", capsys.readouterr().err)) == bool(match)
    if match and line != "i1,train":
        fails(match, check, str(folder), tmp_path)
    else:
        assert check(str(folder), tmp_path)


def test_what_a_query_has_a_label_for_is_no_copy(tmp_path: Path) -> None:
    """As in the classic protocols: its own photograph may be right for it, or junk."""
    white(tmp_path / "a.png", 8, 8)
    white(tmp_path / "c.png", 9, 8)
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    cases = (("ok", 0, "b", 1), ("junk", 0, "b", 0), ("ok", 0, "a", 0), ("junk", 0, "a", 0))
    for label, row, file, found in (*cases, ("ok", 1, "a", 1)):
        query = Query("a.png", {label: np.array([row])})
        test = Benchmark("some", tmp_path, (f"{file}.png", "c.png"), (query,))
        assert len(copies(test, Contents())) == found
    check_apart_from([], test, Contents())
    says = r"b\.png would be trained on and, as a\.png, tested on"
    fails(says, check_apart_from, [tmp_path / "b.png"], test, Contents())


def test_a_copy_among_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    """One photograph was published thrice: as two queries and as a database image of theirs."""
    match = r"test_hue_imperial_city_4\.jpg is a query and, as .*_8\.jpg, .*, and 1 more"
    fails(match, check, str(shared_data / "landmarks"), tmp_path)


def test_a_changed_drawing(project: Path, profile: Callable[..., str], tmp_path: Path) -> None:
    """Its maps are kept under the name of the set, and would be those of the old picture."""
    root = open_study(profile()).toytown
    assert check(str(root), tmp_path) == [f"{root.name}: as it was when it was first opened"]
    file = min((root / "test" / "jpg").glob("*.jpg"))
    before = file.read_bytes()
    Image.new("RGB", (48, 48)).save(file)
    match = f"files in {root} were changed since it was drawn: delete it and run `dagf data make`"
    for opened in (lambda: check(str(root), tmp_path), lambda: open_study(profile())):
        fails(match, opened)
    file.write_bytes(before)  # the same picture at another time
    assert open_study(profile()).toytown == root
    file.unlink()
    fails(match, check, str(root), tmp_path)


def test_what_a_ground_truth_does_not_name_is_told(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photos")
    (folder / "more").symlink_to(write_photographs(tmp_path / "others", first=50))
    left = "37 that the ground truth does not name, 2 of other kinds (.csv)"
    assert check(str(folder), tmp_path)[-1] == f"37 images; left out: {left}"
    for name in ("jpg/5-1.jpg", "jpg/other-0.jpg", "more/jpg/50-0.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:400])
    with pytest.raises(UserError, match=r"5-1\.jpg .*\n.*other-0\.jpg .*\n.*50-0\.jpg .*it out$"):
        check(str(folder), tmp_path)
    (folder / "gone.jpg").symlink_to("nowhere")
    fails(r"^cannot read .*gone\.jpg \(it leads nowhere\)$", check, str(folder), tmp_path)


def test_a_box_outside_its_image_is_named(heads_on: Opened, tmp_path: Path) -> None:
    """By the check and when a study is opened; what is right changes what the images are."""
    folder = write_photographs(tmp_path / "mine", train_instances=5)  # of 32 x 32 pixels
    elsewhere = write_photographs(tmp_path / "other", train_instances=0, first=20)
    lines, studies = "file,instance,x1,y1,x2,y2", [heads_on(folder)]
    for line in ("jpg/5-1.jpg,i5,0,0,33,20", "jpg/0-1.jpg,i0,0,0,9,9"):
        lines += f"\n{line}"
        (folder / "boxes.csv").write_text(lines)
        studies.append(heads_on(folder))
    assert "boxes: 2, in 2 images" in check(str(folder), tmp_path)
    (bare, tested, trained) = studies
    assert bare.test_id != tested.test_id == trained.test_id
    assert bare.training.id == tested.training.id != trained.training.id
    white(folder / "jpg" / "5-2.jpg", 40, 32)
    (folder / "boxes.csv").write_text(f"{lines}\njpg/5-2.jpg,i5,4,4,20,40")
    says = r"boxes\.csv, line 4: the box 4,4,20,40 is outside jpg/5-2\.jpg, which has 40 x 32"
    fails(says, check, str(folder), tmp_path)
    fails(says, heads_on, folder)
    fails(says, heads_on, elsewhere, train_on=[folder])
    (folder / "boxes.csv").unlink()
    truth = {"imlist": ["jpg/5-1.jpg"], "qimlist": ["jpg/5-0.jpg"]}
    write_json(folder / "gnd.json", truth | {"gnd": [{"bbx": [4, 4, 40, 20], "ok": [0]}]})
    says = r"gnd\.json: the box 4,4,40,20 is outside jpg/5-0\.jpg, which has 32 x 32"
    for opened in (heads_on, lambda what: check(str(what), tmp_path)):
        fails(says, opened, folder / "gnd.json")


def test_boxes_of_real_photographs(shared_data: Path) -> None:
    assert check_boxes(shared_data / "logos") == ["boxes: 4496, in 808 images"]
    assert check_boxes(shared_data / "dvd") == []
