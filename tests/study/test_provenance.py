"""What names a run and an answer: the code that made it, module by module."""

import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from dagf.files import code_only
from dagf.model.network import AttentiveHead
from dagf.model.variants import VARIANTS
from dagf.study import provenance
from dagf.study.provenance import evaluation_hash, recipe_hash

stripped = cache(code_only)  # the same few files again and again


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code, from which recipes are made; it may be changed."""
    folder = tmp_path / "dagf"
    shutil.copytree(
        Path(provenance.__file__).parents[1], folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(provenance, "resources", SimpleNamespace(files=lambda _: folder))
    monkeypatch.setattr(provenance, "code_only", stripped)
    return folder


def recipes() -> dict[str, str]:
    return {name: recipe_hash.__wrapped__(made_of) for name, made_of in VARIANTS.items()}


ATTENTIVE = {
    name
    for name in VARIANTS
    if name.startswith(("spatial", "channel", "attention", "parallel", "dagf"))
} | {"crow"}  # whose weight is a reading of the spatial attention
BASELINES = {"solar", "glam", "delf", "se", "cbam", "eca"}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("model/attention.py", ATTENTIVE), ("model/peers.py", BASELINES), ("model/variants.py", set()),
        ("study/experiment.py", set()), ("study/analysis/registered.py", set()), ("retrieval/metrics.py", set()),
        *((file, set(VARIANTS)) for file in (
            "model/pooling.py", "model/scale_mask.py", "model/network.py", "model/backbones.py", "model/losses.py",
            "retrieval/images.py", "study/sources.py", "study/training.py", "study/sampling.py", "study/tuples.py",
        )),
    ],
)  # fmt: skip
def test_a_recipe_changes_with_the_modules_that_a_variant_has(
    package: Path, file: str, changed: set[str]
) -> None:
    before = recipes()
    text = (package / file).read_text()
    (package / file).write_text(f"# a comment\n{text}\n\n")
    assert recipes() == before
    (package / file).write_text(f"{text}\nMORE = 1\n")
    after = recipes()
    assert {name for name in VARIANTS if after[name] != before[name]} == changed


def test_answers_are_named_by_all_code_between_a_file_and_its_rank(package: Path) -> None:
    before = evaluation_hash.__wrapped__()
    files = {path.stem: path for path in (package / "retrieval").glob("*.py")}
    for name in (
        "images",
        "batches",
        "inference",
        "feature_maps",
        "descriptors",
        "search",
        "whitening",
        "metrics",
    ):
        text = files[name].read_text()
        files[name].write_text(f"{text}\nMORE = 1\n")
        assert evaluation_hash.__wrapped__() != before
        files[name].write_text(f"# a comment\n{text}")
        assert evaluation_hash.__wrapped__() == before


def test_every_module_of_a_head_is_in_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a variant of tomorrow: what defines its modules is read."""
    root = Path(provenance.__file__).parents[1]
    for made_of in VARIANTS.values():
        read: list[str] = []
        monkeypatch.setattr(
            provenance, "code_only", lambda text, read=read: read.append(text) or text
        )
        recipe_hash.__wrapped__(made_of)
        own = {type(module).__module__ for module in AttentiveHead(8, made_of).modules()}
        for name in own:
            if name.startswith("dagf."):
                assert (root.parent / name.replace(".", "/")).with_suffix(".py").read_text() in read
