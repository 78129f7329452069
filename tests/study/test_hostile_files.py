"""Profiles, runs, collections and weights that are damaged or hostile: a valid result, or one line, and no more."""

import io
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dagf.collections.index import Collection
from dagf.errors import UserError
from dagf.files import read_json
from dagf.model.network import RetrievalNet
from dagf.study.config import Profile, RunConfig, load_profile
from dagf.study.runs import Run, RunStore, read_weights
from dagf.study.study import Study
from tests.commands import fine
from tests.fixtures import PROFILE, Workshop, configured
from tests.hostile import FEW, as_json, changed, damaged, read_or_refuse


@FEW
@given(st.data())
def test_profiles(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "mine.yaml"
    good = yaml.safe_dump(PROFILE).encode()
    bad = data.draw(
        st.one_of(damaged(good), changed(PROFILE).map(lambda value: as_json(value).encode()))
    )
    path.write_bytes(bad)
    made = read_or_refuse(
        lambda: load_profile(str(path)), path, "profile", "training:", "Toytown:", "image size"
    )
    assert made is None or isinstance(made, Profile)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        BOMB + "name: *i\n",
        BOMB + "seeds: *i\n",
        BOMB.replace("\n", ", ").join(["{", "}"]),
        "[" * 5000,
        "{a: " * 5000,
        "name: &a [*a]\n",
        "!!python/object/apply:os.system [touch fired]\n",
        "name: !!python/name:os.system\n",
        "? [a, b]\n: c\n",
        "name: " + "9" * 5000,
        "name: 2001-99-99\n",
        "name: a\nname: b\n",
        "\0",
    ],
)
def test_a_profile_that_means_harm(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert time.monotonic() - started < 10
    assert not Path("fired").exists()


@pytest.fixture
def there(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to damage."""
    shutil.copytree(finished.folder, tmp_path / "runs" / finished.id)
    return Run(tmp_path / "runs" / finished.id)


def restore(run: Run, finished: Run) -> None:
    shutil.copytree(finished.folder, run.folder, dirs_exist_ok=True)


@FEW
@given(st.data())
def test_the_configuration_of_a_run(there: Run, finished: Run, data: st.DataObject) -> None:
    path = there.folder / "config.json"
    path.write_text(as_json(data.draw(changed(read_json(finished.folder / "config.json")))))
    made = read_or_refuse(lambda: there.config, path)
    assert made is None or isinstance(made, RunConfig)
    read_or_refuse(there.network, path, there.folder)


@FEW
@given(st.data())
def test_the_record_of_a_run(there: Run, finished: Run, data: st.DataObject) -> None:
    path = there.folder / "record.json"
    good = (finished.folder / "record.json").read_bytes()
    path.write_bytes(
        data.draw(
            st.one_of(
                damaged(good), changed(json.loads(good)).map(lambda value: as_json(value).encode())
            )
        )
    )
    record = read_or_refuse(lambda: there.record, path)
    assert record is None or np.isfinite(record["validation_mAP"])


@FEW
@given(st.data())
def test_the_curves_of_a_run(there: Run, finished: Run, data: st.DataObject) -> None:
    path = there.folder / "curves.csv"
    path.write_bytes(data.draw(damaged((finished.folder / "curves.csv").read_bytes())))
    curves = read_or_refuse(lambda: there.curves, path)
    assert curves is None or {"epoch", "loss", "validation_mAP", "rate"} <= set(curves)


@FEW
@given(st.data())
def test_the_weights_of_a_run(there: Run, finished: Run, data: st.DataObject) -> None:
    path = there.folder / "weights.safetensors"
    whole = (finished.folder / "weights.safetensors").read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    path.write_bytes(data.draw(damaged(whole[:head])) + whole[head:])
    read_or_refuse(there.network, path)


def _code(fired: Path) -> Any:
    class Code:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (fired,)

    return Code()


def test_a_pickle_in_place_of_weights_is_refused(there: Run, tmp_path: Path) -> None:
    path, fired = there.folder / "weights.safetensors", tmp_path / "fired"
    zipped = io.BytesIO()
    torch.save({"backbone": _code(fired)}, zipped)
    for data in (pickle.dumps(_code(fired)), zipped.getvalue()):
        path.write_bytes(data)
        with pytest.raises(UserError, match="weights"):
            there.network()
        with pytest.raises(UserError, match="is broken"):
            read_weights(path)
    assert not fired.exists()


def without(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    """The tensors but for one, which must be among them."""
    assert name in tensors, sorted(tensors)
    return {key: one for key, one in tensors.items() if key != name}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, meta: (tensors, None),
        lambda tensors, meta: (tensors, {"json": "{"}),
        lambda tensors, meta: (tensors, {"json": "[]"}),
        lambda tensors, meta: (
            tensors,
            {"json": json.dumps({**json.loads(meta["json"]), "curves": [{"x": 1}]})},
        ),
        lambda tensors, meta: (
            tensors,
            {"json": json.dumps({**json.loads(meta["json"]), "seconds": "long"})},
        ),
        lambda tensors, meta: ({**tensors, "more.0": torch.zeros(1)}, meta),
        lambda tensors, meta: ({**tensors, "objective.describe.head.more": torch.zeros(1)}, meta),
        lambda tensors, meta: (
            {key: one[..., :1].clone() if one.ndim == 4 else one for key, one in tensors.items()},
            meta,
        ),
        lambda tensors, meta: (
            without(tensors, "objective.describe.head.scale_and_mask.pooling.p"),
            meta,
        ),
        lambda tensors, meta: (without(tensors, "optimizer.0.exp_avg"), meta),
        lambda tensors, meta: ({**tensors, "optimizer.0.exp_avg": torch.zeros(1, 2, 3)}, meta),
        lambda tensors, meta: ({**tensors, "optimizer.0.step": torch.tensor(-1e9)}, meta),
        lambda tensors, meta: ({**tensors, "optimizer.0.step": torch.tensor(float("nan"))}, meta),
        lambda tensors, meta: ({**tensors, "optimizer.0.step": torch.zeros(2)}, meta),
        lambda tensors, meta: (tensors, {**meta, "run": "another"}),
    ],
)
def test_a_checkpoint_that_is_another_thing_is_named(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., Any]
) -> None:
    from dagf.study import training

    config = configured(epochs=2, steps=1)

    def stop(self: Any, epoch: int, *rest: Any) -> None:
        whole(self, epoch, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        whole = training._Loop._validate_and_keep
        patched.setattr(training._Loop, "_validate_and_keep", stop)
        with pytest.raises(KeyboardInterrupt):
            workshop.train(config)
    state = workshop.store.folder(config) / "state.safetensors"
    with training.safe_open(state, "pt") as opened:
        meta = opened.metadata()
    tensors, said = spoil(load_file(state), meta)
    save_file(tensors, state, metadata=said)
    assert read_or_refuse(lambda: workshop.train(config), state) is None
    state.unlink()
    assert len(workshop.train(config).curves) == 2


# --- collections --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(finished: Run, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of five photographs."""
    from dagf.collections.encoders import of_run
    from dagf.collections.index import build
    from dagf.study import parallel  # noqa: F401

    root = tmp_path_factory.mktemp("kept") / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    shutil.copytree(finished.folder, root / "data" / "runs" / finished.id)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGF_ROOT", str(root))
        build(sorted(photographs.rglob("5-*.jpg")), of_run(finished.id), root / "index")
    return root


@FEW
@given(st.data())
def test_collections(kept: Path, tmp_path: Path, photographs: Path, data: st.DataObject) -> None:
    folder = tmp_path / "index"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept / "index", folder)
    path = folder / "index.json"
    path.write_text(as_json(data.draw(changed(read_json(path)))))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGF_ROOT", str(kept))
        found = read_or_refuse(lambda: Collection.load(folder), folder)
        if found is not None:
            read_or_refuse(
                lambda: found.search(photographs / "jpg" / "5-0.jpg", 3),
                folder, found.encoder.run or "?", found.encoder.weights or "imagenet", "ImageNet",
            )  # fmt: skip


@FEW
@given(st.data())
def test_shards(kept: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "index"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept / "index", folder)
    (shard,) = folder.glob("shard-*.npy")
    whole = shard.read_bytes()
    shard.write_bytes(data.draw(damaged(whole[:128])) + whole[128:])
    read_or_refuse(lambda: Collection.load(folder), folder)


@pytest.mark.parametrize(
    "name", ["../other.npy", "/other.npy", "shard-1.npy/../../other.npy", "index.json"]
)
def test_a_collection_reads_its_own_shards_only(kept: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "index"
    shutil.copytree(kept / "index", folder)
    (shard,) = folder.glob("shard-*.npy")
    shutil.copy(shard, tmp_path / "other.npy")
    about = read_json(folder / "index.json")
    (folder / "index.json").write_text(json.dumps(about | {"shards": [name]}))
    with pytest.raises(UserError, match="is no collection"):
        Collection.load(folder)


def test_an_image_size_that_would_fill_the_memory_is_refused(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(kept / "index", folder)
    about = read_json(folder / "index.json")
    about["encoder"]["image"] = {"size": 10**6, "mode": "squash", "resize_crop": True}
    (folder / "index.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"images of 1000000 pixels a side"):
        Collection.load(folder)


@pytest.mark.parametrize(
    "name", [b"caf\xe9.jpg", b"\x1b[2J.jpg", b"a\nb.jpg", "<b>é&.jpg".encode()]
)
def test_a_photograph_under_any_name(
    kept: Path, finished: Run, photographs: Path, tmp_path: Path, name: bytes
) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        shutil.copy(photographs / "jpg" / "5-0.jpg", file)
    except OSError:
        pytest.skip("this disk has no such name")
    index, page = tmp_path / "index", tmp_path / "found.html"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGF_ROOT", str(kept))
        fine("extract", "--run", finished.id, tmp_path, "--output", index)
        said = fine("search", photographs / "jpg" / "5-0.jpg", "--index", index, "--html", page)
        (found,) = json.loads(
            fine("search", photographs / "jpg" / "5-0.jpg", "--index", index, "--json")
        )
    assert found["file"] == str(file)
    assert said.count("\n") == 1
    assert said.strip().isprintable()
    assert "<b>" not in page.read_text()


# --- what a study keeps -------------------------------------------------------------------------------------------


@FEW
@given(st.data())
def test_kept_answers(toy: Study, tmp_path: Path, data: st.DataObject) -> None:
    store = RunStore(tmp_path / "runs")
    run = toy.train(["gem"])["gem", toy.profile.seeds[0]]
    if not store.root.exists():
        shutil.copytree(run.folder, store.root / run.id)
    copy = Run(store.root / run.id)
    good, per_query = toy._files(run)[-1], toy._files(copy)[-1]
    per_query.write_bytes(data.draw(damaged(good.read_bytes())))
    results = read_or_refuse(lambda: toy.results(copy), per_query)
    assert results is None or len(results.per_query)


def test_networks_of_the_library_load_no_code() -> None:
    """The one place where a pickle of weights is read says so itself; everything else is safetensors."""
    package = Path(RetrievalNet.__module__.replace(".", "/")).parents[1]
    found = [
        (path.name, line.strip())
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "torch.load(" in line or "pickle.load" in line or "allow_pickle=True" in line
    ]
    assert [name for name, line in found] == ["backbones.py"]
    assert "weights_only=True" in found[0][1]
