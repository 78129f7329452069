"""The benchmarks run, on very little, and what they compare is equal; no time is asserted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import mobilenet_v2

from benchmarks import __main__ as bench
from benchmarks import extraction, roads, searching
from dagf.retrieval.extract import MultiScale, for_inference
from tests.fixtures import write_photographs

pytestmark = pytest.mark.study


def named(figures: list[dict[str, Any]]) -> list[str]:
    """Each figure has something to show."""
    words = [bench.shown(one) for one in figures]
    assert all(one["what"] and one["figure"] for one in words)
    return [one["figure"] for one in words]


def test_search_and_judging() -> None:
    """The function itself compares mAP and neighbours with the usual way's."""
    found = [*searching.figures(rows=6000)]
    kinds = [next(iter({"ratio", "bytes", "times_as_fast"} & one.keys())) for one in found]
    assert kinds == ["ratio", "bytes", "times_as_fast", "times_as_fast"]
    assert named(found)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of two sizes."""
    made = []
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        size = (160, 120) if number % 2 else (96, 128)
        made.append(tmp_path / f"{number}.jpg")
        Image.fromarray(pixels).resize(size).save(made[-1])
    return made


def test_the_usual_loop_and_ours_describe_alike(files: list[Path]) -> None:
    """Not to the bit: each has its own way of making an image smaller."""
    net = extraction.network()
    fast = for_inference(MultiScale(net, extraction.SCALES))
    usual, ours = extraction.usual(net, files), extraction.ours(fast, files)
    assert torch.nn.functional.cosine_similarity(usual, ours).min() > 0.99
    assert named(extraction.against_usual_and_limit(files, "pictures", False))
    whole = extraction.dagf_end_to_end(files, "pictures", False)
    assert whole["most"] == 1.10 and named([whole])


def test_photographs_on_every_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_photographs(tmp_path / "photos", views=3)
    torch.manual_seed(0)
    torch.save(mobilenet_v2().state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(roads, "compiled", lambda encode: encode)  # a compiler is not everywhere
    monkeypatch.setattr(roads, "ROUNDS", 1)
    found = [*roads.figures(folder, tmp_path / "weights.pth")]
    assert [one["mAP"] > 0 for one in found if "mAP" in one] == [True] * 10
    assert named(found)
