"""Looking at a benchmark and at what a network finds in it: static grids, framed by right, wrong and junk."""

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
from dagf.datasets.benchmark import Benchmark, Query
from dagf.datasets.images import load_image, to_input
from dagf.datasets.toytown import toytown_records
from dagf.devices import on_device
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import similarities
from dagf.show.figures import BLUE, STYLE, contact_sheet, frame, kept_cells, overlay
from dagf.study.runs import Run
from dagf.study.study import Key, Study
from dagf.toytown.scene import STREAMS, photograph

VERDICT = {"easy": "right", "hard": "right", "ok": "right", "junk": "junk"}


def counts(study: Study) -> pd.DataFrame:
    """What the study is made of: one row a part, with images and landmarks (or instances)."""
    rows: list[dict[str, Any]] = []
    if study.training:
        kept = study.training.validation
        rows.append(
            {
                "part": "training",
                "images": len(study.training.files),
                "landmarks": study.training.landmarks,
            }
        )
        rows.append({"part": "validation: queries", "images": len(kept.queries)})
        rows.append({"part": "validation: database", "images": len(kept.database)})
        rows.append({"part": "validation: distractors", "images": len(kept.distractors)})
    for name, members in study.test.query_sets.items():
        rows.append({"part": f"test: {name}", "images": len(members)})
    rows.append({"part": "test: database", "images": len(study.test.database)})
    rows.append({"part": "test: distractors", "images": len(study.test.distractors)})
    return (
        pd.DataFrame(rows).astype({"landmarks": "Int64"}) if study.training else pd.DataFrame(rows)
    )


def label_counts(benchmark: Benchmark) -> pd.DataFrame:
    """Positives, junk and queries that count, under each setting of the benchmark."""
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
    """The label of a database row for a query: 'easy', 'hard', 'ok', 'junk', or '' for a negative."""
    return next((name for name, rows in query.labels.items() if row in rows), "")


def found(query: Query, rows: NDArray[np.int64]) -> int:
    """How many of some database rows are right for a query."""
    return sum(VERDICT.get(label_of(query, int(row))) == "right" for row in rows)


def tour(study: Study, queries: int = 4, each: int = 2) -> Figure:
    """Some queries with their boxes, each with database images of every label it has, and with distractors."""
    test = study.test
    labels = [
        name
        for name in ("easy", "hard", "ok", "junk")
        if any(name in q.labels for q in test.queries)
    ]
    columns = 1 + each * len(labels) + each
    chosen = (
        np.linspace(0, len(test.queries) - 1, min(queries, len(test.queries))).round().astype(int)
    )
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(chosen), columns, figsize=(1.15 * columns, 1.3 * len(chosen)), squeeze=False
        )
        for line, number in zip(axes, chosen, strict=True):
            query = test.queries[number]
            _picture(line[0], test.root / query.file, "query")
            if query.box:
                x1, y1, x2, y2 = query.box
                line[0].add_patch(
                    Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="#f0e442", lw=1.5)
                )
            shown = [
                (name, row)
                for name in labels
                for row in _first(query.labels.get(name, np.empty(0)), each)
            ]
            for ax, (name, row) in zip(line[1:], shown, strict=False):
                if row is not None:
                    _picture(ax, test.root / test.database[row], name)
            for place in range(each):
                distractor = number * each + place
                if distractor < len(test.distractors):
                    _picture(
                        line[1 + each * len(labels) + place],
                        test.distractors[distractor],
                        "distractor",
                    )
            for ax in line:
                ax.axis("off")
        figure.tight_layout(pad=0.3)
    return figure


def _first(rows: NDArray[Any], count: int) -> list[int | None]:
    return [int(rows[place]) if place < len(rows) else None for place in range(count)]


def _picture(ax: Axes, file: Path, title: str, pad: float = 2) -> None:
    ax.imshow(load_image(file).permute(1, 2, 0).numpy())
    ax.set_title(title, fontsize=7, pad=pad)


def nuisances(root: Path) -> Figure:
    """How Toytown's nuisances are spread over the test database: scale, visible fraction, clutter, view."""
    records = toytown_records(root, "test")
    database = records[records["role"] == "database"]
    shown = {
        "scale": "landmark's share of the image",
        "visible": "visible fraction of the landmark",
        "clutter": "share of the image that is clutter",
        "azimuth": "view angle (degrees)",
    }
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(shown), figsize=(11, 2.4), sharey=True)
        for ax, (column, label) in zip(axes, shown.items(), strict=True):
            ax.hist(database[column], bins=24, color=BLUE)
            ax.set_xlabel(label)
        axes[0].set_ylabel("images")
        figure.tight_layout()
    return figure


def with_and_without(study: Study, landmarks: int = 9) -> Figure:
    """Toytown's first test landmarks with its nuisances, and below them the same landmarks in the control version."""
    spec = study.profile.drawing
    shown = range(min(landmarks, spec.test_landmarks))
    pictures = [
        photograph(spec.seed, STREAMS["test"], landmark, 1, spec.size, nuisances=nuisances).image
        for nuisances in (True, False)
        for landmark in shown
    ]
    return contact_sheet(pictures, columns=len(shown))


def ranking(
    study: Study, of: Run | Key, queries: list[int], top: int = 6
) -> tuple[Figure, NDArray[np.float32], NDArray[np.int64]]:
    """The first results of some queries as a grid, framed by right, wrong and junk.

    Returns the figure, the scores (queries, rows) of all test queries, and the rows shown (len(queries), top).
    """
    test = study.test
    rows, asked = study.descriptors(of)
    scores = similarities(rows[:], asked)
    top = min(top, scores.shape[1])
    order = np.argsort(-scores[queries], axis=1, kind="stable")[:, :top]
    files = test.database_paths
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(queries), top + 1, figsize=(1.2 * (top + 1), 1.4 * len(queries)), squeeze=False
        )
        for line, number, rows in zip(axes, queries, order, strict=True):
            query = test.queries[number]
            line[0].imshow(
                load_image(test.root / query.file, box=query.box).permute(1, 2, 0).numpy()
            )
            line[0].set_title("query (its crop)", fontsize=7, pad=5)
            for ax, row in zip(line[1:], rows, strict=True):
                _picture(ax, files[row], f"{scores[number, row]:.2f}", pad=5)
                frame(ax, VERDICT.get(label_of(query, int(row)), "wrong"))
            for ax in line:
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(False)
                ax.spines[:].set_visible(False)
        figure.tight_layout(pad=0.5)
    return figure, scores, order


def explained(
    study: Study, net: RetrievalNet, query: int, scores: NDArray[np.float32], rows: list[int]
) -> Figure:
    """A query and some of its results, line by line: picture, attention, effective weight, kept cells, Grad-CAM.

    The Grad-CAM target is contrastive. For a result: like the query, and not like the best-scoring negative; for
    the query: like its first result, and not like that negative.
    """
    test, spec = study.test, study.profile.evaluation_image
    asked = test.queries[query]
    files = test.database_paths
    first = look(net, test.root / asked.file, spec, asked.box)
    results = [look(net, files[row], spec) for row in rows]
    wrong = next(
        (int(row) for row in np.argsort(-scores[query]) if not label_of(asked, int(row))), None
    )
    negative = (
        np.zeros_like(first.descriptor)
        if wrong is None
        else look(net, files[wrong], spec).descriptor
    )

    def against(positive: NDArray[np.float32], row: int) -> CamTarget:
        """The negative itself has nothing to be told apart from: its target is the plain similarity."""
        return CamTarget(positive, negative if row != wrong else np.zeros_like(negative))

    lines: list[tuple[str, Look, NDArray[np.float32]]] = [
        (
            "query",
            first,
            grad_cam(
                net,
                test.root / asked.file,
                spec,
                against(results[0].descriptor, rows[0]),
                asked.box,
            ),
        )
    ]
    for row, seen in zip(rows, results, strict=True):
        label = label_of(asked, row) or "wrong"
        plane = grad_cam(net, files[row], spec, against(first.descriptor, row))
        lines.append((f"{label}, {scores[query, row]:.2f}", seen, plane))
    windows = net.head.scale_and_mask.filters.windows
    with matplotlib.rc_context(STYLE):
        columns = 4 + len(windows)
        figure, axes = plt.subplots(
            len(lines), columns, figsize=(1.3 * columns, 1.45 * len(lines)), squeeze=False
        )
        for line, (name, seen, cam) in zip(axes, lines, strict=True):
            overlay(line[0], seen.pixels, None, name)
            overlay(
                line[1],
                seen.pixels,
                seen.attention,
                "attention a" if seen.attention is not None else "no attention",
            )
            overlay(line[2], seen.pixels, seen.effective, "effective a·|f|")
            for ax, window, kept, share in zip(
                line[3:], windows, seen.kept, seen.kept_fraction, strict=False
            ):
                kept_cells(ax, seen.pixels, kept, window, f"kept, {window}×{window}: {share:.0%}")
            overlay(line[-1], seen.pixels, cam, "Grad-CAM")
        figure.tight_layout(pad=0.3)
    return figure


def kept_examples(study: Study, arm: str, pictures: int = 6) -> Figure:
    """Database images of evenly spaced queries, each with the cells that the mask of an untrained `arm` keeps."""
    net, test = study.untrained(arm), study.test
    right = [rows for query in test.queries if len(rows := query.relevance(test.settings[-1])[0])]
    chosen = [
        right[int(n)][0] for n in np.linspace(0, len(right) - 1, min(pictures, len(right))).round()
    ]
    windows = net.head.scale_and_mask.filters.windows
    with matplotlib.rc_context(STYLE):
        columns, lines = 2 * (1 + len(windows)), -(-len(chosen) // 2)
        figure, axes = plt.subplots(
            lines, columns, figsize=(1.25 * columns, 1.4 * lines), squeeze=False
        )
        places = axes.reshape(2 * lines, 1 + len(windows))
        for ax in axes.flat:
            ax.axis("off")
        for line, row in zip(places, chosen, strict=False):
            seen = look(net, test.root / test.database[row], study.profile.evaluation_image)
            overlay(line[0], seen.pixels, None)
            for ax, window, kept, share in zip(
                line[1:], windows, seen.kept, seen.kept_fraction, strict=True
            ):
                kept_cells(ax, seen.pixels, kept, window, f"{window}×{window}: {share:.0%}")
        figure.tight_layout(pad=0.3)
    return figure


def kept_fractions(net: RetrievalNet, files: list[Path], study: Study) -> pd.DataFrame:
    """The mean share of cells that the mask keeps over some images, for each window."""
    shares = np.array(
        [
            look(net, file, study.profile.evaluation_image).kept_fraction
            for file in progress(files, "cells")
        ]
    )
    windows = net.head.scale_and_mask.filters.windows
    return pd.DataFrame(
        {
            "window": [f"{k} × {k}" for k in windows],
            "kept cells, mean (%)": 100 * shares.mean(0),
            "least (%)": 100 * shares.min(0),
            "most (%)": 100 * shares.max(0),
        }
    )


LOCALISED = ("region evaluator", "effective weight", "MAX-Mask cells", "Grad-CAM", "feature norm")


def against_masks(study: Study, net: RetrievalNet, files: Sequence[str]) -> Figure:
    """Show test database images line by line: the landmark's outline, and maps with their AUC."""
    net, columns = on_device(net), 2 + len(LOCALISED)
    targets, spec = cam_targets(study, net), study.profile.evaluation_image
    with matplotlib.rc_context(STYLE):
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
