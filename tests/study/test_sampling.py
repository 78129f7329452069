"""Batches against slow ways of drawing landmarks and tuples; the shares of processes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.benchmark import Indices, TrainingSet
from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import load_image, to_input
from dagf.distributed import Group
from dagf.model.network import RetrievalNet
from dagf.study.config import TrainSpec
from dagf.study.runs import Untrained
from dagf.study.sampling import ImageSource, MapSource, hardest, landmark_batches, tuple_batches
from tests.fixtures import TUPLES, Workshop, configured, fails

LABELS = np.repeat(np.arange(5), [2, 3, 4, 5, 6])
few = st.integers(1, 6)


def slow_draw(labels: Indices, spec: TrainSpec, seed: int, step: int) -> Indices:
    """What every recorded run was drawn with: a search of all labels for each landmark."""
    rng = np.random.default_rng([seed, step])
    rows = []
    for landmark in rng.permutation(np.unique(labels))[: spec.landmarks]:
        views = np.flatnonzero(labels == landmark)
        rows.append(rng.choice(views, spec.views, replace=len(views) < spec.views))
    return np.concatenate(rows)


@given(st.integers(0, 99), st.integers(0, 99), few, st.integers(1, 7), st.integers(0, 99))
def test_drawing_landmarks(seed: int, epoch: int, landmarks: int, views: int, mix: int) -> None:
    labels = np.random.default_rng(mix).permutation(LABELS)
    spec = TrainSpec(steps=3, accumulate=2, landmarks=landmarks, views=views)
    batches = list(landmark_batches(labels, spec, seed, epoch))
    assert len(batches) == 6
    for number, (rows, weight, pairs) in enumerate(batches, 6 * epoch):
        assert (weight, pairs) == (1.0, None)
        assert np.array_equal(rows, slow_draw(labels, spec, seed, number))


@given(st.integers(0, 99), few, st.integers(1, 4))
def test_processes_share_the_landmarks_of_a_batch(epoch: int, landmarks: int, size: int) -> None:
    spec = TrainSpec(steps=1, landmarks=landmarks, views=2)
    whole, *shares = (
        landmark_batches(LABELS, spec, 3, epoch, group)
        for group in (Group(), *(Group(rank, size) for rank in range(size)))
    )
    if min(landmarks, 5) < size:
        fails(f"cannot be shared by {size} processes", next, shares[0])
        return
    rows, parts = next(whole).rows, [next(share) for share in shares]
    assert sorted(np.concatenate([part.rows for part in parts])) == sorted(rows)
    assert sum(len(set(LABELS[part.rows])) for part in parts) == min(landmarks, 5)
    values = np.random.default_rng(epoch).random(len(LABELS))  # a loss that is a mean over images
    averaged = np.mean([part.weight * values[part.rows].mean() for part in parts])
    assert averaged == pytest.approx(values[rows].mean())


def slow_hardest(query: Any, own: int, pool: Any, clusters: Any, negatives: int) -> list[int]:
    found: list[int] = []
    taken = {own}
    for row in sorted(range(len(pool)), key=lambda row: -float(query @ pool[row])):
        if clusters[row] not in taken and len(found) < negatives:
            found.append(row)
            taken.add(clusters[row])
    return found


@given(st.integers(0, 999), st.integers(1, 9), st.integers(8, 40), st.integers(1, 3))
def test_the_hardest_are_those_of_a_loop(seed: int, count: int, size: int, negatives: int) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.integers(-3, 4, (count, 4)).astype(np.float32)  # ties, too
    pool = rng.integers(-3, 4, (size, 4)).astype(np.float32)
    own, clusters = rng.integers(0, 8, count), rng.integers(0, 8, size)
    clusters[:8] = range(8)
    found = hardest(queries, own, pool, clusters, negatives)
    pairs = zip(queries, own, strict=True)
    slow = [slow_hardest(query, one, pool, clusters, negatives) for query, one in pairs]
    assert found.tolist() == slow


def test_what_cannot_be_mined_is_one_line(workshop: Workshop) -> None:
    one = np.eye(3, dtype=np.float32)
    few = "has 2 clusters beside a query's own, fewer than 3 negatives"
    fails(few, hardest, one, np.zeros(3, np.int64), one, np.arange(3), 3)
    fails("has 0 query-positive pairs, fewer than the 4", workshop.train, configured(**TUPLES))


def network(workshop: Workshop, seed: int = 0) -> RetrievalNet:
    return Untrained(configured("gem", seed=seed), workshop.store).network()


def test_tuples_of_an_epoch(paired: TrainingSet, workshop: Workshop) -> None:
    labels, spec = np.array(paired.labels), configured("gem", **TUPLES).train
    source = ImageSource(paired, configured().image, "none")

    def tuples(seed: int, epoch: int) -> Indices:
        """The tuples of an epoch, from its two batches; seed: of the weights."""
        batches = list(tuple_batches(paired, spec, 0, epoch, source, network(workshop, seed)))
        for _, weight, pairs in batches:
            assert weight == 1.0
            assert [part.tolist() for part in pairs or ()] == [
                [0, 4], [1, 5], [0, 0, 4, 4], [2, 3, 6, 7],
            ]  # fmt: skip
        assert len(batches) == 2
        return np.concatenate([rows for rows, *_ in batches]).reshape(4, 4)

    found = tuples(0, 1)  # rows: a query, its positive, two negatives
    pairs = {(query, positive) for query, positive, *_ in found.tolist()}
    assert len(pairs) == 4  # every pair of the epoch once
    assert pairs <= set(paired.pairs)
    assert all(len(set(labels[row[[0, 2, 3]]])) == 3 for row in found)
    assert np.array_equal(found, tuples(0, 1))
    assert not np.array_equal(found[:, :2], tuples(0, 2)[:, :2])
    other = tuples(1, 1)  # the pairs are the seed's, the negatives the weights'
    assert np.array_equal(found[:, :2], other[:, :2])
    assert not np.array_equal(found, other)


def test_maps_are_those_of_the_images_read(paired: TrainingSet, workshop: Workshop) -> None:
    image, net, rows = configured().image, network(workshop), np.array([5, 3, 19])
    images = ImageSource(paired, image, "photograph")
    maps = MapSource(paired, image, net, "some", workshop.cache)
    with torch.inference_mode():
        expected = net(to_input(images.read(rows)))
        found = net.head(maps.read(rows))
    assert torch.allclose(found, expected, atol=2e-3)  # kept in half precision
    squashed = [load_image(paired.files[row], ImageSpec(32, "squash")) for row in rows]
    assert images.read(rows).equal(torch.stack(squashed))
