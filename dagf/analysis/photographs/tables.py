"""The exploratory tables on a folder of photographs: heads on a frozen pre-trained backbone, with and without whitening.

Exploratory, for the trials that led here were read off the test queries. From here on every choice (whitening,
learning rate, which GeM to compare with) is made on the held-out training instances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dagf import paths
from dagf.analysis.contrasts import contrast_words, ranking_words
from dagf.analysis.photographs.against import (
    CHOSEN,
    against_gem,
    difference,
    gems_of,
    head_runs,
    named,
    same,
    sides,
)
from dagf.analysis.photographs.masks import EARLIER, mask_where_it_bites
from dagf.analysis.photographs.reranking import COUNTS, off_the_shelf_reranking, trained_reranking
from dagf.analysis.photographs.sets import fewer, of_role, ready, seen_in, unlabelled
from dagf.analysis.photographs.trials import (
    ALIKE,
    UNTRAINED,
    Method,
    alike,
    gem_candidates,
    off_the_shelf_methods,
    trained_methods,
    trained_study,
    untrained,
)
from dagf.analysis.tables import RUNS, run_words, traced
from dagf.datasets.folder import read_labels
from dagf.datasets.public import place
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import t_interval
from dagf.study.study import Study

OFF_THE_SHELF = (
    "spoc",
    "mac",
    "gem",
    "rmac",
    "crow",
    "windows",
    "mask",
    "scale-mask",
    "scale-mask-spoc",
)
TRAINED = (
    "gem",
    "spatial",
    "channel",
    "attention",
    "scale-mask",
    "dagf",
    "netvlad",
    "solar",
    "se",
    "delf",
)
DIVERSE = ("gem", "attention", "dagf")


def off_the_shelf_ablation(
    study: Study, arms: Sequence[str] = OFF_THE_SHELF
) -> tuple[pd.DataFrame, str]:
    """Untrained descriptors, as they are and whitened: validation and test mAP of each query set.

    Beside them the differences from GeM off the shelf and from the chosen GeM (`gem_candidates`), with their 95 %
    bootstrap intervals over test instances. And in words what is above and below both (`sides`).
    """
    methods = [untrained(method) for pair in off_the_shelf_methods(study, arms) for method in pair]
    rows = [
        {**_row(study, method, gems_of(study)), "method": method.title.removesuffix(UNTRAINED)}
        for method in methods
    ]
    return pd.DataFrame(rows), sides(study, methods)


def trained_ablation(study: Study, arms: Sequence[str] = TRAINED) -> tuple[pd.DataFrame, str]:
    """Swept heads, as they are and whitened: mean over seeds [95 % t-interval] of each query set's mAP.

    The first rows are GeM off the shelf. 'chosen GeM' marks which of {trained, not} x {whitened, not} was best on the
    held-out instances; differences and words as of `shelf_ablation`.
    """
    candidates, chosen = gem_candidates(study)
    heads = [
        method
        for pair in trained_methods(study, [arm for arm in arms if arm != "gem"])
        for method in pair
    ]
    methods, runs = (
        [*(candidates if "gem" in arms else candidates[:2]), *heads],
        head_runs(study, arms),
    )
    rows = [
        _row(study, method, gems_of(study))
        | {CHOSEN: "yes" if method is chosen else "", RUNS: runs.get(method.title, "")}
        for method in methods
    ]
    return traced(rows), sides(study, methods)


def _row(study: Study, method: Method, beside: Mapping[str, Method]) -> dict[str, Any]:
    """A row of the ablations: the method, validation, every query set, and the differences from others."""
    row: dict[str, Any] = {"method": method.title, "whitening": method.whitening}
    row["validation"] = f"{method.validation:.1f}"
    for name, rows in study.test.query_sets.items():
        row[name] = spread(method.points(rows).mean())
    for title, other in beside.items():
        for name, rows in study.test.query_sets.items():
            row[f"{name} − {title}"] = (
                "" if same(method, other) else difference(study, method, other, rows).signed
            )
    return row


def spread(values: "pd.Series[float]") -> str:
    """The mean over seeds [95 % t-interval]; the number alone where all seeds are the same."""
    return f"{values.iloc[0]:.1f}" if values.nunique() <= 1 else str(t_interval(values))


def learning_curve(
    study: Study,
    arms: Sequence[str] = ("gem", "dagf"),
    products: Sequence[int | None] = (3, 6, None),
) -> pd.DataFrame:
    """Heads trained on the first instances only (None: on all), the smaller sets within the larger.

    Mean over seeds [95 % t-interval] of validation and test mAP. 0 instances are GeM off the shelf, and the chosen GeM.
    """
    most = trained_study(study).landmarks
    counts = sorted({most if count is None else min(count, most) for count in products})
    studies = [fewer(study, count) for count in counts]
    ready(studies)
    rows = [{"instances": 0, "images": 0, **row} for row in _gem_rows(study)]
    for count, one in zip(counts, studies, strict=True):
        about = {"instances": count, "images": len(trained_study(one).files)}
        rows += [about | row for row in _heads(one, arms)]
    return pd.DataFrame(rows)


def _gem_rows(study: Study) -> list[dict[str, Any]]:
    """What heads must beat: GeM off the shelf, and the GeM of `gem_candidates` that the held-out instances chose."""
    (plain, *_), chosen = gem_candidates(study)
    rows = []
    for method, title in ((plain, plain.title), (chosen, f"{CHOSEN}: {named(chosen)}")):
        row = _row(study, method, {})
        del row["whitening"]
        rows.append({**row, "method": title})
    return rows


def _heads(study: Study, arms: Sequence[str]) -> list[dict[str, Any]]:
    """A row an arm of a study: validation and test mAP of its swept heads as they are, and its validation trials."""
    runs, table = study.train(arms, heads=True), study.table(arms, heads=True)
    trials = study.trials(arms, heads=True)
    rows = []
    for arm in arms:
        validation = [
            run.record["validation_mAP"] for (name, _), run in runs.items() if name == arm
        ]
        row: dict[str, Any] = {
            "method": VARIANTS[arm].title,
            "validation": spread(pd.Series(validation)),
        }
        part = table[(table["arm"] == arm) & (table["setting"] == study.test.middle.name)]
        row |= {
            name: spread(part[part["query_set"] == name]["mAP"]) for name in study.test.query_sets
        }
        tried = trials[trials["arm"] == arm].set_index("rate")["validation mAP"]
        row["trials"] = "; ".join(f"{rate:g}: {value:.1f}" for rate, value in tried.items())
        rows.append(
            row
            | {RUNS: run_words((seed, run.id) for (name, seed), run in runs.items() if name == arm)}
        )
    return rows


def duplicate_counts(study: Study) -> pd.DataFrame:
    """How many database photographs count as near-duplicates of a query, by threshold and query set."""
    likeness, rows = alike(study.test), []
    positive = np.zeros(likeness.shape, bool)
    for number, query in enumerate(study.test.queries):
        positive[number, query.relevance(study.test.middle)[0]] = True
    for least in ALIKE:
        near = likeness >= least
        for name, asked in study.test.query_sets.items():
            row: dict[str, Any] = {"alike from": least, "query set": name, "queries": len(asked)}
            row["with a near-duplicate"] = int(near[asked].any(1).sum())
            row["positives"] = int(positive[asked].sum())
            row["positives junked"] = int((near & positive)[asked].sum())
            rows.append({**row, "others junked": int((near & ~positive)[asked].sum())})
    return pd.DataFrame(rows)


def near_duplicates(
    study: Study, arms: Sequence[str] = OFF_THE_SHELF, trained: Sequence[str] = ("gem", "dagf")
) -> pd.DataFrame:
    """mAP and P@1 as they are, and with the near-duplicates of a query as junk (`photograph_trials.alike`).

    Off the shelf, and trained (mean over seeds [95 % t-interval]); each also under its chosen whitening.
    """
    found = [untrained(method) for pair in off_the_shelf_methods(study, arms) for method in pair]
    found += (
        [method for pair in trained_methods(study, trained) for method in pair] if trained else []
    )
    _, chosen = gem_candidates(study)
    runs = head_runs(study, trained) if trained else {}
    parts = {"as it is": "test"} | {f"without ≥ {least}": f"test {least}" for least in ALIKE}
    rows = []
    for method in found:
        row = {"method": method.title, "whitening": method.whitening}
        for query_set, asked in study.test.query_sets.items():
            for measure, title in (("AP", "mAP"), ("P@1", "P@1")):
                for name, part in parts.items():
                    row[f"{query_set}, {title} {name}"] = spread(
                        method.points(asked, part, measure).mean()
                    )
        row[CHOSEN] = "yes" if named(method) == named(chosen) else ""
        rows.append(row | {RUNS: runs.get(method.title, "")})
    return traced(rows)


def diversity(
    study: Study,
    folder: Path | None = None,
    arms: Sequence[str] = DIVERSE,
    views: int = 6,
    seeds: int | None = None,
) -> pd.DataFrame:
    """What attention learns from more diverse images: the same heads and budget on other training sets.

    The study's instances, every other training role of `folder` (categories rather than instances), and every training
    photograph as a class of its own, seen in augmented views. (The loss should be contrastive: a classifier of hundreds
    of classes would see each about once.) Mean over seeds (the first `seeds`, by default all) [95 % t-interval] of
    validation (the same held-out instances) and test mAP.
    """
    study = replace(study, profile=replace(study.profile, seeds=study.profile.seeds[:seeds]))
    studies = {"instances": study}
    if folder:
        folder = place(str(folder), paths.data())
        roles = {row.role for row in read_labels(folder) if row.role.startswith("train-")}
        studies |= {
            role.removeprefix("train-"): of_role(study, folder, role) for role in sorted(roles)
        }
    studies["no labels"] = seen_in(
        unlabelled(study, views), min(3, views)
    )  # few, so that many photographs contrast
    ready(list(studies.values()))
    rows = [{"trained on": "–", "images": 0, "classes": 0, **row} for row in _gem_rows(study)]
    for name, one in studies.items():
        data = trained_study(one)
        about = {"trained on": name, "images": len(data.files), "classes": data.landmarks}
        rows += [about | row for row in _heads(one, arms)]
    return pd.DataFrame(rows)


def all_tables(
    study: Study, train_category_folder: Path | None = None, diverse_seeds: int | None = None
) -> dict[str, tuple[str, str, pd.DataFrame]]:
    """Every table of this module: name -> (title, caption, frame), for `dagf.analysis.contrasts.keep_table`.

    train_category_folder: where `diversity` finds further training roles.
    """
    held = study.profile.held_out
    seeds = len(study.profile.seeds)
    choice = f"on {held} held-out training instances, never on the test; so few choose roughly. Intervals: 95 %"
    chosen = f"Exploratory. Whitening, learning rate and epoch are chosen {choice}"
    sample = f"Backbone: {study.backbone.name}, frozen. {ranking_words(study)}"
    over = f"{chosen}, t over {seeds} seeds, and of differences the bootstrap over test instances. {sample}"
    off_the_shelf = f"Exploratory. The whitening is chosen {choice}, the bootstrap over test instances. {sample}"
    gems = (
        "The chosen GeM is the best on the held-out instances of {trained, not} x {whitened, not}."
    )
    counts = f"Neighbours: of {', '.join(map(str, COUNTS))}, as far as the held-out images go, alike for every method"
    tried = "Trials: validation mAP by learning rate, first seed."
    against, outcome = against_gem(study)
    trained, trained_sides = trained_ablation(study)
    untouched, shelf_sides = off_the_shelf_ablation(study)
    words = (
        "Validation: mAP on the held-out instances. Scales: max windows 1, 2, 3; mask: MAX-Mask. What is whitened, "
        "minus GeM off the shelf, has the effect of the whitening in it."
    )
    tables = {
        "shelf-ablation": (
            "Descriptors off the shelf, as they are and whitened",
            f"{shelf_sides} {off_the_shelf} {gems} {words} Nothing is trained here but the whitening, so there are no seeds.",
            untouched,
        ),
        "trained-ablation": (
            "Heads trained on the frozen backbone, as they are and whitened",
            f"{trained_sides} {over} {gems} {words}",
            trained,
        ),
        "against-gem": (
            "DAGF against the chosen GeM and against GeM off the shelf",
            f"{outcome} {chosen}. {sample} {gems} {contrast_words(study)}",
            against,
        ),
        "learning-curve": (
            "How many instances the heads were trained on",
            f"{over} {gems} {tried}",
            learning_curve(study),
        ),
        "duplicate-counts": (
            "How many photographs are near-duplicates of a query",
            "Alike: the correlation of grey thumbnails, the largest over small shifts; no descriptor plays a part.",
            duplicate_counts(study),
        ),
        "near-duplicates": (
            "With the near-duplicates of a query as junk",
            f"{over} {gems} Both thresholds, set by eye on the photographs, are shown.",
            near_duplicates(study),
        ),
        "diversity": (
            "What the heads were trained on",
            f"{over} {gems} {tried} All under {study.plan(heads=True).training.loss}.",
            diversity(study, train_category_folder, seeds=diverse_seeds),
        ),
        "reranking": (
            "Re-ranking of descriptors off the shelf, as they are and whitened",
            f"{off_the_shelf} {counts}, chosen on the same instances; all else as published.",
            off_the_shelf_reranking(study),
        ),
        "reranking-trained": (
            "Re-ranking of trained heads, as they are and whitened",
            f"{over} {counts}, chosen on the same instances; all else as published.",
            trained_reranking(study),
        ),
    }
    if study.backbone.name in EARLIER:
        tables["masks-earlier-cut"] = (
            "Windows and masks where the MAX-Mask drops cells",
            "Exploratory. Untrained, nothing chosen, one backbone; a random mask is the mean of 10 draws. Differences are "
            "those of the MAX-Mask under GeM, first query set, with the 95 % bootstrap interval over test instances. "
            f"{ranking_words(study)}",
            mask_where_it_bites(study, EARLIER[study.backbone.name]),
        )
    return tables
