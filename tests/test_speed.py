"""The benchmarks run, on very little, and what they compare is equal; no time is asserted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import extraction, roads, searching
from dagf.devices import has_bfloat16
from dagf.retrieval.extract import MultiScale, for_inference
from tests.fixtures import mobilenet, write_photographs
from tests.pictures import save, smooth

pytestmark = pytest.mark.study


def all_shown(figures: list[dict[str, Any]]) -> bool:
    words = [bench.shown(one) for one in figures]
    return bool(words) and all(one["what"] and one["figure"] for one in words)


def test_search_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function itself compares mAP and neighbours with the usual way's."""
    monkeypatch.setattr(searching, "ROUNDS", 1)
    assert all_shown([*searching.figures(rows=6000)])


def test_the_usual_loop_and_ours_describe_alike(tmp_path: Path) -> None:
    """Pictures of two sizes; not to the bit: each has its own way of making an image smaller."""
    sizes = (160, 120), (96, 128)
    made = [smooth(*sizes[number % 2]).rotate(7 * number) for number in range(10)]
    files = [save(one, tmp_path / f"{number}.jpg") for number, one in enumerate(made)]
    net = extraction.network()
    fast = for_inference(MultiScale(net, extraction.SCALES))
    usual, ours = extraction.usual(net, files), extraction.ours(fast, files)
    assert torch.nn.functional.cosine_similarity(usual, ours).min() > 0.99
    assert all_shown(extraction.against_usual_and_limit(files, "pictures"))
    assert all_shown([extraction.dagf_end_to_end(files, "pictures")])


def test_photographs_on_every_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_photographs(tmp_path / "photos", views=3)
    weights = mobilenet(tmp_path / "weights.pth", 0)
    monkeypatch.setattr(roads, "compiled", lambda encode: encode)  # a compiler is not everywhere
    monkeypatch.setattr(roads, "ROUNDS", 1)
    found = [*roads.figures(folder, weights)]
    assert all_shown(found) and sum(one.get("mAP", 0) > 0 for one in found) == 7 + has_bfloat16()
