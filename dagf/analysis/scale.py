"""mAP among many distractors: the test landmarks of a study among all that its profile's `scale` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from dagf.analysis.tables import RUNS, run_words, traced
from dagf.console import progress
from dagf.datasets.toytown import load_toytown
from dagf.errors import UserError
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import evaluate_positions, means, stream_positions
from dagf.retrieval.search import Descriptors, Rows
from dagf.study.opening import drawn
from dagf.study.parallel import side_by_side
from dagf.study.profile import Scale
from dagf.study.runs import Run
from dagf.study.study import Key, Study

FIRST = 100  # distractors at the first step of the curve, and of the fit


def scale_of(study: Study) -> Scale:
    """What the profile measures at large scale; a `UserError` where it says nothing."""
    if study.profile.scale is None:
        raise UserError(
            f"profile {study.profile.name} has no 'scale': add one, as the profile cpu has it"
        )
    return study.profile.scale


def crowded(study: Study) -> Study:
    """The same test landmarks among all distractors of the profile's `scale`; photographs stay as they are.

    The same drawings: an image of Toytown does not depend on how many there are.
    """
    if study.toytown is None:
        return study
    spec = replace(
        study.profile.drawing, train_landmarks=0, validation_landmarks=0, validation_distractors=0
    )
    spec = replace(spec, distractors=scale_of(study).distractors)
    root = drawn(spec)
    return replace(study, test=load_toytown(root, "test"), test_id=root.name, toytown=root)


@dataclass(frozen=True)
class Extracted_:
    """A benchmark under a trained arm: its rows (N, D) on disk, and its queries (Q, D)."""

    database: Rows
    queries: Descriptors


def extract_all(study: Study, arms: Sequence[str], seeds: Sequence[int]) -> dict[Key, Extracted_]:
    """The descriptors of a study's test images under trained arms, made once and kept in shards; by (arm, seed).

    Where a study has nothing to train on, under the arms off the shelf, which are the same for every seed.
    """
    keys = list(study.train(arms, seeds)) if study.training else [(arm, seeds[0]) for arm in arms]
    side_by_side(partial(extracted, study), keys, "extracting")
    return {key: extracted(study, key) for key in keys}


def asked_for(study: Study, key: Key) -> Run | Key:
    """The trained run of an (arm, seed), or where nothing is trained the arm itself."""
    return study.run(*key) if study.training else key


def extracted(study: Study, key: Key) -> Extracted_:
    """The descriptors of a study's test images under one arm."""
    return Extracted_(*study.descriptors(asked_for(study, key)))


def background(study: Study, one: Extracted_) -> Rows:
    """The rows of the distractors, or of all images where there are none: what further rows are drawn like."""
    return one.database[len(study.test.database) if study.test.distractors else 0 :]


def curve(study: Study, sets: dict[Key, Extracted_]) -> pd.DataFrame:
    """mAP (per cent) among the first 0, 100, 300, ... distractors: one row an arm, seed, number, query set, setting."""
    rows = []
    for (arm, seed), one in progress(sets.items(), "ranking", len(sets), "run"):
        for count in steps(len(study.test.distractors)):
            test = replace(study.test, distractors=study.test.distractors[:count])
            database = one.database[: len(test.database) + count]
            per_query = evaluate_positions(test, stream_positions(test, database, one.queries))
            found = means(per_query)["mAP"].reset_index()
            of = asked_for(study, (arm, seed))
            run = of.id if isinstance(of, Run) else ""
            found = found.assign(arm=arm, method=VARIANTS[arm].title, seed=seed, run=run)
            rows.append(found.assign(distractors=count))
    return pd.concat(rows, ignore_index=True)


def steps(most: int) -> list[int]:
    """0, 100, 300, 1000, ... below `most`, and `most`."""
    rising = (FIRST * 10 ** (number // 2) * (1, 3)[number % 2] for number in range(20))
    return [0, *(count for count in rising if count < most), most] if most else [0]


def losses(found: pd.DataFrame, setting: str) -> pd.DataFrame:
    """What distractors cost, one row a query set, arm and seed, mAP in per cent.

    "lost per tenfold": mAP points, from the line through the curve over the logarithm of their number, from 100 on.
    """
    rows = []
    groups = found[found["setting"] == setting].groupby(["query_set", "method", "seed"], sort=False)
    for (query_set, method, seed), one in groups:
        rising = one.sort_values("distractors")
        some = rising[rising["distractors"] >= FIRST]
        slope = (
            np.polyfit(np.log10(some["distractors"]), some["mAP"], 1)[0]
            if len(some) > 1
            else np.nan
        )
        ends = {"mAP without": rising["mAP"].iloc[0], "mAP among all": rising["mAP"].iloc[-1]}
        traces = {RUNS: run_words(zip(one["seed"], one["run"], strict=True))}
        about = {"query set": query_set, "method": method, "seed": seed}
        rows.append({**about, **ends, "lost per tenfold": -slope, **traces})
    table = traced(rows)
    return table if table["query set"].nunique() > 1 else table.drop(columns="query set")


def half_precision(study: Study, one: Extracted_, setting: str) -> pd.DataFrame:
    """What rows in single and in half precision take, MB, and give, mAP in per cent."""
    rows = one.database[:]
    kept = []
    for kind in (np.float32, np.float16):
        per_query = evaluate_positions(
            study.test, stream_positions(study.test, rows.astype(kind), one.queries)
        )
        value = means(per_query)["mAP"].xs(setting, level="setting").iloc[0]
        kept.append(
            {"precision": np.dtype(kind).name, "MB": rows.astype(kind).nbytes / 1e6, "mAP": value}
        )
    return pd.DataFrame(kept)
