"""Plots in one style: a method has one colour everywhere, and each says in words what it shows."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dagf import paths
from dagf.analysis.contrasts import Contrast
from dagf.analysis.room import GAIN, ROOM
from dagf.analysis.tables import keep_table
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, t_interval
from dagf.show.html import image, table

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
    "exact": BLUE,
    "index": RED,
}
VERDICTS = {"right": GREEN, "wrong": RED, "junk": GREY}
STYLE: Any = {  # matplotlib types the keys of rcParams one by one
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
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


# Whatever a matplotlibrc says, be it in the folder of the notebooks: for what a notebook draws
# itself, too.
matplotlib.rcdefaults()
plt.rcParams.update(STYLE)
# Likewise, whatever was set since: a decorator of all that draws or saves a figure here.
styled = plt.style.context(["default", STYLE])


@styled
def show(figure: Figure, alt: str, caption: str, save: str = "") -> HTML:
    """Return the figure for a notebook: an image with a text alternative and a caption.

    Photographs become PNG, line art SVG. `save` names it among the report's figures, too.
    """
    kind = "png" if any(axes.images for axes in figure.axes) else "svg"
    data = io.BytesIO()
    figure.savefig(data, format=kind, metadata={"Date" if kind == "svg" else "Software": None})
    plt.close(figure)
    if save:
        paths.result("figures", f"{save}.{kind}").write_bytes(data.getvalue())
    return image(data.getvalue(), kind, alt, caption)


def kept(
    name: str, frame: pd.DataFrame, title: str, caption: str, digits: int = 1, **more: Any
) -> HTML:
    """Return a table for a notebook, and keep it as a result (`keep_table`).

    Contrasts come with a sentence that counts their verdicts.
    """
    keep_table(name, frame, title, caption, **more)
    shown = table(frame, f"{title}. {caption}", digits)
    if "minus" not in frame or "verdict" not in frame:
        return shown
    above, below = (int((frame["verdict"] == side).sum()) for side in ("above", "below"))
    count = f"Of {len(frame)} difference{'s' if len(frame) > 1 else ''}"
    said = f"{count}: {above} above zero, {below} below, {len(frame) - above - below} not shown."
    return HTML(f'<p class="lead">{said}</p>{shown.data}')


@styled
def panels(
    table: pd.DataFrame, by: str, width: float, height: float, share: bool = True
) -> tuple[Figure, list[tuple[Any, pd.DataFrame]]]:
    """Return a figure with a panel (width, height in inches) a value of `by`; its axes and rows."""
    parts = dict(list(table.groupby(by, sort=False)))
    size = (width * len(parts), height)
    figure, [axes] = plt.subplots(1, len(parts), figsize=size, sharey=share, squeeze=False)
    for ax, name in zip(axes, parts, strict=True):
        ax.set_title(name)
    return figure, list(zip(axes, parts.values(), strict=True))


@styled
def lines(
    table: pd.DataFrame, x: str, y: str, panel: str, share: bool = True, **scales: Any
) -> Figure:
    """Plot `y` against `x`: a panel for each value of `panel`, a line for each arm and seed.

    table: has the columns arm and seed, too. share: whether all panels have one axis of `y`.
    """
    figure, parts = panels(table, panel, 3.4, 3.2, share)
    for ax, part in parts:
        for arm in part["arm"].unique():
            seeds = part[part["arm"] == arm].pivot(index=x, columns="seed", values=y)
            title = VARIANTS[arm].title if arm in VARIANTS else arm
            labels = [title, *[None] * (seeds.shape[1] - 1)]
            ax.plot(seeds, marker=".", color=COLOURS.get(arm, GREY), label=labels)
        ax.set(xlabel=x, **scales)
    figure.axes[0].set_ylabel(y)
    figure.axes[0].legend(frameon=False)
    return figure


@styled
def training_curves(curves: Mapping[tuple[str, int], pd.DataFrame]) -> Figure:
    """Plot loss and validation mAP against epochs, one line a run; (arm, seed) -> its curves."""
    names = {"loss": "training loss", "validation_mAP": "validation mAP (%)"}
    table = pd.concat(curves, names=["arm", "seed"]).reset_index().rename(columns=names)
    long = table.melt(["arm", "seed", "epoch"], [*names.values()], "curve", "")
    figure = lines(long, "epoch", "", "curve", share=False)
    for ax in figure.axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def arms_by_setting(results: pd.DataFrame) -> Figure:
    """Plot mAP of each arm: a dot a seed, the mean and its t-interval as a bar.

    results: columns arm, seed, setting, mAP.
    """
    arms = list(dict.fromkeys(results["arm"]))
    figure, parts = panels(results, "setting", 3.2, 0.5 * len(arms) + 1.2)
    for ax, part in parts:
        for height, arm in enumerate(arms):
            values = part.loc[part["arm"] == arm, "mAP"].to_numpy(float)
            mean, low, high, _ = t_interval(values)
            style: Any = {"color": COLOURS.get(arm, GREY)}
            ax.plot([low, high], [height, height], linewidth=5, alpha=0.3, **style)
            ax.plot(values, np.full(len(values), height), "o", markersize=4, alpha=0.7, **style)
            ax.plot(mean, height, "|", markersize=16, markeredgewidth=2.5, **style)
        ax.set_xlabel("mAP (%)")
    figure.axes[0].set_yticks(range(len(arms)), [VARIANTS[arm].title for arm in arms])
    figure.axes[0].invert_yaxis()
    return figure


@styled
def gains(contrasts: Sequence[Contrast]) -> Figure:
    """Plot differences, a colour for each `what`, with their joint intervals.

    The `setting` of a contrast reads 'panel: place in it'.
    """
    rows = [(*one.setting.split(": "), one.what, *one.joint[:3]) for one in contrasts]
    table = pd.DataFrame(rows, columns=["panel", "place", "what", "mean", "low", "high"])
    figure, parts = panels(table, "panel", 3.4, 2.8)
    series = dict(zip(table["what"].unique(), (RED, BLUE, ORANGE), strict=False))
    for ax, part in parts:
        places = part["place"].unique().tolist()
        for number, (what, colour) in enumerate(series.items()):
            for one in part[part["what"] == what].itertuples():
                x = places.index(one.place) + 0.2 * number
                ax.plot([x, x], [one.low, one.high], color=colour, linewidth=3, alpha=0.5)
                ax.plot(x, one.mean, "o", color=colour, label=what)
        ax.axhline(0, color="black", linewidth=0.8)
        words = [place.replace(" minus ", "\n− ") for place in places]
        ax.set_xticks(range(len(places)), words, fontsize=8)
    figure.axes[0].set_ylabel("difference (mAP points)")
    if len(series) > 1:
        _legend(figure, len(series))
    return figure


def _legend(figure: Any, columns: int) -> None:
    """Name each kind of mark once, above the plots."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    place: Any = {"loc": "outside upper center", "ncols": columns}
    figure.legend(once.values(), once.keys(), frameon=False, **place)


@styled
def rooms(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot each module's gain over GeM (a dot) beside the room (a bar), with joint intervals.

    tables: the title of a panel -> a table of `dagf.analysis.room`, as it is kept.
    """
    table = pd.concat(tables, names=["measured on"]).reset_index("measured on")
    modules = table["module"].unique().tolist()
    width = 5.0 if len(tables) == 1 else 3.4  # letters stay readable where a phone makes it small
    figure, parts = panels(table, "measured on", width, 0.45 * len(modules) + 1.4)
    for ax, part in parts:
        for module, over, took in part[["module", ROOM, GAIN]].itertuples(index=False):
            room, gain, height = Interval.read(over), Interval.read(took), modules.index(module)
            ax.barh(height, room.mean, 0.7, color=GREY, alpha=0.2, label="room: a perfect outline")
            ax.plot([room.low, room.high], [height, height], color=GREY, linewidth=1.5)
            ax.plot([gain.low, gain.high], [height, height], color=RED, linewidth=4, alpha=0.4)
            ax.plot(gain.mean, height, "o", color=RED, label="the module")
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel("points of mAP over GeM")
    figure.axes[0].set_yticks(range(len(modules)), modules)
    figure.axes[0].invert_yaxis()
    _legend(figure, 2)
    return figure
