"""Toytown's own backbones: trained once, kept in data/backbones, and what its studies start from.

`dagf backbones` trains them, one a seed, under a neutral SPoC head, as the profile backbones.yaml
says; `dagf backbones --trials` makes the validation trials that chose those values. Both go on
where they were stopped. A kept backbone is a folder of the run store, with its weights, its curves
and its record; what lies there already is not trained again.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from dagf import paths
from dagf.datasets.toytown import open_toytown, toytown_training
from dagf.files import atomic_folder, atomic_path
from dagf.study.config import TrainSpec
from dagf.study.parallel import side_by_side
from dagf.study.profile import Seeds, load_profile
from dagf.study.runs import Run
from dagf.study.study import Study, kept_backbones, open_study

PLAN = Path(__file__).with_name("backbones.yaml")


def plan(**changes: Any) -> Study:
    """Return the study whose backbones are kept, with changes of their training, if any.

    Those of the drawings are under `toytown`.
    """
    study = open_study(str(PLAN))
    toytown = replace(study.profile.drawing, **changes.pop("toytown", {}))
    training = replace(study.profile.backbone_training or TrainSpec(), **changes)
    profile = replace(study.profile, toytown=toytown, backbone_training=training)
    data = toytown_training(open_toytown(toytown, paths.data()))
    return replace(study, profile=profile, training=data)


def make_backbones() -> list[Run]:
    """Train the backbones of the plan's seeds where they are missing; keep and return them.

    One that was kept stays as long as the plan does, whatever has become of the code: a test holds
    the code to its record.
    """
    study, there = plan(), kept_backbones()
    wanted = {seed: study.backbone_config(seed) for seed in study.profile.seeds}
    stay = {
        seed
        for seed, run in there.items()
        if (one := wanted.get(seed)) and replace(one, recipe=run.config.recipe) == run.config
    }
    made = study.train_backbones([seed for seed in wanted if seed not in stay])
    for seed in there.keys() - stay:  # only now: what is there is not lost to a stopped training
        shutil.rmtree(there[seed].folder)
    for run in made:
        with atomic_folder(paths.backbones() / run.id) as temporary:
            shutil.copytree(run.folder, temporary, dirs_exist_ok=True)
    return [*kept_backbones().values()]


def shorter(steps: int, seeds: Seeds) -> dict[int, Run]:
    """Return backbones that were trained for so many steps (tens) only, by seed; as runs."""
    runs = plan(epochs=10, steps=steps // 10).train_backbones(seeds)
    return dict(zip(seeds, runs, strict=True))


def make_trials() -> pd.DataFrame:
    """Make the trials of the plan where they are missing; keep and return a row for each.

    Columns: trial, landmarks, views (of the training images), the values of the training that a
    trial changes, steps, validation mAP (per cent) of the best epoch, of the last epoch, best step,
    run. Kept as trials.csv beside the backbones.
    """
    tried = {name: plan(**one.changes) for name, one in load_profile(str(PLAN)).trials.items()}
    side_by_side(lambda one: one.train_backbones([one.seed]), [*tried.values()], "trials")
    rows = []
    for name, one in tried.items():
        (run,) = one.train_backbones([one.seed])
        spec, best, curves = run.config.train, run.record["best_epoch"], run.curves
        row = {
            "trial": name,
            "landmarks": one.profile.drawing.train_landmarks,
            "views": one.profile.drawing.train_views,
            "augmentation": spec.augmentation,
            "rate": spec.rate,
            "loss": " ".join([spec.loss, *(f"{k} {v:g}" for k, v in spec.loss_options.items())]),
            "steps": spec.epochs * spec.steps,
            "validation mAP": run.record["validation_mAP"],
            "at the end": curves["validation_mAP"].iloc[-1],
            "best step": best * spec.steps,
            "run": run.id,
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    with atomic_path(paths.backbones() / "trials.csv") as path:
        table.round({"validation mAP": 2, "at the end": 2}).to_csv(path, index=False)
    return table
