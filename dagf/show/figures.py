"""Plots in one style: a method has one colour everywhere, and each says in words what it shows."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dagf import paths
from dagf.analysis.contrasts import Contrast
from dagf.analysis.tables import keep_table
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import t_interval
from dagf.show.html import record_table as record_table
from dagf.show.html import table as table

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#6b6b6b"
COLOURS = {
    "dagf": RED,
    "gem": BLUE,
    "spoc": SKY,
    "mac": ORANGE,
    "scale-mask": GREEN,
    "scale-mask-spoc": PURPLE,
    "spatial": ORANGE,
    "channel": SKY,
    "attention": PURPLE,
}
VERDICTS = {"right": GREEN, "wrong": RED, "junk": GREY}
STYLE: Any = {  # matplotlib types the keys of rcParams one by one
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 10,
    "svg.hashsalt": "dagf",  # else a plot differs from run to run in its element ids
    "svg.fonttype": "path",
}


def colour(arm: str) -> str:
    """Return the colour of a variant."""
    return COLOURS.get(arm, GREY)


@matplotlib.rc_context(STYLE)  # it decides how a figure is saved, too: salt, font, margin
def show(figure: Figure, alt: str, caption: str, save: str = "") -> HTML:
    """Return the figure for a notebook: an image with a text alternative and a caption.

    Photographs become PNG, line art SVG. `save` names it among the report's figures, too.
    """
    kind = "png" if any(axes.images for axes in figure.axes) else "svg"
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    data = io.BytesIO()
    figure.savefig(data, format=kind, metadata=metadata)
    plt.close(figure)
    if save:
        paths.figure(f"{save}.{kind}").write_bytes(data.getvalue())
    mime = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    source = f"data:{mime};base64,{base64.b64encode(data.getvalue()).decode()}"
    image = f'<img src="{source}" alt="{html.escape(alt)}">'
    return HTML(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")


def kept(
    name: str, frame: pd.DataFrame, title: str, caption: str, digits: int = 1, **more: Any
) -> HTML:
    """Return a table for a notebook, and keep it as a result (`keep_table`)."""
    keep_table(name, frame, title, caption, **more)
    return table(frame, f"{title}. {caption}", digits)


@matplotlib.rc_context(STYLE)
def contact_sheet(pictures: Sequence[NDArray[Any]], columns: int) -> Figure:
    """Show pictures (H, W, 3) side by side."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 1.2, rows * 1.38), squeeze=False)
    for number, ax in enumerate(axes.flat):
        ax.axis("off")
        if number < len(pictures):
            ax.imshow(pictures[number])
    figure.tight_layout(pad=0.3)
    return figure


@matplotlib.rc_context(STYLE)
def training_curves(curves: Mapping[tuple[str, int], pd.DataFrame]) -> Figure:
    """Plot loss and validation mAP against epochs, one line a run; (arm, seed) -> its curves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2))
    named: set[str] = set()
    for (arm, _), curve in curves.items():
        label = None if arm in named else VARIANTS[arm].title
        named.add(arm)
        left.plot(curve["epoch"], curve["loss"], color=colour(arm), label=label, marker=".")
        right.plot(curve["epoch"], curve["validation_mAP"], color=colour(arm), marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="validation mAP (%)")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    figure.tight_layout()
    return figure


@matplotlib.rc_context(STYLE)
def arms_by_setting(results: pd.DataFrame, settings: Sequence[str]) -> Figure:
    """Plot mAP of each arm: a dot a seed, the mean and its t-interval as a bar.

    results: columns arm, seed, setting, mAP.
    """
    arms = list(dict.fromkeys(results["arm"]))
    size = (2.9 * len(settings) + 1, 0.5 * len(arms) + 1.2)
    figure, axes = plt.subplots(1, len(settings), figsize=size, sharey=True, squeeze=False)
    for ax, setting in zip(axes[0], settings, strict=True):
        part = results[results["setting"] == setting]
        for height, arm in enumerate(arms):
            values = part.loc[part["arm"] == arm, "mAP"].to_numpy(float)
            mean, low, high = t_interval(values)
            style: Any = {"color": colour(arm)}
            if np.isfinite(low):
                ax.plot([low, high], [height, height], linewidth=5, alpha=0.3, **style)
            heights = np.full(len(values), height)
            ax.plot(values, heights, "o", markersize=4, alpha=0.7, **style)
            ax.plot(mean, height, "|", markersize=16, markeredgewidth=2.5, **style)
        ax.set(title=setting, xlabel="mAP (%)")
    axes[0][0].set_yticks(range(len(arms)), [VARIANTS[arm].title for arm in arms])
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    return figure


@matplotlib.rc_context({**STYLE, "axes.grid": False})
def heat_maps(table: pd.DataFrame, down: str, along: str, value: str, panel: str) -> Figure:
    """Plot a field a (`down`, `along`) with its value written in it, one panel a value of `panel`.

    All panels have one scale of colours.
    """
    panels = list(dict.fromkeys(table[panel]))
    low, high = table[value].min(), table[value].max()
    size = (4.2 * len(panels), 3.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    scale: Any = {"cmap": "cividis", "vmin": low, "vmax": high}
    for ax, name in zip(axes[0], panels, strict=True):
        part = table[table[panel] == name]
        rows, columns = (list(dict.fromkeys(part[key])) for key in (down, along))
        fields = part.set_index([down, along])[value].unstack().loc[rows, columns].to_numpy()
        picture = ax.pcolormesh(fields, edgecolors="white", linewidth=1, **scale)
        for (y, x), field in np.ndenumerate(fields):
            ink = "w" if field < (low + high) / 2 else "k"
            ax.text(x + 0.5, y + 0.5, f"{field:.1f}", ha="center", va="center", color=ink)
        ax.set(title=name, xlabel=along)
        ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
        ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes[0][0].set_ylabel(down)
    axes[0][0].invert_yaxis()
    figure.colorbar(picture, ax=axes[0].tolist(), label=f"{value} (%)")
    return figure


@matplotlib.rc_context(STYLE)
def gains(contrasts: Sequence[Contrast]) -> Figure:
    """Plot differences by nuisance and bin, with the joint interval.

    The `setting` of a contrast reads 'nuisance: bin'.
    """
    split: dict[str, list[tuple[str, Contrast]]] = {}
    for one in contrasts:
        nuisance, _, label = one.setting.partition(": ")
        split.setdefault(nuisance, []).append((label, one))
    figure, axes = plt.subplots(
        1, len(split), figsize=(3.2 * len(split) + 0.6, 2.8), sharey=True, squeeze=False
    )
    for ax, (name, part) in zip(axes[0], split.items(), strict=True):
        for x, (_, one) in enumerate(part):
            ax.plot([x, x], [one.joint.low, one.joint.high], color=RED, linewidth=3, alpha=0.5)
            ax.plot(x, one.mean, "o", color=RED)
        ax.axhline(0, color="black", linewidth=0.8)
        labels = [label.replace(" minus ", "\n− ") for label, _ in part]
        ax.set_xticks(range(len(part)), labels, fontsize=8)
        ax.set_title(name)
    axes[0][0].set_ylabel("difference (mAP points)")
    figure.tight_layout()
    return figure


def overlay(
    ax: Axes, pixels: NDArray[np.uint8], plane: NDArray[Any] | None, title: str = ""
) -> None:
    """Show a picture, darkened, under a heat map that is scaled to its own range."""
    ax.axis("off")
    ax.set_title(title, fontsize=7, pad=2)
    ax.imshow(pixels)
    if plane is not None:
        extent = (-0.5, pixels.shape[1] - 0.5, pixels.shape[0] - 0.5, -0.5)
        ax.imshow(plane, cmap="magma", alpha=0.6, extent=extent)


def kept_cells(
    ax: Axes, pixels: NDArray[np.uint8], kept: NDArray[np.bool_] | None, window: int, title: str
) -> None:
    """Show a picture, dark where a mask drops cells; a cell stands at the centre of its window."""
    ax.axis("off")
    ax.set_title(title, fontsize=7, pad=2)
    ax.imshow(pixels)
    if kept is None:
        return
    height, width = pixels.shape[:2]
    cell_h, cell_w = height / (kept.shape[0] + window - 1), width / (kept.shape[1] + window - 1)
    margin_h, margin_w = cell_h * (window - 1) / 2, cell_w * (window - 1) / 2
    shade = np.zeros((*kept.shape, 4))
    shade[..., 3] = np.where(kept, 0.0, 0.72)
    extent = (margin_w - 0.5, width - margin_w - 0.5, height - margin_h - 0.5, margin_h - 0.5)
    ax.imshow(shade, extent=extent, interpolation="nearest")
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def frame(ax: Axes, verdict: str) -> None:
    """Frame a picture: right, wrong or junk, in colour and line style."""
    style = {"right": "-", "wrong": "--", "junk": ":"}[verdict]
    box = Rectangle(
        (0, 0), 1, 1, transform=ax.transAxes, fill=False, color=VERDICTS[verdict], lw=3, ls=style
    )
    box.set_clip_on(False)
    ax.add_patch(box)


@matplotlib.rc_context(STYLE)
def distractor_curve(found: pd.DataFrame, settings: Sequence[str]) -> Figure:
    """Plot mAP of the first query set against distractors, a line an arm and seed.

    found: as `dagf.analysis.scale.curve` gives it. No distractors stand at the left end.
    """
    found = found[found["query_set"] == found["query_set"].iloc[0]]
    size = (3.4 * len(settings), 3.2)
    figure, axes = plt.subplots(1, len(settings), figsize=size, sharey=True, squeeze=False)
    for ax, setting in zip(axes[0], settings, strict=True):
        for arm, part in found[found["setting"] == setting].groupby("arm", sort=False):
            lines = part.pivot(index="distractors", columns="seed", values="mAP")
            label = [VARIANTS[str(arm)].title, *[None] * (lines.shape[1] - 1)]
            ax.plot(lines, marker=".", color=colour(str(arm)), label=label)
        ax.set_xscale("symlog", linthresh=100, linscale=0.5)
        ax.set(title=setting, xlabel="distractors")
    axes[0][0].set_ylabel("mAP (%)")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    return figure


@matplotlib.rc_context(STYLE)
def search_costs(costs: pd.DataFrame) -> Figure:
    """Plot seconds and megabytes against rows, exact search and index, on logarithmic axes.

    costs: as `dagf.analysis.scale.search_costs` gives them.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    for ax, unit, label in zip(axes, ("s", "MB"), ("seconds, all queries", "MB"), strict=True):
        for kind, style in (("exact", {"color": BLUE}), ("index", {"color": RED, "ls": "--"})):
            ax.plot(costs["rows"], costs[f"{kind} {unit}"], marker="o", label=kind, **style)
        ax.set(xscale="log", yscale="log", xlabel="rows", ylabel=label)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    return figure
