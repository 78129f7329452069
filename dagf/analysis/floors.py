"""The floors under the main table: what chance gets, and what a backbone gets that has learned nothing."""

from dataclasses import replace

import numpy as np
import pandas as pd

from dagf.datasets.benchmark import Benchmark
from dagf.devices import on_device
from dagf.files import content_hash
from dagf.retrieval.metrics import evaluate, means
from dagf.study.evaluation import evaluation_descriptors
from dagf.study.study import Study


def chance(test: Benchmark, draws: int = 5) -> pd.DataFrame:
    """The mAP (per cent) of random scores, the mean of `draws`: one row a query set and setting."""
    rng, shape = np.random.default_rng(0), (len(test.queries), len(test.database_paths))
    found = pd.DataFrame(
        {draw: means(evaluate(test, rng.random(shape)))["mAP"] for draw in range(draws)}
    )
    return found.mean(axis=1).rename("mAP").reset_index()


def untrained_backbone(study: Study) -> pd.DataFrame:
    """The same of GeM on the backbone of the first seed before its first step: what is told apart without learning."""
    bare, seed = (
        replace(study, profile=replace(study.profile, backbone_training=None)),
        study.profile.seeds[0],
    )
    name = content_hash(["untrained backbone", bare.backbone_id(seed)])
    net = on_device(bare.untrained("gem", seed))
    rows, asked = evaluation_descriptors(
        net, name, study.test, study.profile.evaluation, study.cache / "shards"
    )
    return means(evaluate(study.test, asked @ rows[:].T))["mAP"].reset_index()


def floors(study: Study) -> pd.DataFrame:
    """What a trained arm must leave behind, as rows like those of `dagf.analysis.contrasts.summary`.

    Random scores, and GeM on an untrained backbone where the backbone is trained here.
    """
    found = [chance(study.test).assign(method="random scores", seeds="")]
    if study.profile.backbone_training:
        found.append(untrained_backbone(study).assign(method="GeM, untrained backbone", seeds=1))
    table = pd.concat(found).rename(columns={"query_set": "query set"})
    table["mAP"] = table["mAP"].map("{:.1f}".format)
    wide = table.pivot_table(
        "mAP", ["query set", "method", "seeds"], "setting", "first", sort=False
    )
    return wide.rename_axis(columns=None).reset_index()
