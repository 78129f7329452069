"""Does the order change with training, with the map's resolution, with what heads learn from?

Each answer is DAGF (or a part of it) minus GeM, beside the ceiling minus GeM, under conditions that
take hours to train: a profile of their own, whose tables are kept. So are the trials on validation
landmarks, by which the registered arms were chosen.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dagf import paths
from dagf.analysis.contrasts import Contrast, contrast, contrast_of, points, runs_of
from dagf.analysis.methods import method_row, methods
from dagf.analysis.rivals import CHOSEN, SHELF, rivals
from dagf.analysis.tables import RUNS
from dagf.datasets.checks import training_set
from dagf.datasets.contents import remembered
from dagf.datasets.folder import numbered, read_labels
from dagf.datasets.public import place
from dagf.model.variants import VARIANTS
from dagf.study.backbones import shorter
from dagf.study.config import TrainSpec, read_fields
from dagf.study.profile import Ladder
from dagf.study.study import Study

ENDS = ("dagf", "oracle")  # the ceiling of GeM's own run, which costs no training
HEADS = ("dagf", "spatial", "oracle-trained")
STRIDE = 8  # pixels a cell of the small backbone
Condition = tuple[str, Study]  # 'what changes: how', the study there
INSTANCES = (3, 6)  # that heads are trained on, beside all
SEED = 2023  # of the order in which a larger set adds instances


def rungs(study: Study, ladder: Ladder) -> Iterator[Condition]:
    """Yield each rung of training: 'steps of the backbone: steps of the arms', end to end."""
    for backbone in (*ladder.backbones, None):
        started = study
        if backbone:
            started = replace(study, backbones=shorter(backbone, study.profile.seeds))
        for steps in ladder.arms:
            spec = study.profile.plan().training
            training = replace(spec, steps=steps // spec.epochs)
            profile = replace(study.profile, arm_training=training)
            rung = f"backbone of {backbone} steps" if backbone else "kept backbone"
            yield f"{rung}: {steps}", replace(started, profile=profile)


def conditions(study: Study, ladder: Ladder) -> Iterator[Condition]:
    """Yield each backbone, size of the images and number of landmarks, for heads on frozen maps."""
    profile = study.profile
    images = [replace(profile.image, size=size, mode="squash") for size in ladder.sizes]  # enlarged
    generic = replace(profile, backbone=ladder.generic, kept_backbones=False, image=images[-1])
    yield "backbone: of ImageNet", replace(study, profile=generic)
    yield "backbone: of Toytown", study
    for image in images:
        cells = f"cells a side of the map: {image.size // STRIDE}"
        yield cells, replace(study, profile=replace(profile, image=image))
    for count in ladder.landmarks:
        yield f"landmarks that heads learn from: {count}", fewer(study, count)


def fewer(study: Study, instances: int) -> Study:
    """Return the study with the first training instances only, as many images in a step as before.

    The order of the instances is drawn once, so that a smaller set lies within a larger one.
    """
    data = study.learned_from
    order = np.random.default_rng(SEED).permutation(data.landmarks)
    chosen = sorted(order[:instances].tolist())
    pairs = zip(data.files, data.labels, strict=True)
    rows = [(file, chosen.index(label)) for file, label in pairs if label in chosen]
    return trained_on(study, [file for file, _ in rows], [label for _, label in rows])


def trained_on(study: Study, files: Sequence[Path], labels: Sequence[int]) -> Study:
    """Return the study with other training images on the same validation, as many in a step."""
    validation, heads = study.learned_from.validation, study.profile.plan(heads=True)
    data = training_set(files, labels, validation, remembered(paths.data()))
    batch = heads.training.landmarks * heads.training.views
    fit = min(data.landmarks, heads.training.landmarks)
    spec = replace(heads.training, landmarks=fit, views=max(1, batch // fit))
    profile = replace(study.profile, heads=replace(heads, training=spec))
    return replace(study, training=data, profile=profile)


def training_sets(study: Study, folders: Sequence[Path]) -> pd.DataFrame:
    """Return both GeMs, and heads by what they were trained on, on the same budget.

    Of one folder: the first instances of the study, all of them, and every other training role
    (categories rather than instances). Of several together: all instances, and with every other
    training role beside them.
    """
    data = study.learned_from
    most, several = data.landmarks, len(folders) > 1
    counts = [count for count in (*INSTANCES, most) if count <= most][-1 if several else 0 :]
    sets = {f"{count} instances": fewer(study, count) for count in counts}
    for folder in (place(str(one), paths.data()) for one in folders):
        labels = read_labels(folder)
        for role, part in labels[labels["role"].str.startswith("train-")].groupby("role"):
            name, (files, numbers) = str(role).removeprefix("train-"), numbered(folder, part)
            if several:
                name = f"{most} instances and {name}"
                files = [*data.files, *files]
                numbers = [*data.labels, *(most + number for number in numbers)]
            sets[name] = trained_on(study, files, numbers)
    others = rivals(study)
    rows = [{"trained on": "–", **method_row(study, others[one])} for one in (SHELF, CHOSEN)]
    rows[1]["method"] = f"{CHOSEN}: {others[CHOSEN].name}"
    for name, one in sets.items():
        data = one.learned_from
        about = {"trained on": name, "images": len(data.files), "classes": data.landmarks}
        shown = methods(one, ("gem", "attention", "dagf"))[::2]  # as they are
        rows += [about | method_row(study, head) | {RUNS: head.runs} for head in shown]
    table = pd.DataFrame(rows).drop(columns="whitening")
    return table.astype({"images": "Int64", "classes": "Int64"})


def climb(found: Iterable[Condition], heads: bool) -> list[Contrast]:
    """Return each arm minus GeM on the middle setting, under each condition (its `setting`)."""
    return [
        replace(contrast(one, arm, "gem", one.test.middle.name, heads=heads), setting=words)
        for words, one in found
        for arm in (HEADS if heads else ENDS)
    ]


def trial_table(study: Study) -> pd.DataFrame:
    """Return a row for each of the profile's trials, end to end, at the best of its rates.

    Columns: trial, rate, validation mAP (per cent, mean over seeds), how far above GeM's (the first
    trial of it), minus GeM on the test images with its interval, runs. The test images are those
    of landmarks that were looked at before: a second validation.
    """
    rows, setting = [], study.test.middle.name
    gem, before = points(study, ["gem"], setting)["gem"], 0.0
    for name, trial in study.profile.trials.items():
        values = asdict(study.profile.plan().training) | trial.changes
        training = read_fields(TrainSpec, values, f"trial {name}")
        tried = replace(study, profile=replace(study.profile, arm_training=training))
        runs = [*tried.train([trial.arm]).values()]
        reached = sum(run.record["validation_mAP"] for run in runs) / len(runs)
        before = before or reached
        level = points(tried, [trial.arm], setting)[trial.arm]
        titles = VARIANTS[trial.arm].title, VARIANTS["gem"].title
        apart = contrast_of(level - gem, study.test.clusters(), *titles, setting)
        row = {
            "trial": name,
            "rate": f"{runs[0].config.train.rate:g}",
            "validation mAP": f"{reached:.1f}",
            "minus GeM's": f"{reached - before:+.1f}",
            "second validation": f"{level.mean(axis=None):.1f}",
            "second, minus GeM's [95 %]": apart.joint.signed,
            RUNS: runs_of(tried, trial.arm),
        }
        rows.append(row)
    return pd.DataFrame(rows)
