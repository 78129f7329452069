"""A small cut of real photographs: products in a grocery store, heads on a pre-trained backbone."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.study import parallel
from dagf.study.opening import open_study
from dagf.study.study import Study

pytestmark = pytest.mark.study

TRAINED, ASKED = 4, ("Bravo-Orange-Juice", "Tropicana-Apple-Juice")
DISTRACTORS = 20


def spread(rows: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """Some of the photographs, far from one another: they were taken in bursts."""
    return [rows[place] for place in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def product(file: Path) -> str:
    """What a photograph shows, from its name: PRODUCT_001.jpg, val_PRODUCT_001.jpg or test_PRODUCT_001.jpg."""
    return file.stem.rpartition("_")[0].removeprefix("val_").removeprefix("test_")


@pytest.fixture(scope="module")
def cut(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 photos of each of 4 products to train on, 2 queries and 6 photos of each of 2 others, 20 distractors."""
    folder = tmp_path_factory.mktemp("products")
    chosen: list[tuple[Path, str, str]] = []
    with (shared_data / "products" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    products = sorted({row["instance"] for row in rows if row["role"] == "train"})[::4][:TRAINED]
    wanted = [(name, "train", 8) for name in products]
    wanted += [
        (name, role, count) for name in ASKED for role, count in (("query", 2), ("database", 6))
    ]
    for name, role, count in wanted:
        of = [row for row in rows if (row["instance"], row["role"]) == (name, role)]
        chosen += [
            (shared_data / "products" / row["file"], name, role) for row in spread(of, count)
        ]
    with (shared_data / "distractors" / "labels.csv").open(newline="") as stream:
        others = spread(list(csv.DictReader(stream)), DISTRACTORS)
    chosen += [(shared_data / "distractors" / row["file"], "", "distractor") for row in others]
    for file, _, _ in chosen:
        (folder / file.name).symlink_to(file)
    lines = [f"{file.name},{name},{role}" for file, name, role in chosen]
    (folder / "labels.csv").write_text("\n".join(["file,instance,role", *lines]) + "\n")
    return folder


@pytest.fixture
def study(
    cut: Path, shared_data: Path, project: Path, profile: Callable[..., str], monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
) -> Study:  # fmt: skip
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    name = profile(
        backbone={"name": "mobilenet_v2", "cut": "features.18"},
        image={"size": 161, "mode": "squash"},
        backbone_training=None,
        arm_training=None,
        heads={"training": {"epochs": 2, "steps": 4, "landmarks": 2, "views": 4, "rate": 1e-3}},
        arms=["gem", "dagf"],
        seeds=[0],
        held_out=2,
    )
    weights = shared_data / "weights" / "mobilenet_v2_imagenet_from_tflite_int8.pth"
    return open_study(name, str(cut), weights=str(weights))


def test_heads_on_real_photographs(study: Study, cut: Path) -> None:
    """Off the shelf far above chance; trained heads validated on products that they have not seen."""
    test = study.test
    assert (len(test.queries), len(test.database), len(test.distractors)) == (4, 12, DISTRACTORS)
    off_the_shelf = mean_average_precision(study.untrained_results("gem").per_query, "Classic")
    rng = np.random.default_rng(0)
    chance = [
        mean_average_precision(evaluate(test, rng.random((4, 12 + DISTRACTORS))), "Classic")
        for _ in range(50)
    ]
    assert off_the_shelf > max(chance) + 5

    assert study.training is not None
    assert study.training.landmarks == TRAINED - 2
    seen = {product(file) for file in study.training.files}
    validation = study.training.validation
    held = {product(Path(file)) for file in validation.database}
    assert len(held) == 2
    assert not held & seen
    assert not (held | seen) & set(ASKED)

    table = study.table().set_index("arm")
    assert set(table.index) == {"gem", "dagf"}
    for (arm, _), run in study.train().items():
        assert run.config.frozen
        assert run.config.backbone.weights.startswith("sha256:")
        assert str(cut) not in (run.folder / "config.json").read_text()
        assert np.isfinite(run.curves["loss"]).all()
        assert table["mAP"][arm] > np.mean(chance)
        assert (
            run.network().backbone.state_dict().keys()
            == study.untrained(arm).backbone.state_dict().keys()
        )
    backbones = [run.network().backbone.state_dict() for run in study.train().values()]
    fresh = study.untrained("gem").backbone.state_dict()
    assert all(backbone[key].equal(fresh[key]) for backbone in backbones for key in fresh)
