"""Opening a study: what cannot be one, the control Toytown, and fewer distractors."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dagf.cli import studies
from dagf.datasets.toytown import toytown_records
from dagf.files import read_json
from dagf.study.config import RunConfig
from dagf.study.study import Study, control_of, open_study
from tests.fixtures import FOLDER, Opened, fails, mobilenet, write_photographs

pytestmark = pytest.mark.usefixtures("one_process")


def test_what_is_no_study(project: Path, profile: Callable[..., str], photographs: Path) -> None:
    fails(r"nowhere\.pth is no file", open_study, profile(), weights=str(project / "nowhere.pth"))
    kept = profile(kept_backbones=True, backbone_training=None)
    fails("starts from kept backbones: leave --weights out", open_study, kept, weights=kept)
    says = "distractors and train_on belong to a benchmark of photographs"
    fails(says, open_study, profile(), train_on=[str(photographs)])
    fails(r"labels\.csv .*No such file", open_study, profile(), str(project))
    study = open_study(profile(), str(photographs))
    fails("did you mean 'spoc'", study.run, "spok")
    fails("only Toytown has a control version", control_of, study)
    for ask in (study.trials, study.train, study.evaluate, study.table):
        fails("profile tiny has no heads: nothing says", ask, heads=True)


def test_a_folder_to_test_on_alone(heads_on: Opened, tmp_path: Path, backbone_weights: str) -> None:
    folder = write_photographs(tmp_path / "mine", train_instances=0)
    study = heads_on(folder, backbone_weights, off_the_shelf=["gem"])
    assert study.training is None
    assert len(study.off_the_shelf_table()) == 1
    fails("mine has no images of the role 'train' to train on", study.run, "gem")
    elsewhere = write_photographs(tmp_path / "others", train_instances=5, first=20)
    labels = elsewhere / "labels.csv"
    labels.write_text(re.sub(r",i(?=\d)", ",other", labels.read_text()))
    other = heads_on(folder, distractors=[elsewhere], train_on=[elsewhere])
    assert other.training is not None
    assert len(other.test.distractors) == 4
    assert other.test_id != study.test_id


def test_weights_of_a_profile_are_known_by_their_content(heads_on: Opened, tmp_path: Path) -> None:
    """The file is as seen from the profile's, and another under its name is another backbone."""
    folder = write_photographs(tmp_path / "mine", train_instances=0)
    known = []
    for seed in (5, 6):
        mobilenet(tmp_path / "mine.pth", seed)
        study = heads_on(folder, backbone={"name": "mobilenet_v2", "weights": "mine.pth"})
        known.append(study.untrained("netvlad").weights_id)
        assert study.untrained("netvlad").network()
    assert len({*known}) == 2
    one, other = (study.untrained(arm, seed=1).weights_id for arm in ("netvlad", "gem"))
    assert one != known[1]  # its centres are drawn
    assert other == study.untrained("gem", seed=0).weights_id


def test_training_on_several_folders(heads_on: Opened, tmp_path: Path) -> None:
    """Instances stay apart, each folder has some held out, each query its own right ones."""
    tested = write_photographs(tmp_path / "tested", train_instances=0)
    folders = [write_photographs(tmp_path / f"{first}", first=first) for first in (20, 40)]
    one, two = (heads_on(tested, train_on=[folder]).training for folder in folders)
    both = heads_on(tested, train_on=folders).training
    assert both.files == (*one.files, *two.files)
    assert both.labels == (*one.labels, *(label + one.landmarks for label in two.labels))
    parts, validation = [one.validation, two.validation], both.validation
    rows = [part.root / file for part in parts for file in part.database]
    assert [path.resolve() for path in validation.database_paths] == rows
    asked = [(part, query) for part in parts for query in part.queries]
    for query, (home, own) in zip(validation.queries, asked, strict=True):
        assert (validation.root / query.file).samefile(home.root / own.file)
        expected = [home.root / home.database[row] for row in own.positives]
        assert [validation.database_paths[row] for row in query.positives] == expected
    again = shutil.copytree(folders[0], tmp_path / "again")
    says = r"again/jpg/2.-.\.jpg is also, as .*/20/jpg/.*, in another folder to train on: leave"
    fails(says, heads_on, tested, train_on=[folders[0], again])
    shared = re.findall(r",(i\d),query", (tested / "labels.csv").read_text())[0]
    for folder, learned_from in ((folders[1], folders), (tested, [])):  # at last its own
        (folder / "jpg" / "more.jpg").touch()
        with (folder / "labels.csv").open("a") as labels:
            labels.write(f"jpg/more.jpg,{shared},train\n")
        says = f"tested: {shared} would be trained and tested on"
        fails(says, heads_on, tested, train_on=learned_from)


def test_real_sets_learn_from_one_union(
    project: Path, profile: Callable[..., str], shared_data: Path
) -> None:
    names = "logos/gnd_logos_boxed.json", "paris_part/gnd_rparis_part.json"
    learned = [str(shared_data / name) for name in ("products", "logos", "dvd", "books")]
    tests = [str(shared_data / name) for name in names]
    file = profile(**FOLDER, benchmarks=tests, train_on=learned)
    logos, paris = (open_study(**one) for one in studies(file, (), (), "", ()))
    assert [one.test.name for one in (logos, paris)] == ["logos_boxed", "rparis_part"]
    assert logos.training.id == paris.training.id
    assert logos.training.landmarks == 15 + 14 + 50 + 101 - 4 * 2  # held out
    assert (logos.masked, paris.masked) == (True, False)


def test_the_control_has_the_same_runs(toy: Study, at_toy: None, trained: list[RunConfig]) -> None:
    control = control_of(toy)
    ours, theirs = (read_json(root / "spec.json") for root in (toy.toytown, control.toytown))
    assert (ours["nuisances"], theirs["nuisances"]) == (True, False)
    for name in ("seed", "size", "test_landmarks", "views"):
        assert ours[name] == theirs[name]
    files = [[query.file for query in study.test.queries] for study in (toy, control)]
    assert files[0] == files[1]
    assert control.test.database == toy.test.database
    assert control.test_id != toy.test_id
    drawn = toytown_records(control.toytown, "test").query("role == 'database'")
    assert (drawn["clutter"].max(), drawn["visible"].min()) == (0, 1)
    assert drawn["scale"].max() / drawn["scale"].min() < 2
    assert toytown_records(toy.toytown, "test")["visible"].min() < 0.9
    found, runs = control.evaluate()["dagf", 1].per_query, control.train()
    assert trained == []
    assert runs == toy.train()
    assert not found["AP"].equals(toy.evaluate()["dagf", 1].per_query["AP"])


def test_fewer_distractors_are_the_first_ones(toy: Study, trained: list[RunConfig]) -> None:
    small = toy.smaller(2)
    assert small.test.distractors == toy.test.distractors[:2]
    assert (small.test.database, small.test.queries) == (toy.test.database, toy.test.queries)
    assert len({toy.test_id, small.test_id, toy.smaller(3).test_id}) == 3
    few, many = (one.evaluate(["spoc", "dagf"], heads=True) for one in (small, toy))
    assert trained == []
    for key, results in few.items():
        fewer, more = results.positions["above"], many[key].positions["above"]
        assert (fewer <= more).all()
        assert (more - fewer <= 4).all()
    assert toy.smaller(0).test.distractors == ()
    assert toy.smaller(99).test.distractors == toy.test.distractors
