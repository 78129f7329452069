"""The command line: examples in every help, one line for a mistake, training and evaluation."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dagf.cli import main
from dagf.reports import runner
from tests.commands import dagf, fine, refused
from tests.fixtures import PROFILE

ROOT = Path(__file__).parents[1]


GROUPS = {(): main, ("data",): main.commands["data"]}
COMMANDS = {(*path, name): of for path, one in GROUPS.items() for name, of in one.commands.items()}
KNOWN = {
    path: {*chain(*(option.opts for option in command.params))}
    for path, command in COMMANDS.items()
    if path not in GROUPS
}


@pytest.mark.parametrize("path", KNOWN, ids=" ".join)
def test_every_help_has_an_example_that_its_options_allow(path: tuple[str, ...]) -> None:
    _, _, examples = fine(*path, "--help").partition("Examples:\n")
    for example in examples.splitlines():
        assert example.startswith(f"  dagf {' '.join(path)}")
        assert set(re.findall(r"(?<= )--[\w-]+", example)) <= KNOWN[path]
    assert examples
    assert f"dagf {' '.join(path)}" in fine("-h")


@pytest.fixture(scope="module")
def project(home: Path) -> Path:
    """With a profile and the public sets; the runs of one test serve the next."""
    (home / "data").mkdir()
    (home / "Photos!").mkdir()  # whose reports would be called as those of photos
    shutil.copy(ROOT / "data" / "manifest.json", home / "data")
    (home / "tiny.yaml").write_text(json.dumps(PROFILE | {"arms": ["gem"], "seeds": [0]}))
    return home


def test_making_listing_and_checking_data(project: Path) -> None:
    listed = fine("data", "list")
    assert re.search(r"^toytown-[0-9a-f]{12}  smoke profile, not made$", listed, re.MULTILINE)
    assert re.search(r"^r1m +not here +\S+ GB  R1M: a million distractors$", listed, re.MULTILINE)
    made, again = (fine("data", "make", "--profile", project / "tiny.yaml").strip() for _ in "12")
    assert re.fullmatch(r"data/toytown-[0-9a-f]{12}", made) and made == again
    assert f"{Path(made).name}  another drawing, here" in fine("data", "list")
    complete = f"{Path(made).name}: as it was when it was first opened\n"
    assert fine("data", "check", project / made) == complete
    shown = fine("data", "check", project / "photos")
    assert shown.splitlines() == [
        "database: 12 images", "distractor: 2 images", "query: 3 images", "train: 20 images",
        "a benchmark: 3 queries, 12 database images",
        "37 images; left out: 1 of other kinds (.csv)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train dafg --profile tiny.yaml", "did you mean 'dagf'"),
        ("train dagf --profile smok", "did you mean 'smoke'"),
        ("train gem --profile tiny.yaml --weights nowhere.pth", "nowhere.pth is no file"),
        ("train gem --profile tiny.yaml --benchmark ./nowhere", "name a folder that exists"),
        ("train gem --profile photographs", "name them with --benchmark"),
        ("train gem --benchmark photos --benchmark ukbench", "2 benchmarks are named: name one"),
        ("report --benchmark photos --benchmark Photos!", "have one name in reports: rename one"),
        ("train gem --benchmark photos --train-on photos --train-on photos", "have one name"),
        ("evaluate gen --profile tiny.yaml", "did you mean 'gem'"),
        ("evaluate", "name a variant to evaluate"),
        ("evaluate gem --golden", "give it alone"),
        ("evaluate gem --benchmark roxfrod5k", "did you mean 'roxford5k'?"),
        ("evaluate gem --benchmark ukbench --distractors r2m", "did you mean 'r1m'?"),
        ("evaluate gem --profile tiny.yaml --benchmark notebooks", "labels.csv"),
        ("data make --profile smook", "did you mean 'smoke'"),
        ("data import photos --column picture=x", "picture=x: expected OURS=THEIRS, one of file,"),
        ("data import photos --column file=x", "name the CSV with --from"),
        ("data check UKBench", "ukbench: get it with `dagf data get ukbench`"),
        ("data check notebooks", "labels.csv ([Errno 2] No such file"),
        ("data check smvs", "smvs has 0 files dvd/*/*.jpg (expected 500);"),
        ("data check GLDv2", "gldv2: run `dagf data get gldv2`"),
        ("report --output photos/labels.csv", "labels.csv is no folder"),
        ("export --run ffff photo.jpg", "name a file that ends in .onnx"),
        ("export --run ffff model.onnx", "'ffff': expected one finished run"),
    ],
)
def test_a_mistake(project: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    monkeypatch.chdir(project)
    assert said in refused(*words.split())


def test_reports_of_a_profiles_sets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, with what the profile says; the command line comes first."""
    (project / "lists").mkdir()
    sets = {"benchmarks": ["../photos", "ukbench"], "train_on": ["../photos"]}
    path = project / "lists" / "sets.yaml"
    path.write_text(json.dumps(PROFILE | sets | {"distractors": ["r1m"]}))
    asked, stale = list[dict[str, Any]](), {"02_training": "changed: code"}
    monkeypatch.setattr(runner, "run_reports", lambda one, *_: asked.append(one))
    monkeypatch.setattr(runner, "check_reports", lambda *_: stale)
    fine("report", "--profile", path)
    photos = str((project / "photos").resolve())
    assert [one["benchmark"] for one in asked] == [photos, "ukbench"]
    for one in asked:
        assert (one["train_on"], one["distractors"]) == ([photos], ["r1m"])
        assert (one["profile"], one["weights"]) == (str(path), "")
    checked = dagf("report", "--profile", path, "--check")
    assert checked.exit_code == 1
    assert checked.stdout.splitlines() == [
        "photos, 02_training: changed: code", "ukbench, 02_training: changed: code", "2 stale",
    ]  # fmt: skip
    fine("report", "--profile", path, "--benchmark", "holidays", "--distractors", photos)
    assert (asked[-1]["benchmark"], asked[-1]["distractors"]) == ("holidays", [photos])


def test_train_and_evaluate(project: Path) -> None:
    told = ("gem", "--profile", project / "tiny.yaml")
    said = fine("train", *told)
    run = re.match(r"run ([0-9a-f]{12}): GeM, seed \d, best epoch 1, validation mAP ", said)[1]
    assert f"data/runs/{run}" in said and f"run {run}:" in fine("train", *told)
    assert run not in fine("train", *told, "--seed", 3)
    table = fine("evaluate", *told)
    assert table.split()[:6] == ["query_set", "setting", "mAP", "mP@1", "mP@5", "mP@10"]
    rows = json.loads(fine("evaluate", *told, "--json"))
    assert {row["query_set"] for row in rows} == {"query"}
    assert all(0 <= row["mAP"] <= 100 for row in rows)
    assert [f"{row['mAP']:.2f}"[:4] in table for row in rows] == [True] * len(rows)


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/distributed.md"])
def test_every_command_of_a_page_is_one(page: str) -> None:
    """Its name, and every option."""
    text, starts = (ROOT / page).read_text(), r"(?:torchrun.* -m -- |sbatch together\.sh )?"
    lines = re.findall(rf"^{starts}dagf (.*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = line.partition("#")[0].split()
        path = tuple(words[:2] if words[0] == "data" else words[:1])
        assert {word for word in words if word.startswith("--")} <= KNOWN[path], line


def test_names_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    """Where the system says ASCII, too."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = [sys.executable, "-m", "dagf", "zér\u00f6"]
    ran = subprocess.run(told, env={**os.environ, **locale}, capture_output=True, timeout=300)
    assert ran.returncode == 2 and "No such command 'zér\u00f6'".encode() in ran.stderr
