"""Near-duplicates of a query, on drawn photographs."""

from pathlib import Path

import numpy as np
from PIL import Image

from dagf.analysis.methods import alike, without
from dagf.datasets.benchmark import CLASSIC, Benchmark, Query


def burst(folder: Path) -> Benchmark:
    """A scene, the same a little later (moved and darker), another scene, and a plain wall."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)
    how = (160, 160), Image.Resampling.BICUBIC
    scene, other = (Image.fromarray(pixels).resize(*how) for pixels in coarse)
    scene.crop((10, 10, 138, 138)).save(folder / "query.png")
    scene.crop((22, 2, 150, 130)).point(lambda value: value * 0.7).save(folder / "later.png")
    other.crop((10, 10, 138, 138)).save(folder / "other.png")
    Image.new("RGB", (128, 128), "white").save(folder / "wall.png")
    query = Query("query.png", {"ok": np.array([0, 1]), "junk": np.array([2])})
    return Benchmark("burst", folder, ("later.png", "other.png", "wall.png"), (query,))


def test_near_duplicates_of_a_burst(tmp_path: Path) -> None:
    benchmark = burst(tmp_path)
    likeness = alike(benchmark)
    assert likeness.shape == (1, 3)
    assert likeness[0, 0] > 0.9
    assert likeness[0, 1] < 0.5
    assert likeness[0, 2] < 0.1
    (changed,) = without(benchmark, likeness >= 0.7).queries
    assert [rows.tolist() for rows in changed.relevance(CLASSIC)] == [[1], [0, 2]]
