"""The files that make an environment hold together, and so do the rules of the code."""

import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dagf
from dagf.study.provenance import imported_modules

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ROOMS = ("datasets", "retrieval", "study", "analysis", "show", "collections", "reports")
# Each layer knows its own rooms and those of the layers before it ("": the version).
LAYERS = (
    {"errors", "files", "console", "paths", "devices", "distributed", "torchrun"} | {""},
    {"model", "toytown"},
    *({name} for name in ROOMS),
    {"cli", "api", "__main__"},
)
SOURCES = sorted((ROOT / "dagf").rglob("*.py"))
PARTS = {path: path.relative_to(ROOT).with_suffix("").parts for path in SOURCES}
MODULES = {".".join(parts).removesuffix(".__init__"): path for path, parts in PARTS.items()}
IMPORTS = {name: imported_modules(path.read_text()) for name, path in MODULES.items()}


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in (one.partition("#")[0].strip() for one in lines) if line]
    assert all(len(pair) == 2 for pair in pairs), "every line of constraints.txt is NAME==VERSION"
    found = {str(canonicalize_name(name)): Version(version) for name, version in pairs}
    assert len(found) == len(pairs)
    return found


def requirements() -> list[str]:
    project = PYPROJECT["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("text", requirements())
def test_every_requirement_is_pinned_inside_its_range(text: str) -> None:
    requirement = Requirement(text)
    pinned = pins().get(str(canonicalize_name(requirement.name)))
    assert pinned is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(pinned)


def test_both_roads_install_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, *_, pip = environment["dependencies"]
    assert pip == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}
    assert all(name in (ROOT / "Makefile").read_text() for name in ("constraints.txt", ".[dev]"))
    known = Requirement(f"python{PYPROJECT['project']['requires-python']}")
    assert known.specifier.contains(python.partition("=")[2])


@pytest.mark.parametrize("name", ["environment.yml", "pyproject.toml", "constraints.txt"])
def test_no_index_and_no_path_of_a_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"--?(extra-)?(index|find)[-_](url|links)|trusted-host", text)
    assert not re.search(r"/(home|root|work|Users|tmp)/|file:| @ ", text)


def test_the_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dagf.__version__
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dagf.__version__"}
    assert PYPROJECT["project"]["license"] == citation["license"]
    command = [sys.executable, "-m", "dagf", "--version"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == f"dagf, version {dagf.__version__}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_with_one_cell_of_parameters(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert not {"widgets", "papermill"} & notebook["metadata"].keys()
    assert not re.search(r"/(home|root|work|Users|tmp)/", path.read_text())


def room(name: str) -> str:
    return (name + ".").split(".")[1]


@pytest.mark.parametrize("name", MODULES)
def test_layers_point_one_way(name: str) -> None:
    level = {one: number for number, layer in enumerate(LAYERS) for one in layer}
    above = {one for one in IMPORTS[name] if level[room(one)] > level[room(name)]}
    assert not above


def test_model_and_generator_know_nothing_but_how_to_say_what_is_wrong() -> None:
    for name, imported in IMPORTS.items():
        if room(name) in ("model", "toytown"):
            known = {room(name), "errors", "files", "console", "distributed"}
            assert {*map(room, imported)} <= known, name


def test_there_are_no_circles() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises for a circle, and names it
