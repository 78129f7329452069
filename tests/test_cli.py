"""The command line: examples in every help, one line for a mistake, training and evaluation."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from safetensors.torch import load_file, save_file

from dagf.cli import main
from dagf.paths import ROOT
from dagf.study import parallel, study
from tests.commands import dagf, fine, refused
from tests.fixtures import PROFILE, write_photographs


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = list(commands(main))


@pytest.mark.parametrize(
    ("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS]
)
def test_every_help_has_an_example_that_its_options_allow(
    path: tuple[str, ...], command: click.Command
) -> None:
    known = {option for one in command.params for option in one.opts}
    _, _, examples = fine(*path, "--help").partition("Examples:\n")
    for example in examples.splitlines():
        assert example.startswith(f"  dagf {' '.join(path)}")
        assert set(re.findall(r"(?<= )--[\w-]+", example)) <= known
    assert examples


def test_help_of_the_whole_names_every_command() -> None:
    text = fine("--help")
    assert fine("-h") == text
    assert all(path[0] in text for path, _ in COMMANDS)


def test_help_answers_at_once() -> None:
    """Nothing slow is imported for it, neither in the group nor in a command."""
    script = (
        "import sys; from dagf.cli import main; main(['train', '--help'], standalone_mode=False)\n"
    )
    script += "print([*{'torch', 'numpy', 'pandas', 'matplotlib', 'cv2'} & set(sys.modules)])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "VARIANT" in ran.stdout
    assert ran.stdout.endswith("[]\n")


def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dagf", "--help"], capture_output=True, text=True, check=True
    )
    assert "dagf train dagf" in ran.stdout
    wrong = subprocess.run([sys.executable, "-m", "dagf", "trian"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a profile and a folder of photographs; the runs of one test serve the next."""
    root = tmp_path_factory.mktemp("cli") / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / "data").mkdir()
    shutil.copy(Path(__file__).parents[1] / "data" / "manifest.json", root / "data")
    (root / "tiny.yaml").write_text(json.dumps(PROFILE | {"arms": ["gem"], "seeds": [0]}))
    frozen = PROFILE | {"backbone_training": None, "image": {"size": 32}}
    frozen["heads"] = {"training": frozen.pop("arm_training")}
    (root / "frozen.yaml").write_text(json.dumps(frozen))
    write_photographs(root / "photos")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(ROOT, str(root))
        patched.setattr(parallel, "cores", lambda: 1)
        yield root


@pytest.fixture
def trained(project: Path) -> str:
    """The id of a trained run."""
    found = re.match(
        r"run ([0-9a-f]{12}): GeM, best epoch 1, validation mAP ",
        fine("train", "gem", *tiny(project)),
    )
    assert found
    return found.group(1)


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
    ]  # fmt: skip


def test_an_incomplete_data_set_is_one_line(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "toytown-copy"
    shutil.copytree(project / fine("data", "make", *tiny(project)).strip(), copy)
    lost = next((copy / "train" / "jpg").iterdir())
    lost.unlink()
    assert lost.name in refused("data", "check", copy)
    assert "labels.csv does not exist" in refused("data", "check", tmp_path)


def test_mistakes_are_one_line(project: Path) -> None:
    assert "did you mean 'dagf'" in refused("train", "dafg", *tiny(project))
    assert "did you mean 'smoke'" in refused("train", "dagf", "--profile", "smok")
    assert "did you mean 'gem'" in refused("evaluate", "gen", *tiny(project))
    assert "did you mean 'smoke'" in refused("data", "make", "--profile", "smook")
    assert "nowhere.pth is no file" in refused(
        "train", "gem", *tiny(project), "--weights", project / "nowhere.pth"
    )
    assert "did you mean 'roxford5k'?" in refused("evaluate", "gem", "--benchmark", "roxfrod5k")
    assert "did you mean 'r1m'?" in refused(
        "evaluate", "gem", "--benchmark", "ukbench", "--distractors", "r2m"
    )
    assert "ukbench: get it with `dagf data get ukbench`" in refused("data", "check", "UKBench")
    assert "name a folder that exists" in refused(
        "train", "gem", *tiny(project), "--benchmark", project / "nowhere"
    )
    assert "labels.csv" in refused(
        "evaluate", "gem", *tiny(project), "--benchmark", project / "notebooks"
    )


def test_train_and_evaluate(project: Path, trained: str) -> None:
    again = fine("train", "gem", *tiny(project))
    assert f"run {trained}:" in again
    assert f"data/runs/{trained}" in again
    other = fine("train", "gem", *tiny(project), "--seed", 3)
    assert trained not in other
    table = fine("evaluate", "gem", *tiny(project))
    assert table.split()[:6] == ["query_set", "setting", "mAP", "mP@1", "mP@5", "mP@10"]
    rows = json.loads(fine("evaluate", "gem", *tiny(project), "--json"))
    assert {row["query_set"] for row in rows} == {"query"}
    assert all(0 <= row["mAP"] <= 100 for row in rows)
    assert [f"{row['mAP']:.2f}"[:4] in table for row in rows] == [True] * len(rows)


def test_a_folder_of_photographs(project: Path) -> None:
    words = ["--profile", project / "frozen.yaml", "--benchmark", project / "photos"]
    assert fine("train", "gem", *words).startswith("run ")
    run = next(
        (project / "data" / "runs").glob("*/record.json")
    ).parent  # its backbone serves as a pre-trained one
    tensors = load_file(run / "weights.safetensors")
    backbone = {
        key.removeprefix("backbone."): value
        for key, value in tensors.items()
        if key.startswith("backbone.")
    }
    save_file(backbone, project / "backbone.safetensors")
    for more in ([], ["--off-the-shelf", "--weights", project / "backbone.safetensors"]):
        (row,) = json.loads(fine("evaluate", "gem", *words, *more, "--json"))
        assert (row["setting"], row["queries"]) == ("Classic", 3)
        assert row["mAP"] > 50  # stripes of other colours


def test_a_stop_by_the_keyboard_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "open_study", stop)
    result = dagf("train", "gem")
    assert result.exit_code == 130
    assert result.stderr == "dagf: stopped; start the same command again to go on from here\n"


def test_reports_are_not_written_to_a_file(project: Path) -> None:
    assert "labels.csv is no folder" in refused(
        "report", "--output", project / "photos" / "labels.csv"
    )


def test_what_a_terminal_cannot_show_is_escaped(project: Path) -> None:
    """An export of Latin letters alone, for instance into a pipe."""
    script = "import click\nfrom dagf.cli import main\n"
    script += "main.add_command(click.Command('say', callback=lambda: click.echo('\u5199.jpg')))\n"
    script += "main(['say'])\n"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "\\u5199.jpg\n", "")


@pytest.mark.study
def test_torchrun_trains_from_the_command_line(project: Path, tmp_path: Path) -> None:
    """The example of `dagf train --help`."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command = [*launcher, "-m", "dagf", "train", "gem", *tiny(project), "--seed", "9"]
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    ids = set(re.findall(r"run ([0-9a-f]{12}): GeM", ran.stdout))
    assert len(ids) == 1
    record = json.loads((project / "data" / "runs" / ids.pop() / "record.json").read_text())
    assert record["processes"] == 2


PAGES = ["README.md", "docs/distributed.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one(page: str) -> None:
    """Its name, and every option."""
    text = (Path(__file__).parents[1] / page).read_text()
    known = dict(COMMANDS)
    lines = re.findall(
        r"^(?:torchrun.* -m -- |sbatch together\.sh )?dagf (.*)$", text, re.MULTILINE
    )
    assert len(lines) > 5
    for line in lines:
        words = line.partition("#")[0].split()
        path = tuple(words[:2] if words[0] == "data" else words[:1])
        options = {option for one in known[path].params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_a_page_shows_how_each_command_is_shared() -> None:
    text = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text()
    for command in ("train", "extract", "search"):
        for start in ("torchrun --nproc-per-node 4", "torchrun --nnodes 2 ", "sbatch together.sh "):
            assert re.search(rf"^{re.escape(start)}.*\bdagf {command} ", text, re.MULTILINE)
    script = re.search(r"^#!/bin/bash\n.*?(?=^```)", text, re.MULTILINE | re.DOTALL)
    assert script
    subprocess.run(["bash", "-n"], input=script.group(), text=True, check=True)
