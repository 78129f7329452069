"""Toytown's own backbones: trained once, kept in data/backbones, and what its studies start from.

`dagf backbones` trains them, one a seed, under a neutral SPoC head, as backbones.yaml says;
`dagf backbones --trials` makes the validation trials that chose those values. Both go on where they
were stopped. A kept backbone is a folder of the run store, with its weights, its curves and its
record; what lies there already is not trained again.
"""

import shutil
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic.dataclasses import dataclass

from dagf import paths
from dagf.datasets.benchmark import TrainingSet
from dagf.datasets.decode import ImageSpec
from dagf.datasets.toytown import open_toytown, toytown_training
from dagf.errors import UserError
from dagf.files import atomic_folder, atomic_path
from dagf.model.backbone import BackboneSpec
from dagf.model.variants import variant
from dagf.study.config import STRICT, RunConfig, TrainSpec, read_fields
from dagf.study.profile import Seeds
from dagf.study.provenance import code_hash
from dagf.study.runs import Run, RunStore
from dagf.study.training import Job, train_all
from dagf.toytown.generate import ToytownSpec

PLAN = Path(__file__).with_name("backbones.yaml")


@dataclass(frozen=True, config=STRICT)
class BackbonePlan:
    """How backbones are trained, on which drawings, and what was tried on validation before.

    trials: name -> the values of `training` that it changes, of `toytown` under that key; all with
    the first seed.
    """

    toytown: ToytownSpec
    image: ImageSpec
    training: TrainSpec
    seeds: Seeds
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)

    def trial(self, name: str) -> "BackbonePlan":
        """Return the plan of one trial."""
        changed = dict(self.trials[name])
        toytown = replace(self.toytown, **changed.pop("toytown", {}))
        return replace(self, toytown=toytown, training=replace(self.training, **changed))


def read_plan() -> BackbonePlan:
    """Return the plan of the backbones that are kept."""
    values = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    return read_fields(BackbonePlan, values, PLAN.name)


def drawings(plan: BackbonePlan) -> TrainingSet:
    """Return the training and validation images of a plan, drawn where they are missing."""
    return toytown_training(open_toytown(plan.toytown, paths.data()))


def config(plan: BackbonePlan, data: TrainingSet, seed: int) -> RunConfig:
    """Return the run of a seed's backbone, under a SPoC head."""
    about = variant("spoc"), BackboneSpec("small"), plan.image, plan.training, data.id, seed
    return RunConfig(*about, recipe=code_hash("dagf.study.training"))


def kept_backbones() -> dict[int, Run]:
    """Return the kept backbones by seed."""
    runs = [Run(file.parent) for file in paths.backbones().glob("*/record.json")]
    return dict(sorted((run.config.seed, run) for run in runs))


def kept_backbone(seed: int) -> Run:
    """Return the kept backbone of a seed. Raises `UserError` where there is none."""
    found = kept_backbones()
    if seed not in found:
        known = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"no backbone of seed {seed} in {paths.backbones()} (seeds there: {known}): train it "
            "with `dagf backbones`"
        )
    return found[seed]


def make_backbones() -> list[Run]:
    """Train the backbones of the plan's seeds where they are missing; keep and return them.

    One that was kept stays as long as the plan does, whatever has become of the code: a test holds
    the code to its record.
    """
    plan = read_plan()
    data, there = drawings(plan), kept_backbones()
    wanted = {seed: config(plan, data, seed) for seed in plan.seeds}
    stay = {
        seed
        for seed, run in there.items()
        if seed in wanted and replace(run.config, recipe="") == replace(wanted[seed], recipe="")
    }
    missing = [(one, data) for seed, one in wanted.items() if seed not in stay]
    made = _trained(missing, "backbones")
    for seed in there.keys() - stay:  # only now: what is there is not lost to a stopped training
        shutil.rmtree(there[seed].folder)
    for run in made:
        with atomic_folder(paths.backbones() / run.id) as temporary:
            shutil.copytree(run.folder, temporary, dirs_exist_ok=True)
    return [*kept_backbones().values()]


def shorter(steps: int, seeds: Seeds) -> dict[int, Run]:
    """Return backbones that were trained for so many steps (tens) only, by seed; as runs."""
    plan = read_plan()
    training = replace(plan.training, epochs=10, steps=steps // 10)
    data, plan = drawings(plan), replace(plan, training=training)
    runs = _trained([(config(plan, data, seed), data) for seed in seeds], f"{steps} steps")
    return dict(zip(seeds, runs, strict=True))


def make_trials() -> pd.DataFrame:
    """Make the trials of the plan where they are missing; keep and return a row for each.

    Columns: trial, landmarks, views (of the training images), the values of `training` that a trial
    changes, steps, validation mAP (per cent) of the best epoch, of the last epoch, best step, run.
    Kept as trials.csv beside the backbones.
    """
    plan = read_plan()
    tried = {name: plan.trial(name) for name in plan.trials}
    data = {one.toytown: drawings(one) for one in tried.values()}
    configs = {name: config(one, data[one.toytown], plan.seeds[0]) for name, one in tried.items()}
    jobs = [(configs[name], data[one.toytown]) for name, one in tried.items()]
    rows = []
    for (name, one), run in zip(tried.items(), _trained(jobs, "trials"), strict=True):
        spec = one.training
        best, curves = run.record["best_epoch"], run.curves
        row = {
            "trial": name,
            "landmarks": one.toytown.train_landmarks,
            "views": one.toytown.train_views,
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


def _trained(jobs: Sequence[Job], what: str) -> list[Run]:
    return train_all(jobs, what, RunStore(paths.runs()), paths.cache())
