"""Batches against slow ways of drawing landmarks and tuples; the shares of processes."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file

from dagf.datasets.training_sets import TrainingSet
from dagf.distributed import Group
from dagf.errors import UserError
from dagf.model.losses import make_loss
from dagf.study import training
from dagf.study.config import Mining, RunConfig, TrainSpec
from dagf.study.runs import Run
from dagf.study.sampling import LandmarkSampler, TupleSampler, hardest
from dagf.study.sources import ImageSource
from dagf.study.training import initial_network, make_source
from tests.fixtures import Workshop, configured, same_bits

LABELS = np.repeat(np.arange(5), [2, 3, 4, 5, 6])


def slow_draw(
    labels: NDArray[np.int64], spec: TrainSpec, seed: int, step: int
) -> NDArray[np.int64]:
    """What every recorded run was drawn with: a search of all labels for each landmark."""
    rng = np.random.default_rng([seed, step])
    rows = []
    for landmark in rng.permutation(np.unique(labels))[: spec.landmarks]:
        views = np.flatnonzero(labels == landmark)
        rows.append(rng.choice(views, spec.views, replace=len(views) < spec.views))
    return np.concatenate(rows)


@given(
    st.integers(0, 99),
    st.integers(0, 999),
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(0, 99),
)
def test_landmarks_are_drawn_as_they_always_were(
    seed: int, step: int, landmarks: int, views: int, mix: int
) -> None:
    labels = np.random.default_rng(mix).permutation(LABELS)
    spec = TrainSpec(landmarks=landmarks, views=views)
    rows, weight, pairs = LandmarkSampler(labels, spec, seed).draw(step)
    assert weight == 1.0
    assert pairs is None
    assert np.array_equal(rows, slow_draw(labels, spec, seed, step))
    groups = labels[rows].reshape(-1, views)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0])) == len(groups) == min(landmarks, 5)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 4))
def test_processes_share_the_landmarks_of_a_batch(step: int, landmarks: int, size: int) -> None:
    spec = TrainSpec(landmarks=landmarks, views=2)
    whole = LandmarkSampler(LABELS, spec, 3).draw(step)
    assert whole.weight == 1.0
    if min(landmarks, 5) < size:
        with pytest.raises(UserError, match=f"cannot be shared by {size} processes"):
            LandmarkSampler(LABELS, spec, 3, Group(0, size)).draw(step)
        return
    shares = [
        LandmarkSampler(LABELS, spec, 3, Group(rank, size)).draw(step) for rank in range(size)
    ]
    assert sorted(np.concatenate([share.rows for share in shares])) == sorted(whole.rows)
    assert sum(len(set(LABELS[share.rows])) for share in shares) == min(landmarks, 5)
    values = np.random.default_rng(step).random(len(LABELS))  # a loss that is a mean over images
    averaged = np.mean([share.weight * values[share.rows].mean() for share in shares])
    assert averaged == pytest.approx(values[whole.rows].mean())


def test_draw_differs_from_step_to_step() -> None:
    labels = np.repeat(np.arange(30), 8)
    drawn = {
        tuple(LandmarkSampler(labels, TrainSpec(landmarks=4), seed).draw(step).rows)
        for seed in range(3)
        for step in range(10)
    }
    assert len(drawn) == 30


def test_as_many_classes_as_the_largest_set_has() -> None:
    """81,313 landmarks, 1.58 million images: a batch costs milliseconds, the loss takes it."""
    classes = 81_313
    labels = np.arange(1_580_470) % classes
    sampler = LandmarkSampler(labels, TrainSpec(landmarks=64, views=1), 0)
    started = time.process_time()
    rows = np.concatenate([sampler.draw(step).rows for step in range(20)])
    assert (
        time.process_time() - started < 20 * 0.1
    )  # a search of the labels for each landmark takes 0.1 s and more
    assert len(rows) == 20 * 64
    loss = make_loss("ArcFaceLoss", classes, 8)
    assert loss.W.shape == (8, classes)
    value = loss(
        torch.nn.functional.normalize(torch.randn(64, 8)), torch.from_numpy(labels[rows[:64]])
    )
    value.backward()
    assert torch.isfinite(loss.W.grad).all()


def slow_hardest(query: Any, own: int, pool: Any, clusters: Any, negatives: int) -> list[int]:
    found: list[int] = []
    taken = {own}
    for row in sorted(range(len(pool)), key=lambda row: -float(query @ pool[row])):
        if clusters[row] not in taken and len(found) < negatives:
            found.append(row)
            taken.add(clusters[row])
    return found


@given(st.integers(0, 999), st.integers(1, 9), st.integers(8, 40), st.integers(1, 3))
def test_the_hardest_are_those_of_a_loop_over_the_pool(
    seed: int, queries: int, size: int, negatives: int
) -> None:
    rng = np.random.default_rng(seed)
    asked, pool = (
        rng.integers(-3, 4, (count, 4)).astype(np.float32) for count in (queries, size)
    )  # ties, too
    own, clusters = (
        rng.integers(0, 8, queries),
        np.concatenate([np.arange(8), rng.integers(0, 8, size - 8)]),
    )
    found = hardest(asked, own, pool, clusters, negatives)
    for number in range(queries):
        assert found[number].tolist() == slow_hardest(
            asked[number], own[number], pool, clusters, negatives
        )


def test_a_pool_of_too_few_clusters_is_refused() -> None:
    one = np.eye(3, dtype=np.float32)
    with pytest.raises(
        UserError, match="has 2 clusters beside a query's own, fewer than 3 negatives"
    ):
        hardest(one, np.zeros(3, np.int64), one, np.arange(3), 3)


MINING = Mining(queries=4, pool=16, negatives=2)
TUPLES = {
    "epochs": 3,
    "steps": 2,
    "mining": MINING,
    "loss": "TupleContrastiveLoss",
    "loss_options": {},
}


@pytest.fixture
def paired(data: TrainingSet) -> TrainingSet:
    """The tiny photographs with neighbouring views as pairs."""
    rows = range(len(data.files) - 1)
    pairs = tuple((row, row + 1) for row in rows if data.labels[row] == data.labels[row + 1])
    return replace(data, pairs=pairs)


@pytest.mark.parametrize("size", [1, 2])
def test_tuples_of_an_epoch(
    paired: TrainingSet, workshop: Workshop, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("gem", **TUPLES)
    torch.manual_seed(0)
    net = initial_network(config, workshop.store)
    source = make_source(config, paired, net, workshop.cache)
    labels = np.array(paired.labels)
    samplers = [
        TupleSampler(paired, config.train, 0, source, Group(rank, size)) for rank in range(size)
    ]
    with monkeypatch.context() as patched:
        # each process describes a share; here every one of them describes all
        patched.setattr(
            TupleSampler, "_extract", lambda self, net, rows: self.source.extract(net, rows)
        )
        for sampler in samplers:
            sampler.start(1, net)
    assert all(np.array_equal(sampler.tuples, samplers[0].tuples) for sampler in samplers)
    drawn = []
    for number in (2, 3):  # the batches of the second epoch
        for sampler in samplers:
            rows, _, pairs = sampler.draw(number)
            assert pairs is not None
            anchors, positives, again, negatives = pairs
            assert len(anchors) == len(positives) == 2 // size
            assert len(again) == len(negatives) == 2 * len(anchors)
            assert all(
                (rows[a], rows[p]) in paired.pairs for a, p in zip(anchors, positives, strict=True)
            )
            assert (labels[rows[again]] != labels[rows[negatives]]).all()
            assert sorted({*anchors, *positives, *negatives}) == list(range(len(rows)))
            others = labels[rows[negatives]].reshape(-1, 2)
            assert (others[:, 0] != others[:, 1]).all()
            drawn += [(rows[a], rows[p]) for a, p in zip(anchors, positives, strict=True)]
    assert len(set(drawn)) == 4  # every pair of the epoch once


def test_another_epoch_and_other_weights_give_other_tuples(
    paired: TrainingSet, workshop: Workshop
) -> None:
    config = configured("gem", **TUPLES)
    found = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        torch.manual_seed(seed)
        net = initial_network(config, workshop.store)
        sampler = TupleSampler(
            paired, config.train, 0, make_source(config, paired, net, workshop.cache), Group()
        )
        sampler.start(epoch, net)
        found.append(sampler.tuples)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0][:, :2], found[2][:, :2])
    assert np.array_equal(
        found[0][:, :2], found[3][:, :2]
    )  # the pairs are the seed's, the negatives the weights'
    assert not np.array_equal(found[0], found[3])


def test_images_are_described_alike_from_memory_and_from_disk(
    paired: TrainingSet, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("gem")
    net = initial_network(config, workshop.store)
    rows = np.array([5, 3, 19, 5])
    kept = make_source(config, paired, net, workshop.cache).extract(net, rows)
    monkeypatch.setattr("dagf.study.sources.KEEP_IN_MEMORY", 0)
    read = ImageSource(paired, config.image, "none")
    assert read.pixels is None
    assert np.allclose(read.extract(net, rows), kept, atol=1e-6)
    maps = make_source(replace(config, frozen=True), paired, net, workshop.cache)
    assert np.allclose(maps.extract(net, rows), kept, atol=2e-3)  # kept in half precision


def test_what_cannot_be_mined_is_one_line(
    data: TrainingSet, paired: TrainingSet, workshop: Workshop
) -> None:
    with pytest.raises(UserError, match="has 0 query-positive pairs, fewer than the 4"):
        workshop.train(configured(**TUPLES))


def stopped(
    monkeypatch: pytest.MonkeyPatch, workshop: Workshop, config: RunConfig, before: int
) -> None:
    """Train a configuration in `workshop`, and stop it before an epoch."""
    with monkeypatch.context() as patched:
        whole = training._Loop._epoch

        def stop(self: Any, model: Any, epoch: int) -> float:
            if epoch == before:
                raise KeyboardInterrupt
            return whole(self, model, epoch)

        patched.setattr(training._Loop, "_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            workshop.train(config)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_on_tuples_goes_on_as_if_unbroken(
    paired: TrainingSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
    frozen: bool,
) -> None:
    config = configured("gem", **TUPLES, augmentation="photograph", frozen=frozen)
    unbroken = Workshop(tmp_path / "unbroken", paired).train(config)
    assert np.isfinite(unbroken.curves["loss"]).all()
    stopped(monkeypatch, Workshop(tmp_path / "broken", paired), config, 2)
    torch.manual_seed(99)
    assert same_bits(Workshop(tmp_path / "broken", paired).train(config), unbroken)


def close(first: Run, second: Run) -> bool:
    """Whether two runs have the same weights and losses but for rounding, and learned something."""
    ours, theirs = (load_file(run.folder / "weights.safetensors") for run in (first, second))
    assert ours["head.scale_and_mask.pooling.p"].item() != 3.0
    same = all(torch.allclose(ours[key].float(), theirs[key].float(), atol=1e-5) for key in ours)
    return same and np.allclose(first.curves["loss"], second.curves["loss"], rtol=1e-4)


def test_accumulated_batches_make_one_step(
    paired: TrainingSet, tmp_path: Path, one_thread: None
) -> None:
    """Two batches of two tuples give the gradient of one of four: the loss is a mean."""
    common = {
        "epochs": 2,
        "steps": 1,
        "augmentation": "none",
        "loss": "TupleContrastiveLoss",
        "loss_options": {},
    }
    runs = [
        Workshop(tmp_path / str(parts), paired).train(
            configured("gem", **common, mining=MINING, accumulate=parts, frozen=True)
        )
        for parts in (1, 2)
    ]
    assert close(*runs)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_resumes_and_keeps_whole_weights(
    data: TrainingSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
    precision: str,
) -> None:
    config = configured(
        "gem", epochs=2, loss="ArcFaceLoss", loss_options={}, precision=precision, rate=1e-4
    )
    scaler = partial(
        torch.amp.GradScaler, init_scale=2.0**6, growth_interval=1
    )  # its own start skips all these steps
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    unbroken = Workshop(tmp_path / "unbroken", data).train(config)
    kinds = {value.dtype for value in unbroken.weights().values()}
    assert kinds <= {torch.float32, torch.int64}
    stopped(monkeypatch, Workshop(tmp_path / "broken", data), config, 1)
    assert same_bits(Workshop(tmp_path / "broken", data).train(config), unbroken)
    exact = Workshop(tmp_path / "exact", data).train(
        replace(config, train=replace(config.train, precision="float32"))
    )
    assert not same_bits(exact, unbroken)
    assert np.allclose(exact.curves["loss"], unbroken.curves["loss"], rtol=0.05)


@pytest.mark.study
@pytest.mark.parametrize("queries", [4, 6])
def test_two_processes_train_on_tuples_together(
    paired: TrainingSet, tmp_path: Path, queries: int
) -> None:
    """Frozen maps, so that the shares alone differ: weights and curve are those of one process.

    Of three tuples one process has two: each tuple counts alike all the same.
    """
    config = configured("gem", **TUPLES | {"mining": replace(MINING, queries=queries)}, frozen=True)
    alone = Workshop(tmp_path / "alone", paired).train(config)
    together = Workshop(tmp_path / "together", paired)
    process = together.start(config, processes=2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    run = together.store.get(config.id)
    assert run.record["processes"] == 2
    assert close(alone, run)
