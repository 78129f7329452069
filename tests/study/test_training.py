"""The loop: what a run leaves, resuming, divergence, frozen backbones, several processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dagf.datasets import batches
from dagf.datasets.benchmark import TrainingSet
from dagf.files import read_json
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study import training
from dagf.study.config import Mining, TrainSpec
from dagf.study.runs import Run
from dagf.study.training import learning_rate, shrink
from tests.fixtures import TUPLES, Workshop, configured, fails, same_bits

FILES = {"config.json", "curves.csv", "record.json", "weights.safetensors"}
DIES = """
import os, signal
from dagf.study import training

whole = training.landmark_batches

def dying(labels, spec, seed, epoch, group):
    if (group.rank, epoch) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(labels, spec, seed, epoch, group)

training.landmark_batches = dying
"""


def test_a_run_leaves_its_four_files(finished: Run) -> None:
    assert {path.name for path in finished.folder.iterdir()} == FILES
    assert finished.config == configured()
    record = finished.record
    assert read_json(finished.folder / "record.json") == record
    about = ["variant", "training_images", "landmarks", "processes", "validation_setting"]
    assert [record[name] for name in about] == ["DAGF", 20, 4, 1, "Classic"]
    assert {"cpu", "threads", "versions"} <= set(record["machine"])
    assert str(Path.home()) not in str(record)
    curves = finished.curves
    assert list(curves) == ["epoch", "loss", "validation_mAP", "rate"]
    assert list(curves["epoch"]) == [1, 2]
    assert record["validation_mAP"] == curves["validation_mAP"].max()
    assert record["best_epoch"] == curves["epoch"][curves["validation_mAP"].idxmax()]


def test_the_same_bits(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(epochs=1, steps=1)
    first = workshop.train(config)
    assert same_bits(first, Workshop(tmp_path / "again", workshop.data).train(config))
    assert not same_bits(first, workshop.train(replace(config, seed=1)))
    monkeypatch.setattr(training, "Objective", None)  # to train again would be an error
    assert workshop.train(config) == first


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("changes", [TUPLES, {"precision": "bfloat16"}])
def test_a_run_that_stops_goes_on_as_if_unbroken(
    paired: TrainingSet, tmp_path: Path, one_thread: None, changes: dict[str, Any], frozen: bool
) -> None:
    config, broken = configured(**changes, frozen=frozen), Workshop(tmp_path / "broken", paired)
    broken.interrupt(config, after=config.train.epochs - 1)
    assert (broken.store.folder(config) / "state.pt").exists()
    assert broken.store.find(config) is None
    torch.manual_seed(99)  # what this process did in between does not matter
    resumed = broken.train(config)
    assert {path.name for path in resumed.folder.iterdir()} == FILES
    assert np.isfinite(resumed.curves["loss"]).all()
    assert same_bits(resumed, Workshop(tmp_path / "unbroken", paired).train(config))


def test_the_best_epoch_is_kept(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept weights are those of the best epoch, also where a later epoch was worse."""
    marks, rate = iter([10.0, 30.0, 20.0]), 3e-3
    with monkeypatch.context() as patched:
        patched.setattr(training, "mean_average_precision", lambda *_: next(marks))
        run = workshop.train(configured(epochs=3, rate=rate))
    assert (run.record["best_epoch"], run.record["validation_mAP"]) == (2, 30.0)
    other = configured(epochs=3, rate=rate, recipe="the same")
    workshop.interrupt(other, after=2)
    state, *_ = torch.load(workshop.store.folder(other) / "state.pt", weights_only=True)
    at_best = {key: one for key, one in state.items() if key.startswith("extract.")}
    kept = run.weights()
    assert len(at_best) == len(kept)
    assert all(kept[key.removeprefix("extract.")].equal(one) for key, one in at_best.items())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("frozen", [False, True])
def test_validation_is_of_the_kept_weights(workshop: Workshop, frozen: bool, seed: int) -> None:
    """Of an untrained frozen backbone, too: another seed must not read its maps."""
    for one in range(seed + 1):
        run = workshop.train(configured("spoc", epochs=1, seed=one, frozen=frozen))
    scores = benchmark_scores(run.network(), workshop.data.validation, run.config.image)[0]
    found = mean_average_precision(evaluate(workshop.data.validation, scores), "Classic")
    near = 1.0 if frozen else 1e-6
    assert found == pytest.approx(run.record["validation_mAP"], abs=near)


def test_divergence_names_step_and_rate_and_leaves_no_record(workshop: Workshop) -> None:
    config = configured(epochs=2, steps=30, rate=100.0, warmup=0.0)
    said = r"diverged at step \d+ of 60: lower train\.rate \(now 100\)"
    fails(said, workshop.train, config)
    assert workshop.store.find(config) is None


def test_learning_rate_by_hand() -> None:
    spec = TrainSpec(epochs=4, steps=5, rate=2.0, warmup=0.2)  # 20 steps, of which 4 warm up
    assert [learning_rate(spec, step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert learning_rate(spec, 4) == 2.0  # the cosine's top
    assert learning_rate(spec, 12) == pytest.approx(1.0)  # half-way down the 16 steps
    assert learning_rate(spec, 19) == pytest.approx(1 + np.cos(np.pi * 15 / 16))
    assert learning_rate(spec, 20) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(replace(spec, epochs=1, steps=1), 0) == 2.0
    decayed = replace(spec, warmup=0.0, decay=0.1)
    assert [learning_rate(decayed, step) for step in (0, 4)] == [2.0, 2.0]
    assert learning_rate(decayed, 19) == pytest.approx(2 * np.exp(-0.3))  # the fourth epoch


def test_a_frozen_backbone_stays(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = workshop.train(configured("spoc", epochs=1))
    start, frozen = backbone.weights(), {"start": backbone.weights_id, "frozen": True}
    run = workshop.train(configured("dagf", **frozen, loss="ContrastiveLoss", loss_options={}))
    after = run.weights()
    assert all(after[key].equal(start[key]) for key in after if key.startswith("backbone."))
    learned = next(key for key in after if key.endswith("pooling.p"))
    assert after[learned].item() != 3.0
    maps = {path: path.stat().st_mtime_ns for path in workshop.cache.rglob("*.npy")}
    assert len(maps) == 8  # maps and masks: training, database, distractors, queries
    monkeypatch.setattr(batches, "load_image", lambda *_: pytest.fail("the maps were there"))
    workshop.train(configured("gem", **frozen))
    assert {path: path.stat().st_mtime_ns for path in workshop.cache.rglob("*.npy")} == maps


def test_an_unknown_augmentation_is_refused(workshop: Workshop) -> None:
    fails("did you mean 'photograph'", workshop.train, configured(augmentation="photograp"))


def close(first: Run, second: Run) -> bool:
    """Whether two runs have the same weights and losses but for rounding, and learned something."""
    ours, theirs = first.weights(), second.weights()
    assert ours["head.scale_and_mask.pooling.p"].item() != 3.0
    same = all(torch.allclose(ours[key].float(), theirs[key].float(), atol=1e-5) for key in ours)
    return same and np.allclose(first.curves["loss"], second.curves["loss"], rtol=1e-4)


def test_accumulated_batches_are_one(paired: TrainingSet, tmp_path: Path, one_thread: None) -> None:
    """Two batches of two tuples give the gradient of one of four: the loss is a mean."""
    changes = TUPLES | {"epochs": 2, "steps": 1, "augmentation": "none", "frozen": True}
    one, two = (
        Workshop(tmp_path / str(parts), paired).train(
            configured("gem", **changes, accumulate=parts)
        )
        for parts in (1, 2)
    )
    assert close(one, two)


@pytest.mark.parametrize("there", [True, False])
def test_mixed_precision_keeps_whole_weights_where_there_is_one(
    workshop: Workshop, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"avx2": True, "avx512_bf16": there, "l1d_cache_size": 32768}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    changes = {"loss": "ArcFaceLoss", "loss_options": {}, "rate": 1e-4}
    exact, mixed = (
        workshop.train(configured("gem", **changes, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    assert exact.record["precision"] == "float32"
    assert mixed.record["precision"] == ("bfloat16" if there else "float32")
    assert {value.dtype for value in mixed.weights().values()} <= {torch.float32, torch.int64}
    assert same_bits(exact, mixed) != there
    assert np.allclose(exact.curves["loss"], mixed.curves["loss"], rtol=0.05)


@pytest.mark.study
def test_two_processes_train_on_tuples_together(paired: TrainingSet, tmp_path: Path) -> None:
    """Frozen maps, so that the shares alone differ: weights and curve are those of one process.

    Of three tuples one process has two: each tuple counts alike all the same.
    """
    mining = Mining(queries=6, pool=16, negatives=2)
    config = configured("gem", **TUPLES | {"mining": mining}, frozen=True)
    alone = Workshop(tmp_path / "alone", paired).train(config)
    workshop = Workshop(tmp_path / "together", paired)
    ran = workshop.together(config)
    assert ran.returncode == 0, ran.stderr
    run = workshop.store.get(config.id)
    assert run.record["processes"] == 2
    assert close(alone, run)


@pytest.mark.study
def test_when_one_of_two_dies_the_next_start_goes_on(workshop: Workshop, tmp_path: Path) -> None:
    config = configured(epochs=3)
    folder = workshop.store.folder(config)
    died = workshop.together(config, DIES)
    assert died.returncode != 0
    assert "Signal 9 (SIGKILL)" in died.stderr  # torchrun's table: which process, and of what
    assert (folder / "state.pt").exists() and not (folder / "record.json").exists()
    unbroken = Workshop(tmp_path / "unbroken", workshop.data)
    for one in (workshop, unbroken):
        ran = one.together(config)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("trained here") == 2
    resumed = workshop.store.get(config.id)
    assert {path.name for path in resumed.folder.iterdir()} == FILES
    assert same_bits(resumed, unbroken.store.get(config.id))


def test_the_first_share_of_the_steps_sees_smaller_images(workshop: Workshop) -> None:
    spec = TrainSpec(epochs=2, steps=5, shrunk=0.6)
    images = torch.arange(2 * 3 * 96 * 48, dtype=torch.float32).view(2, 3, 96, 48)
    sizes = [tuple(shrink(images, spec, step).shape[2:]) for step in range(10)]
    assert sizes == [(64, 32)] * 6 + [(96, 48)] * 4
    assert shrink(images, TrainSpec(), 0) is images
    assert shrink(torch.full((1, 3, 9, 9), 0.5), spec, 0).unique().tolist() == pytest.approx([0.5])
    plain, shrunk = (workshop.train(configured(epochs=1, shrunk=share)) for share in (0.0, 0.5))
    assert not same_bits(plain, shrunk)
