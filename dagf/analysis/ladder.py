"""Does the order change with training, with the map's resolution, with what heads learn from?

Each answer is DAGF (or a part of it) minus GeM, beside the ceiling minus GeM, under conditions that
take hours to train: a profile of their own, whose tables are kept. So are the trials on validation
landmarks, by which the registered arms were chosen.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace

import pandas as pd

from dagf.analysis.contrasts import Contrast, contrast, contrast_of, points, runs_of
from dagf.analysis.methods import fewer
from dagf.analysis.tables import RUNS
from dagf.model.variants import VARIANTS
from dagf.study.backbones import shorter
from dagf.study.config import TrainSpec, read_fields
from dagf.study.profile import Ladder
from dagf.study.study import Study

ENDS = ("dagf", "oracle")  # the ceiling of GeM's own run, which costs no training
HEADS = ("dagf", "spatial", "oracle-trained")
STRIDE = 8  # pixels a cell of the small backbone
Condition = tuple[str, Study]  # 'what changes: how', the study there


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
