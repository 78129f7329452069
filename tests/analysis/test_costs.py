"""What the cost tables are made of; times themselves are asserted nowhere."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dagf.analysis import costs
from dagf.datasets.images import ImageSpec
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from tests.pictures import save, smooth

Array = NDArray[np.float32]


def around(count: int, seed: int = 0) -> Array:
    """Unit rows around one direction, wider in some dimensions than in others."""
    chance = np.random.default_rng(seed)
    rows = np.arange(8, 0, -1) + chance.standard_normal((count, 8)) * np.linspace(0.2, 2, 8)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_drawn_rows_follow_those_that_are_there(tmp_path: Path) -> None:
    known = around(4000)
    rows = costs.fitted_rows(known, 20_000, tmp_path / "rows.npy")
    assert rows.shape == (20_000, 8)
    assert np.array_equal(rows[:4000], known)
    drawn = np.array(rows[4000:])
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(drawn.mean(0), known.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), np.cov(known, rowvar=False), atol=0.02)
    again = costs.fitted_rows(known, 20_000, tmp_path / "again.npy")
    assert np.array_equal(rows, again)
    assert len(costs.fitted_rows(known, 100, tmp_path / "few.npy")) == 100  # fewer than there are


def test_a_row_a_size_and_a_flat_index_misses_nothing() -> None:
    known = around(500)
    found = costs.search_costs(known, known[:6], 3000)
    assert found["rows"].tolist() == [30, 100, 300, 1000, 3000]
    assert found["drawn"].tolist() == [0, 0, 0, 500, 2500]
    assert (found["index"] == "Flat").all()
    assert (found["recall"] == 100).all()
    assert found["exact MB"].tolist() == [size * 8 * 4 / 1e6 for size in found["rows"]]
    assert (found[["exact s", "index s", "build s"]] > 0).all(axis=None)


def test_recall_is_the_share_that_is_found() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = np.array([[4, 9, 1, -1], [8, 7, 6, 5]])
    assert costs.recall(found, exact) == 75.0


def table(**columns: list[float] | list[str]) -> pd.DataFrame:
    rows = [1e5, 1e6]
    plain: dict[str, object] = {
        "rows": rows,
        "exact s": [0.1, 1.0],
        "exact MB": [51.2, 512.0],
        "index": ["PCAR8,IVF64,PQ8x4fs"] * 2,
        "build s": [2.0, 20.0],
        "index MB": [2.0, 20.0],
        "index s": [0.02, 0.02 * 10**0.5],
    }
    return pd.DataFrame(plain | columns)


def test_costs_grow_by_their_exponents() -> None:
    found = costs.growth(table()).set_index("cost")
    assert found["exponent"].to_dict() == pytest.approx(
        {"exact s": 1, "build s": 1, "index s": 0.5, "index MB": 1}
    )
    flat = costs.growth(table(index=["Flat", "PCAR8,IVF64,PQ8x4fs"])).set_index("cost")
    assert flat["sizes"].to_dict() == {"exact s": 2, "build s": 1, "index s": 1, "index MB": 1}
    assert flat["exponent"].isna().tolist() == [False, True, True, True]


def test_the_outlook_is_arithmetic() -> None:
    took = pd.DataFrame({"stage": ["backbone", "all, overlapped"], "ms per image": [0.9, 1.0]})
    found = costs.outlook(table(), took, images=100_000_000).set_index("what")["figure"].to_dict()
    assert found == {
        "describe all images": "28 h",  # 1e8 x 1 ms
        "descriptors in half precision": "26 GB",  # 512 MB x 100 / 2
        "exact search": "100 s",
        "index in memory": "2.0 GB",
        "build the index": "0.6 h",  # 20 s x 100
        "search the index": "0.63 s",  # 0.0632 s x 100^0.5
    }


@pytest.mark.parametrize("fitted", [0.43, np.nan])
def test_a_build_is_at_least_linear(fitted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise at the small sizes gave 0.43 once; a single size with an index gives no exponent at all."""
    found = costs.growth(table()).set_index("cost")
    found.loc["build s", "exponent"] = fitted
    monkeypatch.setattr(costs, "growth", lambda _: found.reset_index())
    took = pd.DataFrame({"stage": ["all, overlapped"], "ms per image": [1.0]})
    row = costs.outlook(table(), took, images=100_000_000).set_index("what").loc["build the index"]
    assert row["figure"] == "0.6 h"
    assert row["from"] == f"linear in the rows: no build grows by less (fitted: {fitted:.2f})"


def test_a_build_that_grows_faster_is_taken_at_its_word() -> None:
    took = pd.DataFrame({"stage": ["all, overlapped"], "ms per image": [1.0]})
    steep = table(**{"build s": [2.0, 2.0 * 10**1.5]})
    row = costs.outlook(steep, took, images=100_000_000).set_index("what").loc["build the index"]
    assert row["from"] == "rows^1.50"
    assert row["figure"] == "17.6 h"  # 63.2 s x 100^1.5


def test_stages_are_measured_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow moment that lasts for one round of all stages is in no median."""
    calls = iter(range(1000))
    monkeypatch.setattr(costs, "seconds", lambda work: 100.0 if next(calls) < 5 else 1.0)
    files = [save(smooth(64, 48), tmp_path / f"{number}.png") for number in range(2)]
    found = costs.stages(RetrievalNet(BackboneSpec("small"), variant("gem")), files, ImageSpec(48))
    assert found["ms per image"].tolist() == [500.0] * 5


def test_stages_name_every_part(tmp_path: Path) -> None:
    files = [save(smooth(64, 48), tmp_path / f"{number}.png") for number in range(3)]
    found = costs.stages(RetrievalNet(BackboneSpec("small"), variant("dagf")), files, ImageSpec(48))
    assert found["stage"].tolist()[-1] == "all, overlapped"
    assert len(found) == 5 and (found["ms per image"] > 0).all()
