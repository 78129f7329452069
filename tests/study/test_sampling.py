"""Batches against slow ways of drawing landmarks and tuples; the shares of processes."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.benchmark import Indices, TrainingSet
from dagf.distributed import Group
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.study.config import TrainSpec
from dagf.study.runs import Untrained
from dagf.study.sampling import LandmarkSampler, TupleSampler, hardest
from dagf.study.sources import ImageSource, MapSource
from tests.fixtures import TUPLES, Workshop, configured

LABELS = np.repeat(np.arange(5), [2, 3, 4, 5, 6])


def slow_draw(labels: Indices, spec: TrainSpec, seed: int, step: int) -> Indices:
    """What every recorded run was drawn with: a search of all labels for each landmark."""
    rng = np.random.default_rng([seed, step])
    rows = []
    for landmark in rng.permutation(np.unique(labels))[: spec.landmarks]:
        views = np.flatnonzero(labels == landmark)
        rows.append(rng.choice(views, spec.views, replace=len(views) < spec.views))
    return np.concatenate(rows)


few = st.integers(1, 6)


@given(st.integers(0, 99), st.integers(0, 999), few, st.integers(1, 7), st.integers(0, 99))
def test_landmarks_are_drawn_as_they_always_were(
    seed: int, step: int, landmarks: int, views: int, mix: int
) -> None:
    labels = np.random.default_rng(mix).permutation(LABELS)
    spec = TrainSpec(landmarks=landmarks, views=views)
    rows, weight, pairs = LandmarkSampler(labels, spec, seed).draw(step)
    assert (weight, pairs) == (1.0, None)
    assert np.array_equal(rows, slow_draw(labels, spec, seed, step))
    groups = labels[rows].reshape(-1, views)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0])) == len(groups) == min(landmarks, 5)


@given(st.integers(0, 99), few, st.integers(1, 4))
def test_processes_share_the_landmarks_of_a_batch(step: int, landmarks: int, size: int) -> None:
    spec = TrainSpec(landmarks=landmarks, views=2)
    whole = LandmarkSampler(LABELS, spec, 3).draw(step)
    if min(landmarks, 5) < size:
        with pytest.raises(UserError, match=f"cannot be shared by {size} processes"):
            LandmarkSampler(LABELS, spec, 3, Group(0, size)).draw(step)
        return
    samplers = [LandmarkSampler(LABELS, spec, 3, Group(rank, size)) for rank in range(size)]
    shares = [sampler.draw(step) for sampler in samplers]
    assert sorted(np.concatenate([share.rows for share in shares])) == sorted(whole.rows)
    assert sum(len(set(LABELS[share.rows])) for share in shares) == min(landmarks, 5)
    values = np.random.default_rng(step).random(len(LABELS))  # a loss that is a mean over images
    averaged = np.mean([share.weight * values[share.rows].mean() for share in shares])
    assert averaged == pytest.approx(values[whole.rows].mean())


def test_a_batch_of_the_largest_set_costs_milliseconds() -> None:
    """A search of 1.58 million labels for each landmark would take 0.1 s and more."""
    sampler = LandmarkSampler(np.arange(1_580_470) % 81_313, TrainSpec(landmarks=64, views=1), 0)
    started = time.process_time()
    for step in range(20):
        sampler.draw(step)
    assert time.process_time() - started < 20 * 0.1


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
    seed: int, count: int, size: int, negatives: int
) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.integers(-3, 4, (count, 4)).astype(np.float32)  # ties, too
    pool = rng.integers(-3, 4, (size, 4)).astype(np.float32)
    own, clusters = rng.integers(0, 8, count), rng.integers(0, 8, size)
    clusters[:8] = range(8)
    found = hardest(queries, own, pool, clusters, negatives)
    slow = [
        slow_hardest(query, one, pool, clusters, negatives)
        for query, one in zip(queries, own, strict=True)
    ]
    assert found.tolist() == slow


def test_what_cannot_be_mined_is_one_line(workshop: Workshop) -> None:
    one = np.eye(3, dtype=np.float32)
    few = "has 2 clusters beside a query's own, fewer than 3 negatives"
    with pytest.raises(UserError, match=few):
        hardest(one, np.zeros(3, np.int64), one, np.arange(3), 3)
    with pytest.raises(UserError, match="has 0 query-positive pairs, fewer than the 4"):
        workshop.train(configured(**TUPLES))


def network(workshop: Workshop, seed: int = 0) -> RetrievalNet:
    config = configured("gem")
    return Untrained(config.variant, config.backbone, seed, "", workshop.store).network()


def test_tuples_of_an_epoch(paired: TrainingSet, workshop: Workshop) -> None:
    labels, spec = np.array(paired.labels), configured("gem", **TUPLES).train
    source = ImageSource(paired, configured().image, "none")

    def tuples(seed: int, epoch: int) -> Indices:
        """The tuples of an epoch, from its two batches; seed: of the weights."""
        sampler = TupleSampler(paired, spec, 0, source, Group())
        sampler.start(epoch, network(workshop, seed))
        found = []
        for number in (2 * epoch, 2 * epoch + 1):
            rows, weight, pairs = sampler.draw(number)
            assert weight == 1.0
            assert [part.tolist() for part in pairs or ()] == [
                [0, 4], [1, 5], [0, 0, 4, 4], [2, 3, 6, 7],
            ]  # fmt: skip
            found.append(rows.reshape(2, 4))  # a query, its positive, two negatives
        return np.concatenate(found)

    found = tuples(0, 1)
    pairs = {(query, positive) for query, positive, *_ in found.tolist()}
    assert len(pairs) == 4  # every pair of the epoch once
    assert pairs <= set(paired.pairs)
    assert all(len(set(labels[row[[0, 2, 3]]])) == 3 for row in found)
    assert np.array_equal(found, tuples(0, 1))
    assert not np.array_equal(found[:, :2], tuples(0, 2)[:, :2])
    other = tuples(1, 1)  # the pairs are the seed's, the negatives the weights'
    assert np.array_equal(found[:, :2], other[:, :2])
    assert not np.array_equal(found, other)


def test_images_are_extracted_alike_from_memory_from_disk_and_from_maps(
    data: TrainingSet, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, net, rows = configured().image, network(workshop), np.array([5, 3, 19, 5])
    kept = ImageSource(data, image, "photograph").extract(net, rows)
    monkeypatch.setattr("dagf.study.sources.KEEP_IN_MEMORY", 0)
    read = ImageSource(data, image, "none")
    assert read.pixels is None
    assert np.array_equal(read.extract(net, rows), kept)
    maps = MapSource(data, image, net, "some", workshop.cache)
    assert np.allclose(maps.extract(net, rows), kept, atol=2e-3)  # kept in half precision
