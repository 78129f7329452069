"""Pictures and a network that the tests of this folder share."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dagf.datasets.benchmark import Benchmark, Query
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from tests.model.test_network import stirred
from tests.pictures import quarters, save, smooth, varied


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return varied(tmp_path)


@pytest.fixture(scope="module")
def net() -> RetrievalNet:
    torch.manual_seed(0)
    network = RetrievalNet(BackboneSpec("small"), variant("dagf"))
    stirred(network.head)
    return network.eval()


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    """The query's box holds a crop that is in the database; so is its whole, to mislead."""
    root = tmp_path / "images"
    root.mkdir()
    save(quarters(64, 48), root / "query.png")
    save(quarters(64, 48), root / "whole.png")
    save(quarters(64, 48).crop((32, 0, 64, 24)), root / "crop.png")
    save(smooth(50, 40), root / "other.png")
    outside = save(smooth(64, 64), tmp_path / "distractor.png")
    labels = {"ok": np.array([1]), "junk": np.array([], np.int64)}
    boxed = Query("query.png", labels, (32, 0, 64, 24))
    queries = boxed, Query("query.png", {"ok": np.array([0])})
    return Benchmark("tiny", root, ("whole.png", "crop.png", "other.png"), queries, (outside,))
