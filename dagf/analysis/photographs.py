"""The exploratory tables on a folder of photographs: heads on a frozen pre-trained backbone.

Exploratory, for the trials that led here were read off the test queries. From here on every choice
(whitening, learning rate, which GeM to compare with) is made on the held-out training instances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from dagf import paths
from dagf.analysis.ablations import EARLIER, cut_table
from dagf.analysis.contrasts import spread
from dagf.analysis.duplicates import ALIKE, duplicate_counts
from dagf.analysis.methods import (
    CHOSEN,
    UNTRAINED,
    Method,
    Trial,
    against_gem,
    evaluated,
    gems,
    method_row,
    method_table,
    methods,
    reranking_table,
    trained_heads,
    training_of,
    untrained_heads,
)
from dagf.analysis.tables import RUNS, run_words, traced
from dagf.datasets.benchmark import TrainingSet
from dagf.datasets.checks import files_hash
from dagf.datasets.contents import remembered
from dagf.datasets.folder import read_labels, training_images
from dagf.datasets.images import ImageSpec, load_image
from dagf.datasets.public import place
from dagf.files import atomic_folder, content_hash
from dagf.model.variants import VARIANTS
from dagf.study.parallel import side_by_side
from dagf.study.provenance import code_hash
from dagf.study.study import Study

OFF_THE_SHELF = (
    *("spoc", "mac", "gem", "rmac", "crow"),
    *("windows", "mask", "scale-mask", "scale-mask-spoc"),
)
TRAINED = (
    *("spatial", "channel", "attention", "scale-mask", "dagf"),
    *("netvlad", "solar", "se", "delf"),
)
RERANKED = ("gem", "mac", "spoc", "rmac", "crow", "scale-mask-spoc", "scale-mask")
SEED = 2023  # of the order in which a larger set adds instances, and of augmented views


def fewer(study: Study, instances: int) -> Study:
    """Return the study with the first training instances only, as many images in a step as before.

    The order of the instances is drawn once, so that a smaller set lies within a larger one.
    """
    data = training_of(study)
    order = np.random.default_rng(SEED).permutation(data.landmarks)
    chosen = sorted(order[:instances].tolist())
    pairs = zip(data.files, data.labels, strict=True)
    rows = [(file, chosen.index(label)) for file, label in pairs if label in chosen]
    return _trained_on(study, [file for file, _ in rows], [label for _, label in rows])


def of_role(study: Study, folder: Path, role: str) -> Study:
    """Return the study with the images of another training role, on the same validation."""
    return _trained_on(study, *training_images(folder, role))


def unlabelled(study: Study, views: int) -> Study:
    """Return the study without labels: each training photograph is a class, in augmented views.

    The views are written once as JPEGs into the cache, and trained on like photographs.
    A batch holds few views of a class, so that many photographs contrast. (The loss should be
    contrastive: a classifier of hundreds of classes would see each about once.)
    """
    data, size = training_of(study), study.profile.image.size
    code = code_hash("dagf.analysis.photographs")
    folder = study.cache / f"views-{content_hash([data.id, size, views, SEED, code])}"
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            write = partial(write_views, data.files, temporary, size, views)
            side_by_side(write, range(len(data.files)), "augmented views")
    numbers = [(photo, view) for photo in range(len(data.files)) for view in range(views)]
    files = [folder / f"{photo}-{view}.jpg" for photo, view in numbers]
    return _trained_on(study, files, [photo for photo, _ in numbers], min(3, views))


def write_views(files: Sequence[Path], folder: Path, size: int, views: int, photo: int) -> None:
    """Write augmented views of files[photo], `size` x `size` pixels, as PHOTO-VIEW.jpg.

    Always the same ones: crops of 20 to 100 % of the area, changes of light and colour, and in half
    of them an erased box: what attention is meant to bear. No mirror images, as in training.
    """
    mean_colour = (124, 116, 104)  # of ImageNet
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
            v2.RandomErasing(p=0.5, scale=(0.05, 0.3), value=mean_colour),
        ]
    )
    image = load_image(files[photo], ImageSpec(2 * size))
    for view in range(views):
        seed = np.random.SeedSequence([SEED, photo, view]).generate_state(1)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            to_pil_image(augment(image)).save(folder / f"{photo}-{view}.jpg", quality=95)


def _trained_on(
    study: Study, files: Sequence[Path], labels: Sequence[int], views: int = 0
) -> Study:
    """The study on other training images; views: of a class in a batch (0: as many as fill it)."""
    validation, heads = training_of(study).validation, study.plan(heads=True)
    contents = remembered(paths.data())
    hashes = [contents.sha256(file) for file in files]
    name = content_hash([files_hash(validation, contents), hashes, labels])
    data = TrainingSet(tuple(files), tuple(labels), validation, name)
    batch = heads.training.landmarks * heads.training.views
    fit = max(1, batch // views) if views else min(data.landmarks, heads.training.landmarks)
    spec = replace(heads.training, landmarks=fit, views=views or max(1, batch // fit))
    profile = replace(study.profile, heads=replace(heads, training=spec))
    return replace(study, training=data, profile=profile)


def prepare(studies: Sequence[Study]) -> None:
    """Compute the maps of the training images of several studies side by side."""
    side_by_side(_maps, studies, "feature maps")


def _maps(study: Study) -> None:
    study.training_maps(study.bare(study.profile.seeds[0]))


def learning_curve(
    study: Study,
    arms: Sequence[str] = ("gem", "dagf"),
    instances: Sequence[int | None] = (3, 6, None),
) -> pd.DataFrame:
    """Return heads trained on the first instances only (None: all), smaller sets within larger.

    0 instances are GeM off the shelf, and the chosen GeM.
    """
    most = training_of(study).landmarks
    counts = sorted({min(count or most, most) for count in instances})
    return _trained_table(
        study, {count: fewer(study, count) for count in counts}, "instances", 0, arms
    )


def diversity(
    study: Study, folder: Path, arms: Sequence[str] = ("gem", "attention", "dagf"), views: int = 6
) -> pd.DataFrame:
    """Return what heads learn from more diverse images, on the same budget.

    The study's instances, every other training role of `folder` (categories rather than instances),
    and every training photograph as a class of its own, seen in augmented views.
    """
    folder = place(str(folder), paths.data())
    roles = sorted({role for role in read_labels(folder)["role"] if role.startswith("train-")})
    studies = {"instances": study}
    studies |= {role.removeprefix("train-"): of_role(study, folder, role) for role in roles}
    studies["no labels"] = unlabelled(study, views)
    return _trained_table(study, studies, "trained on", "–", arms)


def _trained_table(
    study: Study, studies: Mapping[Any, Study], column: str, nothing: object, arms: Sequence[str]
) -> pd.DataFrame:
    """Both GeMs, then heads on each training set: mean over seeds [95 % t-interval], and trials."""
    prepare(list(studies.values()))
    (plain, *_), chosen = gems(study)
    about: dict[str, Any] = {column: nothing, "images": 0, "classes": 0}
    rows = [about | method_row(study, plain)]
    rows.append(about | method_row(study, chosen) | {"method": f"{CHOSEN}: {chosen.name}"})
    for name, one in studies.items():
        data = training_of(one)
        about = {column: name, "images": len(data.files), "classes": data.landmarks}
        rows += [about | _head(one, arm) for arm in arms]
    return traced(rows).drop(columns="whitening").fillna("")


def _head(study: Study, arm: str) -> dict[str, Any]:
    """The cells of a trained head as it is, with its validation trials."""
    runs, table = study.train([arm], heads=True), study.table([arm], heads=True)
    table, trials = (
        table[table["setting"] == study.test.middle.name],
        study.trials([arm], heads=True),
    )
    validation = pd.Series([run.record["validation_mAP"] for run in runs.values()])
    row = {"method": VARIANTS[arm].title, "validation": spread(validation)}
    for query_set in study.test.query_sets:
        row[query_set] = spread(table[table["query_set"] == query_set]["mAP"])
    tried = zip(trials["rate"], trials["validation mAP"], strict=True)
    row["trials"] = "; ".join(f"{rate:g}: {value:.1f}" for rate, value in tried)
    return row | {RUNS: run_words((seed, run.id) for (_, seed), run in runs.items())}


def near_duplicates(study: Study, shown: Sequence[Method]) -> pd.DataFrame:
    """Return mAP and P@1 of methods, as they are and with near-duplicates of a query as junk."""
    parts = {f"without ≥ {least}": str(least) for least in ALIKE}
    asked = [(one.heads, Trial(part)) for one in shown for part in parts.values()]
    found, rows = iter(evaluated(study, asked)), []
    for method in shown:
        ways = {"as it is": method}
        for name in parts:
            table = next(found)
            kept = table[table["whitening"] == method.whitening]
            ways[name] = replace(method, per_query=kept)
        row = {"method": method.title, "whitening": method.whitening}
        for query_set, queries in study.test.query_sets.items():
            for measure, title in (("AP", "mAP"), ("P@1", "P@1")):
                for name, one in ways.items():
                    level = spread(one.points(queries, measure).mean())
                    row[f"{query_set}, {title} {name}"] = level
        chosen = "yes" if method.name == gems(study)[1].name else ""
        rows.append(row | {CHOSEN: chosen, RUNS: method.runs})
    return traced(rows)


class Kept(NamedTuple):
    """A table with its words, for `dagf.analysis.tables.keep_table`."""

    title: str
    caption: str
    frame: pd.DataFrame


def all_tables(study: Study, folder: Path) -> dict[str, Kept]:
    """Return every table of this module by name; `folder` is that of `diversity`."""
    shelf, reranked = (
        methods(study, untrained_heads(study, arms)) for arms in (OFF_THE_SHELF, RERANKED)
    )
    trained, (candidates, _) = methods(study, trained_heads(study, TRAINED)), gems(study)
    dagf, attention = (
        [one for one in trained if one.title == VARIANTS[arm].title]
        for arm in ("dagf", "attention")
    )
    doubles = [*shelf, *candidates[2:], *dagf]
    held = f"Exploratory. Chosen on {study.profile.held_out} held-out training instances."
    seeds = f"{held} Mean over {len(study.profile.seeds)} seeds [95 % t-interval]."
    loss = f"{seeds} Loss: {study.plan(heads=True).training.loss}."
    whole = "as they are and whitened"
    tables = {
        "shelf-ablation": Kept(
            f"Descriptors off the shelf, {whole}", held, _bare(method_table(study, shelf))
        ),
        "trained-ablation": Kept(
            f"Heads trained on the frozen backbone, {whole}",
            seeds,
            method_table(study, [*candidates, *trained]),
        ),
        "against-gem": Kept(
            "DAGF against the chosen GeM and against GeM off the shelf", held, against_gem(study)
        ),
        "learning-curve": Kept(
            "How many instances the heads were trained on", seeds, learning_curve(study)
        ),
        "duplicate-counts": Kept(
            "How many photographs are near-duplicates of a query",
            "Alike: the correlation of grey thumbnails, the largest over small shifts.",
            duplicate_counts(study.test),
        ),
        "near-duplicates": Kept(
            "With the near-duplicates of a query as junk", seeds, near_duplicates(study, doubles)
        ),
        "diversity": Kept("What the heads were trained on", loss, diversity(study, folder)),
        "reranking": Kept(
            f"Re-ranking of descriptors off the shelf, {whole}",
            held,
            _bare(reranking_table(study, reranked)),
        ),
        "reranking-trained": Kept(
            f"Re-ranking of trained heads, {whole}",
            seeds,
            reranking_table(study, [*dagf, *attention]),
        ),
    }
    if study.backbone.name in EARLIER:
        tables["masks-earlier-cut"] = Kept(
            "Windows and masks where the MAX-Mask drops cells",
            "Exploratory. Untrained; differences of the MAX-Mask under GeM, first query set.",
            cut_table(study, EARLIER[study.backbone.name]),
        )
    return tables


def _bare(table: pd.DataFrame) -> pd.DataFrame:
    """A table in which nothing is trained, without saying so in each row."""
    return table.assign(method=table["method"].str.removesuffix(UNTRAINED))
