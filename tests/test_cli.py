"""The command line: examples in every help, one line for a mistake, training and evaluation."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click
import pytest

from dagf.cli import main
from dagf.paths import ROOT as NAMED
from dagf.reports import runner
from dagf.study import parallel
from tests.commands import dagf, fine, refused
from tests.fixtures import PROFILE, empty_project, write_photographs

ROOT = Path(__file__).parents[1]


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


OPTIONS = [(path, [one.opts for one in command.params]) for path, command in commands(main)]
KNOWN = {path: {*chain(*options)} for path, options in OPTIONS}


@pytest.mark.parametrize("path", KNOWN, ids=" ".join)
def test_every_help_has_an_example_that_its_options_allow(path: tuple[str, ...]) -> None:
    _, _, examples = fine(*path, "--help").partition("Examples:\n")
    for example in examples.splitlines():
        assert example.startswith(f"  dagf {' '.join(path)}")
        assert set(re.findall(r"(?<= )--[\w-]+", example)) <= KNOWN[path]
    assert examples
    assert f"dagf {' '.join(path)}" in fine("-h")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a profile and a folder of photographs; the runs of one test serve the next."""
    root = empty_project(tmp_path_factory.mktemp("cli") / "project")
    (root / "data").mkdir()
    shutil.copy(ROOT / "data" / "manifest.json", root / "data")
    (root / "tiny.yaml").write_text(json.dumps(PROFILE | {"arms": ["gem"], "seeds": [0]}))
    write_photographs(root / "photos")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(NAMED, str(root))
        patched.setattr(parallel, "cores", lambda: 1)
        yield root


@pytest.fixture
def trained(project: Path) -> str:
    """The id of a trained run."""
    said = fine("train", "gem", *tiny(project))
    return re.match(r"run ([0-9a-f]{12}): GeM, seed \d, best epoch 1, validation mAP ", said)[1]


def tiny(project: Path) -> list[str]:
    return ["--profile", str(project / "tiny.yaml")]


def test_making_listing_and_checking_data(project: Path) -> None:
    listed = fine("data", "list")
    assert re.search(r"^toytown-[0-9a-f]{12}  smoke profile, not made$", listed, re.MULTILINE)
    assert re.search(r"^r1m +not here +\S+ GB  R1M: a million distractors$", listed, re.MULTILINE)
    made = fine("data", "make", *tiny(project)).strip()
    assert re.fullmatch(r"data/toytown-[0-9a-f]{12}", made)
    assert fine("data", "make", *tiny(project)).strip() == made
    assert f"{Path(made).name}  another drawing, here" in fine("data", "list")
    complete = f"{Path(made).name}: complete, and as it was drawn\n"
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
        ("report --benchmark photos --benchmark ./photos", "have one name: rename one"),
        ("train gem --benchmark photos --train-on photos --train-on photos", "have one name"),
        ("evaluate gen --profile tiny.yaml", "did you mean 'gem'"),
        ("evaluate", "name a variant to evaluate"),
        ("evaluate gem --golden", "give it alone"),
        ("evaluate --golden --seed 0", "give it alone"),
        ("evaluate --golden --off-the-shelf", "give it alone"),
        ("evaluate gem --benchmark roxfrod5k", "did you mean 'roxford5k'?"),
        ("evaluate gem --benchmark ukbench --distractors r2m", "did you mean 'r1m'?"),
        ("evaluate gem --profile tiny.yaml --benchmark notebooks", "labels.csv"),
        ("data make --profile smook", "did you mean 'smoke'"),
        ("data import photos --column picture=x", "picture=x: expected OURS=THEIRS, one of file,"),
        ("data check UKBench", "ukbench: get it with `dagf data get ukbench`"),
        ("data check notebooks", "labels.csv ([Errno 2] No such file"),
        ("report --output photos/labels.csv", "labels.csv is no folder"),
    ],
)
def test_a_mistake(project: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    monkeypatch.chdir(project)
    assert said in refused(*words.split())


def test_the_reports_of_several_sets_by_a_profile(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, with what the profile says; the command line comes first."""
    (project / "lists").mkdir()
    sets = {"benchmarks": ["../photos", "ukbench"], "train_on": ["../photos"]}
    path = project / "lists" / "sets.yaml"
    path.write_text(json.dumps(PROFILE | sets | {"distractors": ["r1m"]}))
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(runner, "run_reports", lambda one, *_: asked.append(one))
    stale = {"02_training": "changed: code"}
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


def test_train_and_evaluate(project: Path, trained: str) -> None:
    again = fine("train", "gem", *tiny(project))
    assert f"run {trained}:" in again
    assert f"data/runs/{trained}" in again
    assert trained not in fine("train", "gem", *tiny(project), "--seed", 3)
    table = fine("evaluate", "gem", *tiny(project))
    assert table.split()[:6] == ["query_set", "setting", "mAP", "mP@1", "mP@5", "mP@10"]
    rows = json.loads(fine("evaluate", "gem", *tiny(project), "--json"))
    assert {row["query_set"] for row in rows} == {"query"}
    assert all(0 <= row["mAP"] <= 100 for row in rows)
    assert [f"{row['mAP']:.2f}"[:4] in table for row in rows] == [True] * len(rows)


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/distributed.md"])
def test_every_command_of_a_page_is_one(page: str) -> None:
    """Its name, and every option."""
    text, starts = (ROOT / page).read_text(), r"(?:torchrun.* -m -- |sbatch together\.sh )?"
    lines = re.findall(rf"^{starts}dagf (.*)$", text, re.MULTILINE)
    assert len(lines) > 2
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
