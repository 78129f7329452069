"""The learner: where attention alone can tell right from wrong it learns to, and nothing else does.

Every image shows the same 36 patterns, one a cell, in another order; only the pattern under the
marker names its landmark. What pools all cells alike sees equal images.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from dagf.datasets.benchmark import Benchmark, Indices, Query, TrainingSet
from dagf.distributed import SINGLE
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.retrieval.search import Scores, similarities
from dagf.study.config import TrainSpec
from dagf.study.training import _Loop
from tests.fixtures import configured

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE, LANDMARKS, VIEWS = 6, 36, 4
MARKER = 127  # the last of the small backbone's channels
SPEC = TrainSpec(
    epochs=1, steps=300, rate=3e-2, loss="SupConLoss", loss_options={"temperature": 0.1}
)


def planted(seed: int) -> tuple[Tensor, Tensor]:
    """Return maps (LANDMARKS * (VIEWS + 1), 128, 6, 6), and the marked cells; queries are last."""
    rng = np.random.default_rng(seed)
    patterns = rng.random((LANDMARKS, 128)) * (rng.random((LANDMARKS, 128)) < 0.2)
    maps, marked = [], []
    for landmark in np.tile(np.arange(LANDMARKS), VIEWS + 1):
        order = rng.permutation(LANDMARKS)
        cells = patterns[order] + 0.02 * rng.random((LANDMARKS, 128))
        cells[:, MARKER] = order == landmark
        maps.append(cells.T.reshape(128, SIDE, SIDE))
        marked.append((order == landmark).reshape(SIDE, SIDE))
    return torch.tensor(np.stack(maps), dtype=torch.float32), torch.tensor(np.stack(marked))


def benchmark() -> Benchmark:
    right = [np.arange(VIEWS) * LANDMARKS + landmark for landmark in range(LANDMARKS)]
    files = tuple(f"{number}.jpg" for number in range(LANDMARKS * VIEWS))
    queries = tuple(Query("query.jpg", {"ok": rows}) for rows in right)
    return Benchmark("planted", Path(), files, queries)


class PlantedMaps:
    """A source of training batches, as `dagf.study.sampling.MapSource`."""

    train, _ = planted(0)
    held_out, marked = planted(1)  # of other patterns

    def batch(self, rows: Indices) -> Tensor:
        return self.train[rows]

    def validate(self, head: nn.Module) -> Scores:
        with torch.inference_mode():
            found = head.eval()(self.held_out).numpy()
        return similarities(found[:-LANDMARKS], found[-LANDMARKS:])


def trained(arm: str, folder: Path) -> tuple[float, RetrievalNet]:
    """Return the mAP of a head on patterns that it was not trained on, and its network."""
    source, validation = PlantedMaps(), benchmark()
    labels = tuple(np.tile(np.arange(LANDMARKS), VIEWS + 1).tolist())
    data = TrainingSet((Path(),) * len(labels), labels, validation, "planted")
    torch.manual_seed(0)
    net = RetrievalNet(BackboneSpec("small"), variant(arm))
    config = configured(arm, train=SPEC, data="planted", frozen=True)
    if variant(arm).trainable:
        folder.mkdir()
        _Loop(config, data, net, source, folder, SINGLE).run()
    per_query = evaluate(validation, source.validate(net.head), [validation.middle])
    return float(mean_average_precision(per_query, validation.middle.name)), net


@pytest.mark.parametrize("arm", ["spatial", "dagf"])
def test_the_region_evaluator_finds_what_is_planted(arm: str, tmp_path: Path) -> None:
    mean, net = trained(arm, tmp_path / arm)
    with torch.inference_mode():
        attention = net.head.inspect(PlantedMaps.held_out).attention
    assert roc_auc_score(PlantedMaps.marked.ravel(), attention.ravel()) >= 0.95
    assert mean >= 95


# Not NetVLAD: it assigns cells to clusters, so that it does tell marked cells from others.
@pytest.mark.parametrize("arm", ["spoc", "mac", "gem", "crow", "channel", "scale-mask"])
def test_nothing_without_spatial_attention_does(arm: str, tmp_path: Path) -> None:
    mean, _ = trained(arm, tmp_path / arm)
    assert mean < 20  # chance is about 4; CroW prefers strong cells, and the marker adds strength
