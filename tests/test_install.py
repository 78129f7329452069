"""Installed like any package: from a wheel, in an environment of its own, run from any folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.fixtures import FOLDER, PROFILE, write_photographs

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.study


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `dagf` of an environment that has the wheel, and sees no source."""
    base = tmp_path_factory.mktemp("install")
    source = base / "source"
    shutil.copytree(ROOT / "dagf", source / "dagf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", base]
    subprocess.run([*pip, "wheel", *options, source], check=True)
    environment = base / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (python,) = environment.glob("*/python")
    (packages,) = environment.rglob("site-packages")
    # What dagf needs is taken from here; the .pth file there that leads to our source is not read.
    (packages / "installed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = base.glob("dagf-*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    shutil.rmtree(source)
    return python.with_name("dagf")


def test_every_command_works_anywhere(program: Path, tmp_path: Path, backbone_weights: str) -> None:
    here, home = tmp_path / "empty", tmp_path / "home"
    photos = write_photographs(tmp_path / "photos")
    profile = tmp_path / "tiny.yaml"
    profile.write_text(json.dumps(PROFILE | FOLDER | {"arms": ["gem"]}))
    here.mkdir()
    ours = ("DAGF", "PYTHON")
    environment = {key: os.environ[key] for key in os.environ if not key.startswith(ours)}
    environment |= {"HOME": str(home), "DAGF_HEADLESS": "1", "OMP_NUM_THREADS": "1"}
    environment |= {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("DATA", "CACHE")}

    def told(*words: object, status: int = 0) -> str:
        command = [str(program), *map(str, words)]
        ran = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert ran.returncode == status, ran.stderr
        return ran.stderr if status else ran.stdout

    images = sorted((photos / "jpg").glob("*.jpg"))
    assert f"{len(images)} images in photos.index" in told("extract", photos)
    found = told("search", images[3], "--top", 1, "--plain", "--html", "found.html")
    assert found.split()[1] == str(images[3])
    study = ["--benchmark", photos, "--weights", backbone_weights, "--profile", profile]
    (row,) = json.loads(told("evaluate", "gem", *study, "--off-the-shelf", "--json"))
    assert row["queries"] == 3
    trained = re.match("run ([0-9a-f]{12}): GeM", told("train", "gem", *study))
    assert trained
    assert "descriptors (batch, 128)" in told("export", "--run", trained[1][:6], "model.onnx")
    assert {path.name for path in here.iterdir()} == {"photos.index", "found.html", "model.onnx"}
    assert [path.name for path in home.glob("**/runs/*/weights.safetensors")]
    refused = told("report", status=2)
    assert refused.count("\n") == 1 and "this needs the project's folder" in refused
