"""What names a result: the code that makes it, found from the imports, and nothing else."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagf.study import provenance
from dagf.study.provenance import code_hash, code_only, imported_modules
from dagf.study.study import CACHED_BY, TRAINED_BY

TRAINING, EVALUATION = "training", "evaluation"
MODULES = {TRAINING: (TRAINED_BY,), EVALUATION: CACHED_BY}


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., set[str]]]:
    """Edit a file in a copy of the package; return what got another name."""
    package = tmp_path / "dagf"
    unused = shutil.ignore_patterns("__pycache__", "template")
    shutil.copytree(provenance.PACKAGE, package, ignore=unused)
    monkeypatch.setattr(provenance, "PACKAGE", package)

    def names() -> dict[str, str]:
        code_hash.cache_clear()
        return {name: code_hash(*modules) for name, modules in MODULES.items()}

    before = names()

    def change(file: str, edit: Callable[[str], str]) -> set[str]:
        text = (package / file).read_text()
        assert edit(text) != text
        (package / file).write_text(edit(text))
        after = names()
        return {name for name in after if after[name] != before[name]}

    yield change
    code_hash.cache_clear()


BOTH, RUNS, NEITHER = {TRAINING, EVALUATION}, {TRAINING}, set[str]()
RENAMED = {
    **dict.fromkeys(("model/pooling.py", "model/backbone.py", "retrieval/extract.py"), BOTH),
    # Validation mAP chooses epoch and learning rate: a mended AP must not meet old choices.
    **dict.fromkeys(("datasets/decode.py", "datasets/batches.py", "retrieval/metrics.py"), BOTH),
    **dict.fromkeys(("model/losses.py", "study/sampling.py", "study/training.py"), RUNS),
    "retrieval/whitening.py": {EVALUATION},
    "datasets/public.py": {EVALUATION},
    **dict.fromkeys(("cli.py", "__init__.py", "model/variants.py", "toytown/scene.py"), NEITHER),
    **dict.fromkeys(("study/profiles/cpu.yaml", "analysis/registered.py"), NEITHER),
}


@pytest.mark.parametrize(("file", "renamed"), RENAMED.items())
def test_what_is_renamed(changed: Callable[..., set[str]], file: str, renamed: set[str]) -> None:
    assert changed(file, lambda text: f"{text}\nMORE = 1\n") == renamed


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import os, dagf.files
from dagf.study import config, Study
from dagf.model.losses import make_loss
def late():
    from dagf import console
"""
    names = "files study study.config model model.losses console"
    assert imported_modules(source) == {f"dagf.{name}" for name in names.split()}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("def f(x):\n    return x", "def f(\n    x,  # it\n):\n    return (x)", True),
        ('def f():\n    """Say."""', "def f():\n    pass", True),
        ("class A:\n    x = 1", 'class A:\n    """A."""\n\n    x = 1', True),
        ("x = 'a'", "x = 'b'", False),
        ("def f(x):\n    return x", "def f(x):\n    return -x", False),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()", False),
    ],
)
def test_only_what_decides_is_code(one: str, other: str, same: bool) -> None:
    assert (code_only(one) == code_only(other)) is same
