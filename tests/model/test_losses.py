import math

import pytest
import torch
from torch import Tensor, nn

from dagf.model.losses import make_loss
from tests.fixtures import fails

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def embeddings(seed: int = 0) -> Tensor:
    values = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(values).requires_grad_()


def test_the_additive_margin_softmax_by_hand() -> None:
    """-log e^{s (cos_y - m)} / (e^{s (cos_y - m)} + sum_{c != y} e^{s cos_c}), averaged."""
    scale, margin = 8.0, 0.35
    loss = make_loss("CosFaceLoss", 3, 5, scale=scale, margin=margin)
    assert loss.W.shape == (5, 3)
    total, vectors = 0.0, embeddings()
    for vector, label in zip(vectors.tolist(), LABELS.tolist(), strict=True):
        logits = []
        for c, weights in enumerate(loss.W.T.tolist()):
            length = math.sqrt(sum(w * w for w in weights))
            cosine = sum(a * w for a, w in zip(vector, weights, strict=True)) / length
            logits.append(scale * (cosine - (margin if c == label else 0)))
        total -= logits[label] - math.log(sum(map(math.exp, logits)))
    assert loss(vectors, LABELS).item() == pytest.approx(total / 6, rel=1e-5)


def test_the_contrastive_loss_of_tuples_by_hand() -> None:
    """1/2 d^2 for a positive, 1/2 max(0, margin - d)^2 for negatives; the mean over two tuples."""
    vectors = nn.functional.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(3)))
    rows, margin, expected = vectors.tolist(), 1.2, 0.0
    pairs: list[list[int]] = [[], [], [], []]
    for query in (0, 4):
        expected += math.dist(rows[query], rows[query + 1]) ** 2 / 2
        pairs[0].append(query)
        pairs[1].append(query + 1)
        for negative in (query + 2, query + 3):
            expected += max(0.0, margin - math.dist(rows[query], rows[negative])) ** 2 / 2
            pairs[2].append(query)
            pairs[3].append(negative)
    loss = make_loss("TupleContrastiveLoss", 2, 3, neg_margin=margin)
    labels, places = torch.arange(8), tuple(map(torch.tensor, pairs))
    assert loss(vectors, labels, places).item() == pytest.approx(expected / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TupelContrastiveLoss", {}, "did you mean 'TupleContrastiveLoss'"),
        ("CosfaceLos", {}, "unknown loss 'CosfaceLos': did you mean 'CosFaceLoss'"),
        ("CosFaceLoss", {"margn": 1}, "option of CosFaceLoss 'margn': did you mean 'margin'"),
        ("CrossBatchMemory", {}, "loss CrossBatchMemory cannot be made from these options"),
    ],
)
def test_a_mistake_is_one_line(name: str, options: dict[str, int], message: str) -> None:
    fails(message, make_loss, name, 3, 5, **options)
