"""What names a result: the code that makes it, found from the imports, and nothing else."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagf.study import provenance
from dagf.study.provenance import code_hash, code_only, imported_modules

TRAINING, EVALUATION = "dagf.study.training", "dagf.study.evaluation"


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., set[str]]]:
    """Edit a file in a copy of the package; return what got another name."""
    package = tmp_path / "dagf"
    shutil.copytree(
        provenance.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "template")
    )
    monkeypatch.setattr(provenance, "PACKAGE", package)

    def names() -> dict[str, str]:
        code_hash.cache_clear()
        return {name: code_hash(name) for name in (TRAINING, EVALUATION)}

    before = names()

    def change(file: str, edit: Callable[[str], str]) -> set[str]:
        text = (package / file).read_text()
        assert edit(text) != text
        (package / file).write_text(edit(text))
        after = names()
        return {name for name in after if after[name] != before[name]}

    yield change
    code_hash.cache_clear()


def appended(text: str) -> str:
    return f"{text}\nMORE = 1\n"


def commented(text: str) -> str:
    return f"# a comment\n{text}\n\n# another\n"


def other_docstrings(text: str) -> str:
    return re.sub(r'^( *)"""[A-Z]', r'\1"""Also: a', text, flags=re.MULTILINE)


def test_another_average_precision_trains_and_evaluates_anew(
    changed: Callable[..., set[str]],
) -> None:
    """Validation mAP chooses epoch and learning rate: a mended AP must not meet old choices."""
    edit = "def average_precision(", "def average_precision(slack=0, *, "
    assert changed("retrieval/metrics.py", lambda text: text.replace(*edit)) == {
        TRAINING,
        EVALUATION,
    }


@pytest.mark.parametrize(
    "file",
    [
        *(f"model/{name}.py" for name in ("pooling", "attention", "scale_mask", "backbone")),
        *(f"datasets/{name}.py" for name in ("images", "batches", "benchmark")),
        *(f"retrieval/{name}.py" for name in ("search", "extract", "feature_maps")),
    ],
)
def test_what_both_compute_with_renames_both(changed: Callable[..., set[str]], file: str) -> None:
    assert changed(file, appended) == {TRAINING, EVALUATION}


@pytest.mark.parametrize("file", ["model/losses.py", "study/sampling.py", "study/sources.py"])
def test_what_trains_alone_renames_runs_alone(changed: Callable[..., set[str]], file: str) -> None:
    assert changed(file, appended) == {TRAINING}


def test_whitening_renames_evaluations_alone(changed: Callable[..., set[str]]) -> None:
    assert changed("retrieval/whitening.py", appended) == {EVALUATION}


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("retrieval/metrics.py", commented),
        ("model/pooling.py", other_docstrings),
        ("study/training.py", lambda text: text.replace("\n\n\n", "\n\n\n\n")),
        ("cli.py", appended),
        ("__init__.py", appended),
        ("model/variants.py", appended),
        ("study/profiles/cpu.yaml", appended),
        ("analysis/registered.py", appended),
        ("toytown/scene.py", appended),
    ],
)
def test_what_computes_nothing_renames_nothing(
    changed: Callable[..., set[str]], file: str, edit: Callable[[str], str]
) -> None:
    """Comments, docstrings, layout; commands, profiles, named variants, Toytown's generator."""
    assert changed(file, edit) == set()


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
        (
            "def f(x):\n    return x",
            'def f(\n    x,  # it\n):\n    """Say."""\n    return (x)',
            True,
        ),
        ('def f():\n    """Say."""', "def f():\n    pass", True),
        ("class A:\n    x = 1", 'class A:\n    """A."""\n\n    x = 1', True),
        ("x = 'a'", "x = 'b'", False),
        ("def f(x):\n    return x", "def f(x):\n    return -x", False),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()", False),
    ],
)
def test_only_what_decides_is_code(one: str, other: str, same: bool) -> None:
    assert (code_only(one) == code_only(other)) is same
