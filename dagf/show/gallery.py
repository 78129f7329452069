"""What a benchmark looks like, and what a network finds in it: static grids of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dagf.analysis.cam import CamTarget, Look, grad_cam, look
from dagf.analysis.localise import cam_targets, landmark_mask, maps_of, pixel_auc
from dagf.console import progress
from dagf.datasets.benchmark import Benchmark, Box, Query
from dagf.datasets.images import load_image, to_input
from dagf.datasets.toytown import toytown_records
from dagf.devices import on_device
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import similarities
from dagf.show.figures import BLUE, STYLE, contact_sheet, frame, kept_cells, overlay
from dagf.study.runs import Head
from dagf.study.study import Study
from dagf.toytown.scene import STREAMS, photograph

VERDICT = {"easy": "right", "hard": "right", "ok": "right", "junk": "junk"}


def counts(study: Study) -> pd.DataFrame:
    """Return what the study is made of: one row a part, with images and landmarks (instances)."""
    training, test = study.training, study.test
    parts: dict[str, Sequence[Any]] = {}
    if training:
        kept = training.validation
        parts |= {"training": training.files, "validation: queries": kept.queries}
        parts |= {"validation: database": kept.database}
        parts |= {"validation: distractors": kept.distractors}
    parts |= {f"test: {name}": members for name, members in test.query_sets.items()}
    parts |= {"test: database": test.database, "test: distractors": test.distractors}
    table = pd.DataFrame({"part": [*parts], "images": [len(part) for part in parts.values()]})
    if training:
        landmarks = [training.landmarks, *[None] * (len(table) - 1)]
        table["landmarks"] = pd.array(landmarks, dtype="Int64")
    return table


def label_counts(benchmark: Benchmark) -> pd.DataFrame:
    """Return positives, junk and queries that count, under each setting of the benchmark."""
    rows = []
    for setting in benchmark.settings:
        relevance = [query.relevance(setting) for query in benchmark.queries]
        found = [len(positive) for positive, _ in relevance]
        rows.append(
            {
                "setting": setting.name,
                "positive labels": " + ".join(setting.positive),
                "junk labels": " + ".join(setting.junk),
                "queries that count": sum(number > 0 for number in found),
                "positives": sum(found),
                "junk": sum(len(junk) for _, junk in relevance),
            }
        )
    return pd.DataFrame(rows)


def label_of(query: Query, row: int) -> str:
    """Return the label of a database row for a query: 'easy', 'hard', 'ok', 'junk', or ''."""
    return next((name for name, rows in query.labels.items() if row in rows), "")


def found(query: Query, rows: NDArray[np.int64]) -> int:
    """Return how many of some database rows are right for a query."""
    return sum(VERDICT.get(label_of(query, int(row))) == "right" for row in rows)


@matplotlib.rc_context(STYLE)
def tour(study: Study, queries: int = 4, each: int = 2) -> Figure:
    """Show some queries with their boxes, database images of every label, and distractors."""
    test = study.test
    labels = [name for name in VERDICT if any(name in query.labels for query in test.queries)]
    columns = 1 + each * (len(labels) + 1)
    count = min(queries, len(test.queries))
    chosen = np.linspace(0, len(test.queries) - 1, count).round().astype(int)
    size = (1.15 * columns, 1.3 * count)
    figure, axes = plt.subplots(count, columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for line, number in zip(axes, chosen, strict=True):
        query = test.queries[number]
        _picture(line[0], test.root / query.file, "query")
        if query.box:
            x1, y1, x2, y2 = query.box
            line[0].add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="#f0e442", lw=1.5)
            )
        for place, name in enumerate(labels):
            first = 1 + each * place
            for ax, row in zip(
                line[first : first + each], query.labels.get(name, ()), strict=False
            ):
                _picture(ax, test.root / test.database[row], name)
        others = test.distractors[number * each : (number + 1) * each]
        for ax, file in zip(line[-each:], others, strict=False):
            _picture(ax, file, "distractor")
    figure.tight_layout(pad=0.3)
    return figure


def _picture(ax: Axes, file: Path, title: str, box: Box | None = None) -> None:
    ax.imshow(load_image(file, box=box).permute(1, 2, 0).numpy())
    ax.set_title(title, fontsize=7, pad=2)


@matplotlib.rc_context(STYLE)
def nuisances(root: Path) -> Figure:
    """Plot how Toytown's nuisances are spread over the test database."""
    records = toytown_records(root, "test")
    database = records[records["role"] == "database"]
    shown = {
        "scale": "landmark's share of the image",
        "visible": "visible fraction of the landmark",
        "clutter": "share of the image that is clutter",
        "azimuth": "view angle (degrees)",
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(11, 2.4), sharey=True)
    for ax, (column, label) in zip(axes, shown.items(), strict=True):
        ax.hist(database[column], bins=24, color=BLUE)
        ax.set_xlabel(label)
    axes[0].set_ylabel("images")
    figure.tight_layout()
    return figure


def with_and_without(study: Study, landmarks: int = 9) -> Figure:
    """Show Toytown's first test landmarks, and below them the same ones in the control version."""
    spec = study.profile.drawing
    shown = range(min(landmarks, spec.test_landmarks))
    pictures = [
        photograph(spec.seed, STREAMS["test"], landmark, 1, spec.size, nuisances=nuisances).image
        for nuisances in (True, False)
        for landmark in shown
    ]
    return contact_sheet(pictures, columns=len(shown))


@matplotlib.rc_context(STYLE)
def ranking(
    study: Study, of: Head, queries: list[int], top: int = 6
) -> tuple[Figure, NDArray[np.float32], NDArray[np.int64]]:
    """Show the first results of some queries as a grid, framed by right, wrong and junk.

    Returns the figure, the scores (queries, rows) of all test queries, and the rows shown
    (len(queries), top).
    """
    test = study.test
    rows, descriptors = study.descriptors(of)
    scores = similarities(rows[:], descriptors)
    top = min(top, scores.shape[1])
    order = np.argsort(-scores[queries], axis=1, kind="stable")[:, :top]
    size = (1.2 * (top + 1), 1.4 * len(queries))
    figure, axes = plt.subplots(len(queries), top + 1, figsize=size, squeeze=False)
    for line, number, shown in zip(axes, queries, order, strict=True):
        query = test.queries[number]
        _picture(line[0], test.root / query.file, "query (its crop)", query.box)
        for ax, row in zip(line[1:], shown, strict=True):
            _picture(ax, test.database_paths[row], f"{scores[number, row]:.2f}")
            frame(ax, VERDICT.get(label_of(query, int(row)), "wrong"))
    for ax in axes.flat:
        ax.axis("off")
    figure.tight_layout(pad=0.5)
    return figure, scores, order


@matplotlib.rc_context(STYLE)
def explained(
    study: Study, net: RetrievalNet, query: int, scores: NDArray[np.float32], rows: list[int]
) -> Figure:
    """Show a query and some of its results: attention, effective weight, kept cells, Grad-CAM.

    The Grad-CAM target is contrastive. For a result: like the query, and not like the best-scoring
    negative; for the query: like its first result, and not like that negative.
    """
    test, spec, files = study.test, study.profile.evaluation_image, study.test.database_paths
    shown = test.queries[query]
    file = test.root / shown.file
    first = look(net, file, spec, shown.box)
    results = [look(net, files[row], spec) for row in rows]
    order = np.argsort(-scores[query]).tolist()
    wrong = next((row for row in order if not label_of(shown, row)), None)
    nothing = np.zeros_like(first.descriptor)
    negative = nothing if wrong is None else look(net, files[wrong], spec).descriptor

    def against(positive: NDArray[np.float32], row: int) -> CamTarget:
        """Return the target; the negative itself has nothing to be told apart from."""
        return CamTarget(positive, nothing if row == wrong else negative)

    plane = grad_cam(net, file, spec, against(results[0].descriptor, rows[0]), shown.box)
    lines = [("query", first, plane)]
    for row, seen in zip(rows, results, strict=True):
        plane = grad_cam(net, files[row], spec, against(first.descriptor, row))
        lines.append((f"{label_of(shown, row) or 'wrong'}, {scores[query, row]:.2f}", seen, plane))
    columns = 4 + len(first.kept)
    size = (1.3 * columns, 1.45 * len(lines))
    figure, axes = plt.subplots(len(lines), columns, figsize=size, squeeze=False)
    for line, (name, seen, cam) in zip(axes, lines, strict=True):
        overlay(line[0], seen.pixels, None, name)
        words = "no attention" if seen.attention is None else "attention a"
        overlay(line[1], seen.pixels, seen.attention, words)
        overlay(line[2], seen.pixels, seen.effective, "effective a·|f|")
        _kept(line[3:-1], net, seen, "kept, ")
        overlay(line[-1], seen.pixels, cam, "Grad-CAM")
    figure.tight_layout(pad=0.3)
    return figure


def _kept(line: Sequence[Axes], net: RetrievalNet, seen: Look, prefix: str = "") -> None:
    """Show the kept cells of each window."""
    windows = net.head.scale_and_mask.filters.windows
    for ax, k, kept, share in zip(line, windows, seen.kept, seen.kept_fraction, strict=True):
        kept_cells(ax, seen.pixels, kept, k, f"{prefix}{k}×{k}: {share:.0%}")


@matplotlib.rc_context(STYLE)
def kept_examples(study: Study, arm: str, pictures: int = 6) -> Figure:
    """Show images of evenly spaced queries, with the cells that an untrained arm's mask keeps."""
    net, test = study.untrained(arm).network(), study.test
    right = [rows for query in test.queries if len(rows := query.relevance(test.settings[-1])[0])]
    numbers = np.linspace(0, len(right) - 1, min(pictures, len(right))).round().astype(int)
    columns, lines = 1 + len(net.head.scale_and_mask.filters.windows), -(-len(numbers) // 2)
    size = (1.25 * 2 * columns, 1.4 * lines)
    figure, axes = plt.subplots(lines, 2 * columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for line, number in zip(axes.reshape(2 * lines, columns), numbers, strict=False):
        file = test.root / test.database[right[number][0]]
        seen = look(net, file, study.profile.evaluation_image)
        overlay(line[0], seen.pixels, None)
        _kept(list(line[1:]), net, seen)
    figure.tight_layout(pad=0.3)
    return figure


def kept_fractions(net: RetrievalNet, files: list[Path], study: Study) -> pd.DataFrame:
    """Return the mean share of cells that the mask keeps over some images, for each window."""
    spec = study.profile.evaluation_image
    shares = [look(net, file, spec).kept_fraction for file in progress(files, "cells")]
    per_window = 100 * np.array(shares)
    return pd.DataFrame(
        {
            "window": [f"{k} × {k}" for k in net.head.scale_and_mask.filters.windows],
            "kept cells, mean (%)": per_window.mean(0),
            "least (%)": per_window.min(0),
            "most (%)": per_window.max(0),
        }
    )


LOCALISED = ("region evaluator", "effective weight", "MAX-Mask cells", "Grad-CAM", "feature norm")


@matplotlib.rc_context(STYLE)
def against_masks(study: Study, net: RetrievalNet, files: Sequence[str]) -> Figure:
    """Show test database images line by line: the landmark's outline, and maps with their AUC."""
    net, columns = on_device(net), 2 + len(LOCALISED)
    targets, spec = cam_targets(study, net), study.profile.evaluation_image
    size = (1.45 * columns, 1.8 * len(files))
    figure, axes = plt.subplots(len(files), columns, figsize=size, squeeze=False)
    for file, line in zip(files, axes, strict=True):
        number = study.test.database.index(file)
        image = load_image(study.test.root / file, spec)[None]
        mask = landmark_mask(study, file, image)
        maps = maps_of(net, to_input(image), [targets[number]], [number])
        pixels = image[0].permute(1, 2, 0).numpy()
        overlay(line[0], pixels, None, Path(file).stem)
        overlay(line[1], pixels, None, f"landmark, {mask.mean():.0%}")
        if mask.any() and not mask.all():
            line[1].contour(mask, levels=[0.5], colors="#f0e442", linewidths=1)
        for ax, name in zip(line[2:], LOCALISED, strict=True):
            plane = maps[name][0] if name in maps else None
            score = "none" if plane is None else f"AUC {pixel_auc(plane, mask):.0%}"
            overlay(ax, pixels, plane, f"{name}\n{score}")
    figure.tight_layout(pad=0.3)
    net.cpu()
    return figure
