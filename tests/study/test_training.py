"""The loop: what a run leaves, resuming, divergence, frozen backbones, several processes."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dagf.datasets import batches
from dagf.datasets.training_sets import TrainingSet
from dagf.errors import UserError
from dagf.files import read_json
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study import training
from dagf.study.config import TrainSpec
from dagf.study.runs import Run
from dagf.study.training import initial_network, learning_rate, shrink
from tests.fixtures import Workshop, configured, same_bits

FILES = {"config.json", "curves.csv", "record.json", "weights.safetensors"}


def test_a_run_leaves_its_four_files(finished: Run) -> None:
    assert {path.name for path in finished.folder.iterdir()} == FILES
    assert finished.config == configured()
    record = finished.record
    assert record["variant"] == "DAGF"
    assert record["training_images"] == 20
    assert record["landmarks"] == 4
    assert record["processes"] == 1
    assert record["validation_setting"] == "Classic"
    assert {"cpu", "threads", "versions"} <= set(record["machine"])
    assert str(Path.home()) not in str(record)
    curves = finished.curves
    assert list(curves["epoch"]) == [1, 2]
    assert record["validation_mAP"] == curves["validation_mAP"].max()
    assert record["best_epoch"] == curves["epoch"][curves["validation_mAP"].idxmax()]


def test_asked_twice_trained_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    first = workshop.train(configured(epochs=1, steps=1))
    monkeypatch.setattr(training, "_Loop", None)  # to train again would be an error
    assert workshop.train(configured(epochs=1, steps=1)) == first
    with pytest.raises(TypeError):
        workshop.train(configured(epochs=1, steps=1, seed=1))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    workshop: Workshop, tmp_path: Path
) -> None:
    first = workshop.train(configured(epochs=1))
    again = Workshop(tmp_path / "again", workshop.data).train(configured(epochs=1))
    assert same_bits(first, again)
    assert not same_bits(first, workshop.train(configured(epochs=1, seed=1)))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_that_stops_goes_on_as_if_unbroken(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    config = configured(epochs=3, miner="MultiSimilarityMiner", frozen=frozen)
    with monkeypatch.context() as patched:
        whole = training._Loop._validate_and_keep

        def stop(self: Any, epoch: int, loss: float, started: float) -> None:
            if epoch == 2:
                raise KeyboardInterrupt
            whole(self, epoch, loss, started)

        patched.setattr(training._Loop, "_validate_and_keep", stop)
        with pytest.raises(KeyboardInterrupt):
            workshop.train(config)
    assert (workshop.store.folder(config) / "state.pt").exists()
    assert workshop.store.find(config) is None
    torch.manual_seed(99)  # what this process did in between does not matter
    resumed = workshop.train(config)
    assert {path.name for path in resumed.folder.iterdir()} == FILES
    assert same_bits(resumed, Workshop(tmp_path / "unbroken", workshop.data).train(config))


@pytest.mark.study
def test_a_killed_process_goes_on_as_if_unbroken(workshop: Workshop, tmp_path: Path) -> None:
    config = configured(epochs=15)
    folder = workshop.store.folder(config)
    process = workshop.start(config)
    while not (folder / "state.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors
    assert not (folder / "record.json").exists()
    resumed = workshop.train(config)
    assert len(resumed.curves) == 15
    assert same_bits(resumed, Workshop(tmp_path / "unbroken", workshop.data).train(config))


def test_the_best_epoch_is_kept(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept weights give the best epoch's validation mAP, also where a later epoch was worse."""
    config = configured(epochs=3, rate=3e-3)
    marks = iter([10.0, 30.0, 20.0])
    at_best: dict[str, torch.Tensor] = {}
    whole = training._Loop._validate_and_keep

    def watched(self: Any, epoch: int, loss: float, started: float) -> None:
        if epoch == 1:
            at_best.update({key: value.clone() for key, value in self.net.state_dict().items()})
        whole(self, epoch, loss, started)

    monkeypatch.setattr(training._Loop, "_validate_and_keep", watched)
    monkeypatch.setattr(training, "mean_average_precision", lambda *_: next(marks))
    run = workshop.train(config)
    assert run.record["best_epoch"] == 2
    assert run.record["validation_mAP"] == 30.0
    kept = load_file(run.folder / "weights.safetensors")
    assert all(kept[key].equal(value) for key, value in at_best.items())


def test_the_validation_score_is_that_of_the_kept_weights(finished: Run, data: TrainingSet) -> None:
    scores = benchmark_scores(finished.network(), data.validation, finished.config.image)[0]
    found = mean_average_precision(evaluate(data.validation, scores), "Classic")
    assert found == pytest.approx(finished.record["validation_mAP"], abs=1e-6)


def test_divergence_names_step_and_rate_and_leaves_no_record(workshop: Workshop) -> None:
    config = configured(epochs=2, steps=30, rate=100.0, warmup=0.0)
    with pytest.raises(
        UserError, match=r"diverged.* at step \d+ of 60; lower train\.rate \(now 100\)"
    ) as caught:
        workshop.train(config)
    assert "\n" not in str(caught.value)
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


def test_a_frozen_backbone_keeps_its_weights_and_its_maps(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = workshop.train(configured("spoc", epochs=1))
    start = load_file(backbone.folder / "weights.safetensors")
    config = configured(
        "dagf", start=backbone.weights_id, frozen=True, loss="ContrastiveLoss", loss_options={}
    )
    before = initial_network(config, workshop.store).state_dict()
    run = workshop.train(config)
    after = load_file(run.folder / "weights.safetensors")
    assert all(after[key].equal(start[key]) for key in after if key.startswith("backbone."))
    changed = [key for key in after if not after[key].equal(before[key])]
    assert changed
    assert all(key.startswith("head.") for key in changed)
    maps = {path: path.stat().st_mtime_ns for path in workshop.cache.rglob("*.npy")}
    assert len(maps) == 3  # training images, the benchmark's database, its queries
    monkeypatch.setattr(batches, "load_image", lambda *_: pytest.fail("the maps were there"))
    workshop.train(replace(configured("gem"), start=backbone.weights_id, frozen=True))
    assert {path: path.stat().st_mtime_ns for path in workshop.cache.rglob("*.npy")} == maps


def test_each_seed_of_a_random_frozen_backbone_has_its_own_maps(workshop: Workshop) -> None:
    """An untrained backbone is drawn from the seed: another seed must not read its maps."""
    runs = [workshop.train(configured("spoc", epochs=1, seed=seed, frozen=True)) for seed in (0, 1)]
    for run in runs:
        scores = benchmark_scores(run.network(), workshop.data.validation, run.config.image)[0]
        found = mean_average_precision(evaluate(workshop.data.validation, scores), "Classic")
        assert found == pytest.approx(run.record["validation_mAP"], abs=1.0)
    assert len(list(workshop.cache.iterdir())) == 2


@pytest.mark.parametrize("loss", ["ContrastiveLoss", "TripletMarginLoss", "ArcFaceLoss"])
def test_other_losses_train_with_a_miner(workshop: Workshop, loss: str) -> None:
    run = workshop.train(
        configured("gem", epochs=1, loss=loss, loss_options={}, miner="MultiSimilarityMiner")
    )
    assert np.isfinite(run.curves["loss"]).all()


def test_the_loss_falls_where_instances_are_easy_to_tell_apart(workshop: Workshop) -> None:
    spec = {
        "epochs": 6,
        "steps": 8,
        "rate": 3e-3,
        "landmarks": 4,
        "views": 4,
        "augmentation": "none",
    }
    curves = workshop.train(configured("gem", **spec)).curves
    assert curves["loss"].iloc[-1] < 0.25 * curves["loss"].iloc[0]


def test_unknown_names_are_refused(workshop: Workshop) -> None:
    for change in (
        {"loss": "CosFaceLos"},
        {"miner": "MultiSimilarityMine"},
        {"augmentation": "photograp"},
    ):
        with pytest.raises(
            UserError, match=r"did you mean '(CosFaceLoss|MultiSimilarityMiner|photograph)'"
        ):
            workshop.train(configured(**change))


@pytest.mark.study
def test_two_processes_train_one_run_together(workshop: Workshop) -> None:
    config = configured(epochs=2)
    process = workshop.start(config, processes=2)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("trained here") == 2
    run = workshop.store.get(config.id)
    assert output.split().count(run.id) == 2
    assert {path.name for path in run.folder.iterdir()} == FILES
    assert run.record["processes"] == 2
    assert list(run.curves["epoch"]) == [1, 2]
    assert np.isfinite(run.curves["loss"]).all()
    again = workshop.start(config, processes=2)  # a team that finds the run takes it
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "trained here" not in output


DIES = """
import os, signal
from dagf.study import training

whole = training._Loop._epoch

def dying(self, model, epoch):
    if (self.group.rank, epoch) == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, model, epoch)

training._Loop._epoch = dying
"""


@pytest.mark.study
def test_one_of_two_processes_dies_and_the_next_start_goes_on_as_if_unbroken(
    workshop: Workshop, tmp_path: Path
) -> None:
    config = configured(epochs=4)
    folder = workshop.store.folder(config)
    died = workshop.start(config, processes=2, before=DIES)
    errors = died.communicate(timeout=120)[1]
    assert died.returncode not in (0, None)
    assert "Signal 9 (SIGKILL)" in errors  # torchrun's table: which process, and of what
    assert (folder / "state.pt").exists() and not (folder / "record.json").exists()
    unbroken = Workshop(tmp_path / "unbroken", workshop.data)
    for one in (workshop, unbroken):
        process = one.start(config, processes=2)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.count("trained here") == 2
    resumed = workshop.store.get(config.id)
    assert {path.name for path in resumed.folder.iterdir()} == FILES
    assert list(resumed.curves["epoch"]) == [1, 2, 3, 4]
    assert same_bits(resumed, unbroken.store.get(config.id))


@pytest.mark.study
def test_two_at_once_train_one_run_once(workshop: Workshop) -> None:
    config = configured(epochs=6)
    processes = [workshop.start(config) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all(config.id in output for output, _ in outputs)
    assert sum("trained here" in output for output, _ in outputs) == 1


def test_the_record_is_plain_json_and_the_curves_plain_csv(finished: Run) -> None:
    assert read_json(finished.folder / "record.json") == finished.record
    assert list(pd.read_csv(finished.folder / "curves.csv")) == [
        "epoch",
        "loss",
        "validation_mAP",
        "rate",
    ]


def test_the_first_share_of_the_steps_sees_smaller_images() -> None:
    spec = TrainSpec(epochs=2, steps=5, shrunk=0.6)
    images = torch.arange(2 * 3 * 96 * 48, dtype=torch.float32).view(2, 3, 96, 48)
    sizes = [tuple(shrink(images, spec, step).shape[2:]) for step in range(10)]
    assert sizes == [(64, 32)] * 6 + [(96, 48)] * 4
    assert shrink(images, TrainSpec(), 0) is images
    assert shrink(torch.full((1, 3, 9, 9), 0.5), spec, 0).unique().tolist() == pytest.approx([0.5])


def test_a_run_on_shrunk_images_is_another_run(workshop: Workshop) -> None:
    plain, shrunk = (workshop.train(configured(epochs=1, shrunk=share)) for share in (0.0, 0.5))
    assert plain.id != shrunk.id
    assert not same_bits(plain, shrunk)
