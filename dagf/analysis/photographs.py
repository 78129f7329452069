"""The exploratory tables on a folder of photographs: heads on a frozen pre-trained backbone.

Exploratory, for the trials that led here were read off the test queries. From here on every choice
(whitening, learning rate, which GeM to compare with) is made on the held-out training instances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dagf import paths
from dagf.analysis.contrasts import spread
from dagf.analysis.duplicates import ALIKE, duplicate_counts
from dagf.analysis.grid import EARLIER, cut_table
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
    training_of,
)
from dagf.analysis.tables import RUNS, run_words
from dagf.datasets.benchmark import TrainingSet
from dagf.datasets.checks import files_hash
from dagf.datasets.contents import remembered
from dagf.datasets.folder import read_labels, training_images
from dagf.datasets.public import place
from dagf.files import content_hash
from dagf.model.variants import VARIANTS
from dagf.study.parallel import side_by_side
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
INSTANCES = (3, 6)  # of the learning curve, and all of them
SEED = 2023  # of the order in which a larger set adds instances


def fewer(study: Study, instances: int) -> Study:
    """Return the study with the first training instances only, as many images in a step as before.

    The order of the instances is drawn once, so that a smaller set lies within a larger one.
    """
    data = training_of(study)
    order = np.random.default_rng(SEED).permutation(data.landmarks)
    chosen = sorted(order[:instances].tolist())
    pairs = zip(data.files, data.labels, strict=True)
    rows = [(file, chosen.index(label)) for file, label in pairs if label in chosen]
    return trained_on(study, [file for file, _ in rows], [label for _, label in rows])


def trained_on(study: Study, files: Sequence[Path], labels: Sequence[int]) -> Study:
    """Return the study with other training images on the same validation, as many in a step."""
    validation, heads = training_of(study).validation, study.profile.plan(heads=True)
    contents = remembered(paths.data())
    hashes = [contents.sha256(file) for file in files]
    name = content_hash([files_hash(validation, contents), hashes, labels])
    data = TrainingSet(tuple(files), tuple(labels), validation, name)
    batch = heads.training.landmarks * heads.training.views
    fit = min(data.landmarks, heads.training.landmarks)
    spec = replace(heads.training, landmarks=fit, views=max(1, batch // fit))
    profile = replace(study.profile, heads=replace(heads, training=spec))
    return replace(study, training=data, profile=profile)


def learning_curve(study: Study) -> pd.DataFrame:
    """Return GeM's and DAGF's heads trained on the first instances only, and on all.

    0 instances are GeM off the shelf, and the chosen GeM.
    """
    most = training_of(study).landmarks
    sets = {count: fewer(study, count) for count in (*INSTANCES, most) if count <= most}
    return _trained_table(study, sets, "instances", 0, ("gem", "dagf"))


def diversity(study: Study, folder: Path) -> pd.DataFrame:
    """Return what heads learn from more diverse images, on the same budget.

    The study's instances, and every other training role of `folder` (categories rather than
    instances).
    """
    folder = place(str(folder), paths.data())
    roles = sorted({role for role in read_labels(folder)["role"] if role.startswith("train-")})
    sets = {"instances": study}
    for role in roles:
        sets[role.removeprefix("train-")] = trained_on(study, *training_images(folder, role))
    return _trained_table(study, sets, "trained on", "–", ("gem", "attention", "dagf"))


def _trained_table(
    study: Study, sets: Mapping[Any, Study], column: str, nothing: object, arms: Sequence[str]
) -> pd.DataFrame:
    """Both GeMs, then heads on each training set: mean over seeds [95 % t-interval], and trials."""
    side_by_side(_make_maps, list(sets.values()), "feature maps")
    (plain, *_), chosen = gems(study)
    about: dict[str, Any] = {column: nothing, "images": 0, "classes": 0}
    rows = [about | method_row(study, plain)]
    rows.append(about | method_row(study, chosen) | {"method": f"{CHOSEN}: {chosen.name}"})
    for name, one in sets.items():
        data = training_of(one)
        about = {column: name, "images": len(data.files), "classes": data.landmarks}
        rows += [about | _head(one, arm) for arm in arms]
    return pd.DataFrame(rows).drop(columns="whitening").fillna("")


def _make_maps(study: Study) -> None:
    study.training_maps(study.bare(study.seed))


def _head(study: Study, arm: str) -> dict[str, Any]:
    """The cells of a trained head as it is, with its validation trials."""
    runs, table = study.train([arm], heads=True), study.table([arm], heads=True)
    table = table[table["setting"] == study.test.middle.name]
    validation = pd.Series([run.record["validation_mAP"] for run in runs.values()])
    row = {"method": VARIANTS[arm].title, "validation": spread(validation)}
    for query_set in study.test.query_sets:
        row[query_set] = spread(table[table["query_set"] == query_set]["mAP"])
    tried = study.trials([arm], heads=True)[["rate", "validation mAP"]].to_numpy()
    row["trials"] = "; ".join(f"{rate:g}: {value:.1f}" for rate, value in tried)
    return row | {RUNS: run_words((seed, run.id) for (_, seed), run in runs.items())}


def near_duplicates(study: Study, shown: Sequence[Method]) -> pd.DataFrame:
    """Return mAP and P@1 of methods, as they are and with near-duplicates of a query as junk."""
    whole = {
        least: evaluated(study, [(one.heads, Trial(str(least))) for one in shown])
        for least in ALIKE
    }
    chosen, rows = gems(study)[1], []
    for number, method in enumerate(shown):
        ways = {"as it is": method}
        for least, tables in whole.items():
            kept = tables[number][tables[number]["whitening"] == method.whitening]
            ways[f"without ≥ {least}"] = replace(method, per_query=kept)
        row = {"method": method.title, "whitening": method.whitening}
        for query_set, queries in study.test.query_sets.items():
            for measure, title in (("AP", "mAP"), ("P@1", "P@1")):
                for way, one in ways.items():
                    level = spread(one.points(queries, measure).mean())
                    row[f"{query_set}, {title} {way}"] = level
        row[CHOSEN] = "yes" if method.name == chosen.name else ""
        rows.append(row | {RUNS: method.runs})
    return pd.DataFrame(rows)


def all_tables(study: Study, folder: Path) -> dict[str, tuple[str, str, pd.DataFrame]]:
    """Return every table by name, with title and caption; `folder` is that of `diversity`."""
    shelf, reranked = (methods(study, arms, trained=False) for arms in (OFF_THE_SHELF, RERANKED))
    trained, (candidates, _) = methods(study, TRAINED, trained=True), gems(study)
    dagf, attention = (
        [one for one in trained if one.title == VARIANTS[arm].title]
        for arm in ("dagf", "attention")
    )
    held = f"Exploratory. Chosen on {study.profile.held_out} held-out training instances."
    seeds = f"{held} Mean over {len(study.profile.seeds)} seeds [95 % t-interval]."
    whole = "as they are and whitened"
    tables = {
        "shelf-ablation": (
            f"Descriptors off the shelf, {whole}", held, _bare(method_table(study, shelf))
        ),
        "trained-ablation": (
            f"Heads trained on the frozen backbone, {whole}", seeds,
            method_table(study, [*candidates, *trained]),
        ),
        "against-gem": (
            "DAGF against the chosen GeM and against GeM off the shelf", held, against_gem(study)
        ),
        "learning-curve": (
            "How many instances the heads were trained on", seeds, learning_curve(study)
        ),
        "duplicate-counts": (
            "How many photographs are near-duplicates of a query",
            "Alike: the correlation of grey thumbnails, the largest over small shifts.",
            duplicate_counts(study.test),
        ),
        "near-duplicates": (
            "With the near-duplicates of a query as junk", seeds,
            near_duplicates(study, [*shelf, *candidates[2:], *dagf]),
        ),
        "diversity": (
            "What the heads were trained on",
            f"{seeds} Loss: {study.profile.plan(heads=True).training.loss}.",
            diversity(study, folder),
        ),
        "reranking": (
            f"Re-ranking of descriptors off the shelf, {whole}", held,
            _bare(reranking_table(study, reranked)),
        ),
        "reranking-trained": (
            f"Re-ranking of trained heads, {whole}", seeds,
            reranking_table(study, [*dagf, *attention]),
        ),
    }  # fmt: skip
    if study.backbone.name in EARLIER:
        tables["masks-earlier-cut"] = (
            "Windows and masks where the MAX-Mask drops cells",
            "Exploratory. Untrained; differences of the MAX-Mask under GeM, first query set.",
            cut_table(study, EARLIER[study.backbone.name]),
        )
    return tables


def _bare(table: pd.DataFrame) -> pd.DataFrame:
    """A table in which nothing is trained, without saying so in each row."""
    return table.assign(method=table["method"].str.removesuffix(UNTRAINED))
