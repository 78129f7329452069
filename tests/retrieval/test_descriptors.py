"""The scores of a benchmark: cropped queries, and networks that give no descriptor."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dagf.datasets.benchmark import Benchmark
from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.retrieval.descriptors import benchmark_scores
from tests.pictures import quarters, save

from .networks import alone


def test_queries_are_cropped_to_their_boxes(benchmark: Benchmark, net: RetrievalNet) -> None:
    spec = ImageSpec(100)
    scores, rows, asked = benchmark_scores(net, benchmark, spec, batch=2)
    assert scores.shape == (2, 4)
    assert scores.argmax(1).tolist() == [1, 0]
    assert scores[[0, 1], [1, 0]] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(scores, asked @ rows.T, atol=1e-6)
    outside = alone(net, benchmark.distractors[0], spec=spec).numpy()
    np.testing.assert_allclose(rows[3], outside, atol=1e-5)


def test_a_collapsed_network_is_not_ranked(benchmark: Benchmark) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 4), float("nan"))

    with pytest.raises(UserError, match="database: row 0 holds NaN"):
        benchmark_scores(Broken(), benchmark, ImageSpec(100))


def test_a_missing_query_is_named(benchmark: Benchmark, net: RetrievalNet) -> None:
    (benchmark.root / "query.png").unlink()
    with pytest.raises(UserError, match=r"query\.png does not exist"):
        benchmark_scores(net, benchmark, ImageSpec(100))


def test_pixels_outside_the_box_do_not_reach_the_descriptor(
    benchmark: Benchmark, net: RetrievalNet
) -> None:
    before = benchmark_scores(net, benchmark, ImageSpec(100))[2]
    picture = Image.new("RGB", (64, 48), "black")
    picture.paste(quarters(64, 48).crop((32, 0, 64, 24)), (32, 0))
    save(picture, benchmark.root / "query.png")
    after = benchmark_scores(net, benchmark, ImageSpec(100))[2]
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-3
