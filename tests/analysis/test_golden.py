"""Our evaluator against published figures, on miniature descriptors in the real layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat, savemat

from dagf.analysis.golden import NOTE, SET, measured
from dagf.analysis.tables import PUBLISHED, read_published
from dagf.datasets.benchmark import from_ground_truth
from dagf.datasets.public import read_manifest
from dagf.files import read_json
from dagf.paths import ROOT
from tests.commands import dagf, refused
from tests.fixtures import fails
from tests.retrieval.test_metrics import RULES, measured_slowly

HERE = Path(__file__).parents[2]
METRICS = ["mAP", "mP@1", "mP@5", "mP@10"]
GOLDEN = ("evaluate", "--golden")
SIZES = {"roxford5k": 4993, "rparis6k": 6322}
ENTRY = {"bbx": [0, 0, 1, 1], "easy": [2], "hard": [0], "junk": []}
TINY = {"imlist": list("abcd"), "qimlist": ["q"], "gnd": [ENTRY]}


def columns(count: int, seed: int, dimensions: int = 6) -> np.ndarray[Any, Any]:
    rows = np.random.default_rng(seed).normal(size=(dimensions, count))
    return (rows / np.linalg.norm(rows, axis=0)).astype(np.float32)


@pytest.fixture
def project(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the real ground truth, random descriptors, no published figure yet."""
    features = tmp_path / "data" / read_manifest(HERE / "data" / "manifest.json")[SET].folder
    features.mkdir(parents=True)
    shutil.copyfile(HERE / "data" / "manifest.json", tmp_path / "data" / "manifest.json")
    for seed, (name, size) in enumerate(SIZES.items()):
        file = f"gnd_{name}.json"
        (features / file).symlink_to(shared_data / "ground_truth" / file)
        savemat(
            features / f"{name}_resnet_rsfm120k_gem.mat",
            {"Q": columns(70, 10 + seed), "X": columns(size, seed)},
            do_compression=True,
        )
    monkeypatch.setenv(ROOT, str(tmp_path))
    return tmp_path


def theirs(project: Path) -> dict[tuple[str, str, str], float]:
    """As revisitop's example: arg-sort, junk taken out, loops over queries and positives."""
    found: dict[tuple[str, str, str], float] = {}
    features = project / "data" / "features"
    for name, dataset in (("roxford5k", "ROxford5k"), ("rparis6k", "RParis6k")):
        truth = read_json(features / f"gnd_{name}.json")["gnd"]
        held = loadmat(features / f"{name}_resnet_rsfm120k_gem.mat")
        pairs = zip((held["Q"].T @ held["X"]).tolist(), truth, strict=True)
        queries = [measured_slowly(scores, entry) for scores, entry in pairs]
        for setting in RULES:
            means = np.nanmean([query[setting] for query in queries], axis=0)
            for metric, value in zip(METRICS, means, strict=True):
                found[dataset, setting, metric] = 100 * float(value)
    return found


def publish(project: Path, figures: dict[tuple[str, str, str], float]) -> None:
    other = {"method": "other", "dataset": "Holidays", "metric": "mAP", "value": 1.0}
    names = ("dataset", "protocol", "metric")
    rows = pd.DataFrame([*figures], columns=names)
    rows = rows.assign(value=[round(value, 2) for value in figures.values()], note=NOTE)
    table = pd.DataFrame([other, *rows.to_dict("records")], columns=PUBLISHED)
    table.to_csv(project / "data" / "published.csv", index=False)


def test_golden_passes_fails_and_names_what_differs(project: Path) -> None:
    figures = theirs(project)
    publish(project, figures)
    fine = dagf(*GOLDEN)
    assert fine.exit_code == 0, fine.output
    assert fine.stdout.splitlines()[-1] == "pass: all are equal, of 24 figures at two decimals"
    assert f"{figures['RParis6k', 'Hard', 'mAP']:.2f}" in fine.stdout
    figures["RParis6k", "Hard", "mP@5"] += 0.02
    figures["ROxford5k", "Easy", "mAP"] -= 0.02
    publish(project, figures)
    wrong = dagf(*GOLDEN)
    assert wrong.exit_code == 1
    assert wrong.stdout.splitlines()[-1] == "FAIL: 2 differ, of 24 figures at two decimals"
    told = dagf(*GOLDEN, "--json")
    rows = json.loads(told.stdout)
    assert told.exit_code == 1 and len(rows) == 24
    unlike, other = (row for row in rows if not row["equal"])
    assert (other["dataset"], other["protocol"], other["metric"]) == ("RParis6k", "Hard", "mP@5")
    assert unlike["golden"] == pytest.approx(unlike["ours"] - 0.02, abs=0.006)


def test_what_is_not_here_names_the_command(project: Path) -> None:
    publish(project, {("ROxford5k", "Easy", "mAP"): 1.0})
    features = project / "data" / "features"
    (features / "gnd_roxford5k.json").unlink()
    line = refused(*GOLDEN)
    assert "gnd_roxford5k.json not in" in line and "`dagf data get revisited-features`" in line
    (features / "gnd_roxford5k.json").symlink_to((features / "gnd_rparis6k.json").resolve())
    assert "another version" in refused(*GOLDEN)
    shutil.rmtree(features)
    assert "roxford5k_resnet_rsfm120k_gem.mat, gnd_roxford5k.json not in" in refused(*GOLDEN)


def test_golden_figures_are_the_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed again from protocols.md's line: mAP, then mP@1, 5 and 10."""
    figures = {
        ("ROxford5k", "Easy"): (84.81, 97.06, 92.06, 86.49),
        ("ROxford5k", "Medium"): (64.67, 97.14, 90.67, 84.67),
        ("ROxford5k", "Hard"): (38.47, 81.43, 63.00, 53.00),
        ("RParis6k", "Easy"): (92.12, 100, 97.14, 96.14),
        ("RParis6k", "Medium"): (77.20, 100, 98.86, 98.14),
        ("RParis6k", "Hard"): (56.32, 94.29, 90.29, 89.14),
    }
    monkeypatch.setenv(ROOT, str(HERE))
    rows = read_published().query("note == @NOTE").set_index(["dataset", "protocol", "metric"])
    wide = rows["value"].unstack()[METRICS]
    assert {key: tuple(values) for key, values in wide.T.items()} == figures


def test_a_tiny_set_by_hand(tmp_path: Path) -> None:
    """Similarities 1, 4, 3, 2: easy 2 is second, hard 0 last, third once easy is junk."""
    held = {"Q": np.array([[1.0], [0.0]]), "X": np.array([[1.0, 4, 3, 2], [9, 9, 9, 9]])}
    savemat(tmp_path / "a.mat", held)
    found = measured(from_ground_truth("tiny", tmp_path, TINY), tmp_path / "a.mat")
    ours = found.set_index(["protocol", "metric"])["ours"]
    assert ours["Easy", "mAP"] == pytest.approx(100 * (0 + 1 / 2) / 2)
    assert ours["Hard", "mAP"] == pytest.approx(100 * (0 + 1 / 3) / 2)
    assert ours["Medium", "mAP"] == pytest.approx(100 * (0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert (ours["Medium", "mP@1"], ours["Medium", "mP@10"]) == (0, 50)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"Q": np.ones((2, 1))}, r"a\.mat does not hold descriptors Q and X"),
        ({"Q": np.ones((2, 1)), "X": np.ones((3, 4))}, "does not hold descriptors"),
        ({"Q": np.ones((2, 3)), "X": np.ones((2, 4))}, "descriptors of another benchmark"),
        ({"Q": np.ones((2, 1)), "X": np.full((2, 4), np.nan)}, "hold NaN"),
    ],
)
def test_descriptors_that_are_refused(tmp_path: Path, held: dict[str, Any], says: str) -> None:
    savemat(tmp_path / "a.mat", held)
    fails(says, measured, from_ground_truth("tiny", tmp_path, TINY), tmp_path / "a.mat")
    (tmp_path / "b.mat").write_bytes(b"no descriptors")
    fails(r"b\.mat", measured, from_ground_truth("tiny", tmp_path, TINY), tmp_path / "b.mat")
