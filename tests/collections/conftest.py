"""What the tests of collections share: a project's folder with photographs, and a trained run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagf.datasets.benchmark import TrainingSet
from dagf.paths import ROOT
from dagf.study import parallel
from dagf.study.runs import Run
from tests.fixtures import Workshop, configured, empty_project, write_photographs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project's folder, with 37 photographs; no test changes them."""
    root = empty_project(tmp_path_factory.mktemp("collections") / "project")
    write_photographs(root / "photos")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(ROOT, str(root))
        patched.setattr(parallel, "cores", lambda: 1)
        yield root


@pytest.fixture(scope="module")
def run(home: Path, data: TrainingSet) -> Run:
    """A trained run."""
    return Workshop(home / "data", data).train(configured("gem", epochs=1))
