"""The query browser: a study's queries in JupyterLab, ranked in ways that are changed by controls.

    from dagf.show import query_browser
    query_browser.start(study)
    views = [View("dagf"), View("dagf", mask="none", reranking="diffusion")]
    query_browser.start(study, 3, views)

In a report, without a kernel, only the page is shown with which the browser would begin. Nothing is
trained here: what is offered is trained already, or has nothing to learn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML
from numpy.typing import NDArray

from dagf.analysis.cam import Plane, look
from dagf.analysis.grid import WINDOW_SETS
from dagf.analysis.methods import COUNTS, NONE
from dagf.console import headless
from dagf.datasets.benchmark import Box, Setting
from dagf.devices import on_device
from dagf.errors import UserError, choose
from dagf.model.network import RetrievalNet, Variant
from dagf.model.scale_mask import ScaleAndMask
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.rerank import RERANKINGS
from dagf.retrieval.search import Descriptors, similarities
from dagf.show.figures import VERDICTS
from dagf.show.html import or_mistake, templates
from dagf.show.pictures import address, heated, thumbnail
from dagf.study.runs import Head, Run
from dagf.study.study import Study

OWN = "its own"
WINDOWS = (OWN, *WINDOW_SETS)
MASKS = (OWN, "none", "max", "sum")  # one draw of the random mask says nothing about one query
RERANKED = (NONE, *RERANKINGS)
FIRST = ("dagf", "gem", "gem untrained")  # the primary contrast, as far as it is there
# Controls side by side, as far as they fit.
ROW = {"display": "flex", "flex_flow": "row wrap", "grid_gap": "0 1.5rem"}


@dataclass(frozen=True)
class View:
    """One way of ranking.

    arm: a name from `offered`. windows: `OWN`, or a name from `grid.WINDOW_SETS`. mask: one of
    `MASKS`. What the arm has learned stays as it is under other windows or another mask.
    reranking: one of `RERANKED`, with so many neighbours.
    """

    arm: str
    windows: str = OWN
    mask: str = OWN
    reranking: str = NONE
    neighbours: int = 10

    def __post_init__(self) -> None:
        """Raise `UserError` for windows, a mask or a re-ranking of another name."""
        choose("windows", self.windows, WINDOWS)
        choose("mask", self.mask, MASKS)
        choose("re-ranking", self.reranking, RERANKED)

    @property
    def changes(self) -> str:
        """What differs from the arm as it is, in words."""
        own = (("windows", self.windows), ("mask", self.mask))
        parts = [f"{name}: {value}" for name, value in own if value != OWN]
        if self.reranking != NONE:
            parts.append(f"{self.reranking} by {self.neighbours} neighbours")
        return "; ".join(parts) or "as it is"


@dataclass(frozen=True)
class Arm:
    """A network that is there: its title, what the study knows it by, and what it is made of."""

    title: str
    of: Head
    made_of: Variant


def offered(study: Study) -> dict[str, Arm]:
    """Return what can rank at once, on the first seed, by name.

    'dagf' was trained as the profile says, 'dagf head' on a frozen backbone; 'gem untrained' has no
    attention to learn, and stands on that seed's backbone. Raises `UserError` where nothing is.
    """
    found: dict[str, Arm] = {}
    ways = ((False, "", "trained"), (True, " head", "head on a frozen backbone"))
    for heads, suffix, how in ways:
        for arm, run in _finished(study, heads):
            if all(run != other.of for other in found.values()):  # the two ways may be one
                found[arm + suffix] = Arm(f"{VARIANTS[arm].title}, {how}", run, run.config.variant)
    if _has_backbone(study):
        for arm, made_of in VARIANTS.items():
            if not made_of.attentive:
                of = study.untrained(arm)
                found[f"{arm} untrained"] = Arm(f"{made_of.title}, untrained", of, made_of)
    if not found:
        raise UserError(
            f"{study.title}: nothing is trained under profile {study.profile.name}; run notebook "
            "02 first"
        )
    return found


def _finished(study: Study, heads: bool) -> Iterator[tuple[str, Run]]:
    if study.training is None or (heads and study.profile.heads is None):
        return
    if study.profile.backbone_training and not _has_backbone(study):
        return  # an arm is named by its backbone, which would be trained now
    for arm in study.plan(heads).arms:
        if VARIANTS[arm].trainable or not (heads or study.profile.frozen):
            tried = study.trial_configs(arm, heads).values()
            if all(study.store.find(config) for config in tried):  # else no rate is chosen yet
                run = study.store.find(study.chosen_config(arm, study.profile.seeds[0], heads))
                if run:
                    yield arm, run


def _has_backbone(study: Study) -> bool:
    """Return whether the first seed's backbone has learned something, here or elsewhere."""
    if study.profile.backbone_training is None:
        return study.backbone.pretrained
    backbone = study.backbone_config(study.profile.seeds[0]) if study.training else None
    return backbone is not None and study.store.find(backbone) is not None


@dataclass(frozen=True)
class Result:
    """A database image in a ranking; verdict: 'right', 'wrong' or 'junk' under the setting."""

    rank: int  # from 1
    score: float
    file: Path
    label: str  # '' for a negative
    verdict: str


@dataclass(frozen=True)
class Ranking:
    """The first results of a query, its AP, and the mAP of its query set; NaN: nothing is right."""

    results: list[Result]
    ap: float
    mean: float


class Explorer:
    """The queries of a study under any `View`; what was computed last is kept in memory.

    Other windows and masks work on kept feature maps; those of an arm whose backbone was trained
    with it are made when they are first needed.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.arms = offered(study)
        # Maps are kept at one scale, and a whitening belongs to its head.
        self.changeable = study.profile.scales == (1.0,) and not study.profile.whitening
        self._descriptors = lru_cache(maxsize=8)(self._extract)
        self._net = lru_cache(maxsize=4)(self._network)
        self._all_scores = lru_cache(maxsize=16)(self._scores)

    def query(self, wanted: int | str) -> int:
        """Return a query's number, from itself or from the name of its file."""
        names = [Path(query.file).name for query in self.study.test.queries]
        if isinstance(wanted, str):
            return names.index(choose("query", wanted, names))
        if not 0 <= wanted < len(names):
            raise UserError(
                f"query {wanted}: {self.study.title} has {len(names)} queries, numbered from 0"
            )
        return wanted

    def setting(self, name: str) -> Setting:
        """Return a setting of the benchmark by its name, the middle one for ''."""
        known = {setting.name: setting for setting in self.study.test.settings}
        return known[choose("setting", name, known)] if name else self.study.test.middle

    def made_of(self, view: View) -> Variant:
        """Return what the head of a view is made of."""
        made_of = self.arms[choose("arm", view.arm, self.arms)].made_of
        if not self.changeable and (view.windows, view.mask) != (OWN, OWN):
            raise UserError(
                f"profile {self.study.profile.name} extracts at several scales or whitens: there "
                "windows and mask stay"
            )
        if view.windows != OWN:
            kind, windows = WINDOW_SETS[view.windows]
            made_of = replace(made_of, windows=windows, window_kind=kind)
        return made_of if view.mask == OWN else replace(made_of, mask=view.mask)

    def rank(self, query: int, view: View, setting: str = "", top: int = 8) -> Ranking:
        """Return the first `top` results of a query, and its AP as the study counts it."""
        level, test, scores = self.setting(setting), self.study.test, self._all_scores(view)
        per_query = evaluate(test, scores, [level])
        shown = test.queries[query]
        positives, junk = (set(rows.tolist()) for rows in shown.relevance(level))
        labels = {int(row): label for label, rows in shown.labels.items() for row in rows}
        results = []
        order = np.argsort(-scores[query], kind="stable")[:top].tolist()
        for rank, row in enumerate(order, 1):
            verdict = "right" if row in positives else "junk" if row in junk else "wrong"
            score, file = float(scores[query, row]), test.database_paths[row]
            results.append(Result(rank, score, file, labels.get(row, ""), verdict))
        mean = per_query.loc[per_query["query_set"] == shown.query_set, "AP"].mean()
        return Ranking(results, float(per_query["AP"].iloc[query]), float(mean))

    def looked(self, view: View, file: Path, box: Box | None = None) -> Plane:
        """Return where the network looks, (H, W): its attention, or how strong its features are."""
        net = self._net(view.arm, self.made_of(view))
        seen = look(net, file, self.study.profile.evaluation_image, box)
        return seen.effective if seen.attention is None else seen.attention

    def _network(self, arm: str, made_of: Variant) -> RetrievalNet:
        net = self.arms[arm].of.network()
        pooling = net.head.scale_and_mask.pooling  # it has learned; windows and masks do not
        net.head.scale_and_mask = ScaleAndMask(
            pooling, made_of.windows, made_of.window_kind, made_of.mask
        )
        return net.eval()

    def _extract(self, arm: str, made_of: Variant) -> tuple[Descriptors, Descriptors]:
        of = self.arms[arm].of
        if made_of == self.arms[arm].made_of:  # just as the study extracts, to the bit
            rows, queries = self.study.descriptors(of)
            return np.asarray(rows[:], np.float32), queries
        net = on_device(self._network(arm, made_of))  # not the one of `looked`, which stays here
        return self.study.test_maps(of).extract(net.head)

    def _scores(self, view: View) -> NDArray[np.floating]:
        """Return (queries, rows): all queries, as their mean and k-reciprocal need them."""
        rows, queries = self._descriptors(view.arm, self.made_of(view))
        if view.reranking == NONE:
            return similarities(rows, queries)
        if view.neighbours >= len(rows):
            raise UserError(f"{view.neighbours} neighbours: the database has {len(rows)} images")
        return RERANKINGS[view.reranking](rows, queries, view.neighbours)


def start(
    study: Study,
    query: int | str = 0,
    views: Sequence[View] = (),
    setting: str = "",
    attention: bool = False,
    top: int = 7,
) -> HTML | widgets.Widget:
    """Return the browser of a study's test queries: with controls, or a static page where headless.

    query: its number or the name of its file. views: what stands side by side; DAGF and GeM for (),
    as far as they are there. setting: 'Easy', 'Medium', ...; the middle one for ''. attention:
    whether the pictures lie under a heat map of where the network looks. top: how many results.

    Raises `UserError` for a query, a setting or a choice that does not exist.
    """
    explorer = Explorer(study)
    if not views:
        names = [name for name in FIRST if name in explorer.arms]
        views = [View(name) for name in list(dict.fromkeys([*names, *explorer.arms]))[:2]]
    for view in views:
        explorer.made_of(view)  # a mistake is said here, not by a control that lacks such a value
    query, setting = explorer.query(query), explorer.setting(setting).name
    if headless():
        return HTML(page(explorer, views, query, setting, attention, top))
    return Browser(explorer, views, query, setting, attention, top).box


def page(
    explorer: Explorer, views: Sequence[View], query: int, setting: str, attention: bool, top: int
) -> str:
    """Return the ranking of a query as HTML, a column a view."""
    shown = explorer.study.test.queries[query]
    file = explorer.study.test.root / shown.file

    def picture(view: View, file: Path, box: Box | None = None) -> str:
        pixels = thumbnail(file, box)
        return address(heated(pixels, explorer.looked(view, file, box)) if attention else pixels)

    sides = []
    for view in views:
        ranking = explorer.rank(query, view, setting, top)
        pictures = [picture(view, file, shown.box)]
        pictures += [picture(view, result.file) for result in ranking.results]
        sides.append((explorer.arms[view.arm].title, view.changes, ranking, pictures))
    template = templates().get_template("query_browser.html.j2")
    words = {"query": file.name, "setting": setting, "attention": attention}
    return template.render(sides=sides, colours=VERDICTS, **words)


class Browser:
    """The controls and what they show: `box` is to be displayed.

    `shared` holds the controls of what all views share, `views` those of each `View`, by the names
    of the arguments of `page` and of the fields of `View`.
    """

    def __init__(
        self,
        explorer: Explorer,
        views: Sequence[View],
        query: int,
        setting: str,
        attention: bool,
        top: int,
    ) -> None:
        self.explorer, self.top = explorer, top
        test = explorer.study.test
        names = [(f"{i}: {Path(one.file).name}", i) for i, one in enumerate(test.queries)]
        self.shared = {
            "query": _choice("query", names, query),
            "setting": _choice("setting", [one.name for one in test.settings], setting),
            "attention": widgets.Checkbox(
                value=attention, description="where it looks", indent=False
            ),
        }
        self.views = [_view_controls(explorer, view) for view in views]
        self.results = [widgets.HTML() for _ in views]
        self.status = widgets.Label("")
        self.log = widgets.Output()  # bars, and what no user has caused
        everything = range(len(views))
        for control in self.shared.values():
            control.observe(partial(self._changed, everything), "value")
        sides = []
        for side, controls in enumerate(self.views):
            for control in controls.values():
                control.observe(partial(self._changed, [side]), "value")
            column = [*controls.values(), self.results[side]]
            sides.append(widgets.VBox(column, layout={"flex": "1 1 20rem", "min_width": "0"}))
        row = widgets.Box([*self.shared.values(), self.status], layout=ROW)
        self.box = widgets.VBox([row, self.log, widgets.Box(sides, layout=ROW)])
        self._changed(everything)

    def _changed(self, sides: Sequence[int], change: Any = None) -> None:
        self.log.outputs = ()
        self.status.value = "searching …"
        with self.log:
            for side in sides:
                controls = self.views[side]
                controls["neighbours"].disabled = controls["reranking"].value == NONE
                self.results[side].value = or_mistake(partial(self._page, controls))
        self.status.value = ""

    def _page(self, controls: Mapping[str, widgets.Widget]) -> str:
        view = View(**values(controls))
        return page(self.explorer, [view], top=self.top, **values(self.shared))


def values(controls: Mapping[str, widgets.Widget]) -> dict[str, Any]:
    """Return what each control holds, by its name."""
    return {name: control.value for name, control in controls.items()}


def _choice(name: str, options: Sequence[Any], value: Any) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, description=name)


def _view_controls(explorer: Explorer, view: View) -> dict[str, widgets.Widget]:
    """Return a drop-down for each field of a view; its own values are always offered."""
    arms = [(arm.title, name) for name, arm in explorer.arms.items()]
    rows = len(explorer.study.test.database_paths)
    counts = {count for count in COUNTS if count < rows} | {view.neighbours}
    return {
        "arm": _choice("arm", arms, view.arm),
        "windows": _choice("windows", WINDOWS if explorer.changeable else [OWN], view.windows),
        "mask": _choice("mask", MASKS if explorer.changeable else [OWN], view.mask),
        "reranking": _choice("re-ranking", RERANKED, view.reranking),
        "neighbours": _choice("neighbours", sorted(counts), view.neighbours),
    }
