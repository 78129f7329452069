"""What a benchmark looks like, and what a network finds in it: static grids of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dagf.analysis.cam import CamTarget, Look, cams, look
from dagf.analysis.localise import cam_targets, landmark_mask, maps_of, pixel_auc
from dagf.datasets.benchmark import Query, Setting
from dagf.datasets.decode import Box
from dagf.datasets.images import load_image, to_input
from dagf.devices import on_device
from dagf.model.network import RetrievalNet
from dagf.retrieval.search import similarities
from dagf.show.figures import VERDICTS, styled
from dagf.show.pictures import Pixels, boxed, heated, kept_cells, outlined
from dagf.study.runs import Head
from dagf.study.study import Study

EDGES = {"right": "-", "wrong": "--", "junk": ":"}  # of a frame, beside its colour
LOCALISED = ("region evaluator", "effective weight", "MAX-Mask cells", "Grad-CAM", "feature norm")


class Tile(NamedTuple):
    """A picture (H, W, 3) of a grid: its title, and the verdict that frames it ('' for none)."""

    pixels: Pixels
    title: str = ""
    verdict: str = ""


@styled
def grid(lines: Sequence[Sequence[Tile | None]]) -> Figure:
    """Show lines of pictures; None leaves a gap."""
    columns = max(map(len, lines))
    size = (1.25 * columns, 1.45 * len(lines))
    figure, axes = plt.subplots(len(lines), columns, figsize=size, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for line, tiles in zip(axes, lines, strict=True):
        for ax, tile in zip(line, tiles, strict=False):
            if tile:
                ax.imshow(tile.pixels)
                ax.set_title(tile.title, fontsize=7, pad=2)
            if tile and tile.verdict:
                style: Any = {"edgecolor": VERDICTS[tile.verdict], "ls": EDGES[tile.verdict]}
                box = Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, lw=3, **style)
                ax.add_patch(box).set_clip_on(False)
    return figure


def _read(file: Path, box: Box | None = None) -> Pixels:
    return load_image(file, box=box).permute(1, 2, 0).numpy()


def label_of(query: Query, row: int) -> str:
    """Return the label of a database row for a query: 'easy', 'hard', 'ok', 'junk', or ''."""
    return next((name for name, rows in query.labels.items() if row in rows), "")


def verdict(query: Query, row: int, setting: Setting) -> str:
    """Return what a database row is for a query under a setting: 'right', 'wrong' or 'junk'."""
    label = label_of(query, row)
    return "right" if label in setting.positive else "junk" if label in setting.junk else "wrong"


def tour(study: Study) -> Figure:
    """Show four queries with their boxes, two database images of every label, and distractors."""
    test, lines = study.test, list[list[Tile | None]]()
    labels = dict.fromkeys(name for query in test.queries for name in query.labels)
    chosen = np.linspace(0, len(test.queries) - 1, min(4, len(test.queries))).round().astype(int)
    for number in chosen.tolist():
        query = test.queries[number]
        pixels = _read(test.root / query.file)
        line: list[Tile | None] = [Tile(boxed(pixels, query.box) if query.box else pixels, "query")]
        shown = {
            name: [test.root / test.database[row] for row in query.labels.get(name, ())[:2]]
            for name in labels
        }
        shown["distractor"] = list(test.distractors[2 * number : 2 * number + 2])
        for name, files in shown.items():
            tiles = [Tile(_read(file), name) for file in files]
            line += [*tiles, *[None] * (2 - len(tiles))]
        lines.append(line)
    return grid(lines)


def ranking(
    study: Study, of: Head, queries: list[int]
) -> tuple[Figure, NDArray[np.float32], NDArray[np.int64]]:
    """Show the first six results of some queries, framed by right, wrong and junk.

    Returns the figure, the scores (queries, rows) of all test queries, and the rows shown
    (len(queries), 6).
    """
    test = study.test
    rows, descriptors = study.descriptors(of)
    scores = similarities(rows[:], descriptors)
    order = np.argsort(-scores[queries], axis=1, kind="stable")[:, :6]
    lines = []
    for number, shown in zip(queries, order.tolist(), strict=True):
        query = test.queries[number]
        line = [Tile(_read(test.root / query.file, query.box), "query (its crop)")]
        for row in shown:
            score, framed = f"{scores[number, row]:.2f}", verdict(query, row, test.middle)
            line.append(Tile(_read(test.database_paths[row]), score, framed))
        lines.append(line)
    return grid(lines), scores, order


def explained(
    study: Study, net: RetrievalNet, query: int, scores: NDArray[np.float32], rows: list[int]
) -> Figure:
    """Show a query and some of its results: attention, effective weight, kept cells, Grad-CAM.

    The Grad-CAM target is contrastive. For a result: like the query, and not like the best-scoring
    negative; for the query: like its first result, and not like that negative.
    """
    test, spec, files = study.test, study.profile.evaluation.image, study.test.database_paths
    asked = test.queries[query]
    shown = [(test.root / asked.file, asked.box, "query")]
    for row in rows:
        name = f"{label_of(asked, row) or 'wrong'}, {scores[query, row]:.2f}"
        shown.append((files[row], None, name))
    looks = [look(net, file, spec, box) for file, box, _ in shown]
    order = np.argsort(-scores[query]).tolist()
    wrong = next((row for row in order if not label_of(asked, row)), None)
    nothing = np.zeros_like(looks[0].descriptor)
    negative = nothing if wrong is None else look(net, files[wrong], spec).descriptor
    lines: list[list[Tile | None]] = []
    for number, ((*_, name), seen) in enumerate(zip(shown, looks, strict=True)):
        like = looks[0 if number else 1].descriptor
        row = rows[max(0, number - 1)]  # the negative itself has nothing to be told apart from
        target = CamTarget(like, nothing if row == wrong else negative)
        attention = Tile(seen.pixels, "no attention")
        if seen.attention is not None:
            attention = Tile(heated(seen.pixels, seen.attention), "attention a")
        effective = Tile(heated(seen.pixels, seen.effective), "effective a·|f|")
        plane = cams(net, seen.features, [target])["Grad-CAM"][0]
        cam = Tile(heated(seen.pixels, plane), "Grad-CAM")
        lines.append([Tile(seen.pixels, name), attention, effective, *_kept(net, seen), cam])
    return grid(lines)


def _kept(net: RetrievalNet, seen: Look) -> list[Tile]:
    windows = net.head.scale_and_mask.filters.windows
    tiles = []
    for window, kept, share in zip(windows, seen.kept, seen.kept_fraction, strict=True):
        pixels = seen.pixels if kept is None else kept_cells(seen.pixels, kept, window)
        tiles.append(Tile(pixels, f"{window}×{window} keeps {share:.0%}"))
    return tiles


def kept_examples(study: Study, arm: str) -> Figure:
    """Show images of six queries, two a line, with the cells that an untrained arm's mask keeps."""
    net, test, spec = study.untrained(arm).network(), study.test, study.profile.evaluation.image
    right = [rows for query in test.queries if len(rows := query.relevance(test.settings[-1])[0])]
    numbers = np.linspace(0, len(right) - 1, min(6, len(right))).round().astype(int)
    files = [test.root / test.database[right[number][0]] for number in numbers]
    lines: list[list[Tile]] = [[] for _ in files[::2]]
    for number, file in enumerate(files):
        seen = look(net, file, spec)
        lines[number // 2] += [Tile(seen.pixels), *_kept(net, seen)]
    return grid(lines)


def against_masks(study: Study, of: Head, files: Sequence[str]) -> Figure:
    """Show test database images line by line: the landmark's outline, and maps with their AUC."""
    net, spec = on_device(of.network()), study.profile.evaluation.image
    targets, lines = cam_targets(study, of), []
    for file in files:
        number = study.test.database.index(file)
        image = load_image(study.test.root / file, spec)[None]
        mask = landmark_mask(study.test.root / file, image)
        maps = maps_of(net, to_input(image), [targets[number]], [number])
        pixels = image[0].permute(1, 2, 0).numpy()
        line = [Tile(pixels, Path(file).stem)]
        line.append(Tile(outlined(pixels, mask), f"landmark, {mask.mean():.0%}"))
        for name in LOCALISED:
            plane = maps[name][0] if name in maps else None
            score = "none" if plane is None else f"AUC {pixel_auc(plane, mask):.0%}"
            shown = pixels if plane is None else heated(pixels, plane)
            line.append(Tile(shown, f"{name}\n{score}"))
        lines.append(line)
    return grid(lines)
