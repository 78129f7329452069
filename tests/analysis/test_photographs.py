"""The tables on photographs: other training sets, and every table on a miniature folder."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagf.analysis import grid, photographs
from dagf.analysis.grid import CUT_WINDOWS
from dagf.analysis.methods import NONE, gems
from dagf.analysis.photographs import all_tables, fewer, trained_on
from dagf.datasets.folder import training_images
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.retrieval.rerank import RERANKINGS
from dagf.study.study import Study, open_study
from tests.fixtures import photograph, write_photographs

pytestmark = pytest.mark.usefixtures("one_process")

TRAINING = {"epochs": 1, "steps": 2, "landmarks": 2, "views": 2}
HEADS: dict[str, Any] = {
    "image": {"size": 32, "mode": "squash"}, "backbone_training": None, "arms": ["gem", "dagf"],
    "arm_training": None, "heads": {"training": TRAINING, "rates": [1e-4, 1e-3]}, "toytown": None,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six instances to train on, three of the test, two of another role; two query sets."""
    made = write_photographs(tmp_path / "shots", train_instances=6)
    lines = (made / "labels.csv").read_text().splitlines()
    for number in range(4):
        photograph(50 + number // 2, number).save(made / f"jpg/sort-{number}.jpg")
        lines.append(f"jpg/sort-{number}.jpg,sort{number // 2},train-sorts")
    photograph(6, 9).save(made / "jpg/plain.jpg")
    lines.append("jpg/plain.jpg,i6,query-plain")
    (made / "labels.csv").write_text("\n".join(lines) + "\n")
    return made


@pytest.fixture
def study(project: Path, profile: Callable[..., str], folder: Path, backbone_weights: str) -> Study:
    """Two instances held out and four trained on, under the small backbone."""
    return open_study(profile(**HEADS), str(folder), weights=backbone_weights)


@pytest.mark.study
def test_every_table_has_its_rows(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"OFF_THE_SHELF": ("mac", "gem"), "TRAINED": ("dagf", "attention"), "RERANKED": ("mac",)}
    for name, few in arms.items():
        monkeypatch.setattr(photographs, name, few)
    assert "masks-earlier-cut" not in all_tables(study, folder)  # it has no earlier map to cut at
    monkeypatch.setitem(grid.EARLIER, study.backbone.name, "")
    tables = all_tables(study, folder)
    assert all(title and caption.endswith(".") for title, caption, _ in tables.values())
    assert "Chosen on 2 held-out training instances" in tables["shelf-ablation"][1]
    frames = {name: frame for name, (_, _, frame) in tables.items()}

    shelf, trained = frames["shelf-ablation"], frames["trained-ablation"]
    assert list(shelf["method"]) == ["MAC"] * 2 + ["GeM"] * 2
    assert list(shelf["whitening"][::2]) == [NONE] * 2
    assert list(shelf.columns[2:5]) == ["validation", "query", "query-plain"]
    assert list(trained["method"][::2]) == [
        "GeM, untrained",
        "GeM",
        "DAGF",
        "GeM + spatial + channel",
    ]
    (best,) = trained.index[trained["chosen GeM"] == "yes"]
    assert float(trained["validation"][best]) == trained["validation"][:4].astype(float).max()

    against, chosen = frames["against-gem"], gems(study)[1]
    others = 1 if best == 0 else 2  # GeM off the shelf may be the best
    assert list(against["query set"]) == ["query"] * 2 * others + ["query-plain"] * 2 * others
    assert against["minus"][0] == f"chosen GeM ({chosen.name})"
    level = trained["query"][best].split()[0]
    assert against["mAP"][0].split(" − ")[1] == level  # as the other table has it
    levels = against["mAP"].str.split(" − ", expand=True).astype(float)
    apart = against["difference [95 %]"].str.split().str[0].astype(float)
    assert np.allclose(levels[0] - levels[1], apart, atol=0.11)

    curve = frames["learning-curve"]
    assert list(curve["instances"]) == [0, 0, *[3] * 2, *[4] * 2]
    assert list(curve["images"]) == [0, 0, *[15] * 2, *[20] * 2]
    assert list(curve["method"]) == [
        "GeM, untrained", f"chosen GeM: {chosen.name}", *["GeM", "DAGF"] * 2,
    ]  # fmt: skip
    assert list(curve["trials"].str.count(": ")) == [0, 0, *[2] * 4]
    assert curve["query"][1] == trained["query"][best]

    doubles = frames["near-duplicates"]
    titles = ["MAC, untrained", "GeM, untrained", "GeM", "DAGF"]
    assert list(doubles["method"][::2]) == titles
    assert list(doubles["query, mAP as it is"][4:6]) == list(trained["query"][2:4])
    kept, counts = doubles["query, mAP without ≥ 0.6"], frames["duplicate-counts"]
    assert list(counts["positives"]) == [12, 4] * 2
    assert counts["positives junked"][2] >= counts["positives junked"][0]
    assert kept.str.fullmatch(r"nan|[\d.]+( \[.*\])?").all()

    diverse = frames["diversity"]
    found = diverse.drop_duplicates("trained on").set_index("trained on")
    assert found["images"].to_dict() == {"–": 0, "instances": 20, "sorts": 4}
    assert found["classes"].to_dict() == {"–": 0, "instances": 4, "sorts": 2}

    for name, count in (("reranking", 2), ("reranking-trained", 4)):
        assert len(frames[name]) == count * (1 + len(RERANKINGS))
    masks = frames["masks-earlier-cut"]
    assert len(masks) == len(CUT_WINDOWS) * 4
    share = masks.set_index(["windows", "mask"])["kept, %"]
    assert share["1", "none"] == 100
    assert share["1", "max"] == share["1", "random"] < 100
    assert (masks["− random"] != "").sum() == len(CUT_WINDOWS)


def test_smaller_sets_lie_within_larger_ones(study: Study) -> None:
    assert study.training is not None
    sets = [fewer(study, count).training for count in (1, 2, 3, 4)]
    files = [set(one.files) for one in sets if one is not None]
    assert files[0] < files[1] < files[2] < files[3] == set(study.training.files)
    assert sets[-1] == study.training  # the same runs, then
    assert sets[1] is not None
    assert sorted(set(sets[1].labels)) == [0, 1]
    assert sets[1].validation is study.training.validation
    spec = fewer(study, 1).profile.plan(heads=True).training
    assert (spec.landmarks, spec.views) == (1, 4)  # as many images in a step


def test_another_role_has_classes_of_its_own(study: Study, folder: Path) -> None:
    sorts = trained_on(study, *training_images(folder, "train-sorts")).training
    assert sorts is not None
    assert study.training is not None
    assert sorts.files == tuple(training_images(folder, "train-sorts")[0])
    assert sorts.labels == (0, 0, 1, 1)
    assert sorts.id != study.training.id


PRODUCTS, ASKED = 4, ("Bravo-Orange-Juice", "Tropicana-Apple-Juice")
DISTRACTORS = 20


def spread(rows: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """Some of the photographs, far from one another: they were taken in bursts."""
    return [rows[place] for place in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def product(file: Path) -> str:
    """What a photograph shows, from its name: (val_ or test_)PRODUCT_001.jpg."""
    return file.stem.rpartition("_")[0].removeprefix("val_").removeprefix("test_")


@pytest.fixture(scope="module")
def cut(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 products of 8 photos to train on, 2 others with 2 queries and 6 photos, distractors."""
    folder = tmp_path_factory.mktemp("products")
    chosen: list[tuple[Path, str, str]] = []
    with (shared_data / "products" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    products = sorted({row["instance"] for row in rows if row["role"] == "train"})[::4][:PRODUCTS]
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
def products(cut: Path, shared_data: Path, project: Path, profile: Callable[..., str]) -> Study:
    """Heads on a pre-trained backbone, on a small cut of products in a grocery store."""
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


@pytest.mark.study
def test_heads_on_real_photographs(products: Study, cut: Path) -> None:
    """Off the shelf far above chance; heads validated on products that they have not seen."""
    study, test = products, products.test
    assert (len(test.queries), len(test.database), len(test.distractors)) == (4, 12, DISTRACTORS)
    off_the_shelf = mean_average_precision(study.untrained_results("gem").per_query, "Classic")
    rng = np.random.default_rng(0)
    chance = [
        mean_average_precision(evaluate(test, rng.random((4, 12 + DISTRACTORS))), "Classic")
        for _ in range(50)
    ]
    assert off_the_shelf > max(chance) + 5

    assert study.training is not None
    assert study.training.landmarks == PRODUCTS - 2
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
            == study.untrained(arm).network().backbone.state_dict().keys()
        )
    backbones = [run.network().backbone.state_dict() for run in study.train().values()]
    fresh = study.untrained("gem").network().backbone.state_dict()
    assert all(backbone[key].equal(fresh[key]) for backbone in backbones for key in fresh)
