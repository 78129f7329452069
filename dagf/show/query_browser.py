"""The query browser: a study's queries in JupyterLab, ranked in ways that are changed by controls.

    from dagf.show import query_browser
    query_browser.start(study)
    views = [View("dagf"), View("dagf", mask="none", reranking="diffusion")]
    query_browser.start(study, 3, views)

In a report, without a kernel, only the page is shown with which the browser would begin. Nothing is
trained here: what is offered is trained already, or has nothing to learn.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
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
from dagf.datasets.benchmark import Box
from dagf.devices import on_device
from dagf.errors import UserError, choose
from dagf.model.network import RetrievalNet, Variant
from dagf.model.scale_mask import ScaleAndMask
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.rerank import RERANKINGS
from dagf.retrieval.search import Descriptors, similarities
from dagf.show.controls import follow, side_by_side
from dagf.show.figures import VERDICTS
from dagf.show.gallery import label_of, verdict
from dagf.show.html import templates
from dagf.show.pictures import address, heated, thumbnail
from dagf.study.runs import Head, Run
from dagf.study.study import Study

OWN = "its own"
CHOICES = {  # one draw of the random mask says nothing about one query
    "windows": (OWN, *WINDOW_SETS),
    "mask": (OWN, "none", "max", "sum"),
    "reranking": (NONE, *RERANKINGS),
}
HOW = {"": "trained", "head": "head on a frozen backbone", "untrained": "untrained"}
FIRST = ("dagf", "gem", "gem untrained")  # the primary contrast, as far as it is there
TOP = 7  # results


@dataclass(frozen=True)
class View:
    """One way of ranking.

    arm: a name from `offered`. windows, mask, reranking: of `CHOICES`. What the arm has learned
    stays as it is under other windows or another mask. neighbours: of the re-ranking.
    """

    arm: str
    windows: str = OWN
    mask: str = OWN
    reranking: str = NONE
    neighbours: int = 10

    def __post_init__(self) -> None:
        """Raise `UserError` for windows, a mask or a re-ranking of another name."""
        for kind, known in CHOICES.items():
            choose(kind, getattr(self, kind), known)

    @property
    def title(self) -> str:
        """The arm in words."""
        arm, _, how = self.arm.partition(" ")
        return f"{VARIANTS[arm].title}, {HOW[how]}"

    @property
    def changes(self) -> str:
        """What differs from the arm as it is, in words."""
        own = (("windows", self.windows), ("mask", self.mask))
        parts = [f"{name}: {value}" for name, value in own if value != OWN]
        if self.reranking != NONE:
            parts.append(f"{self.reranking} by {self.neighbours} neighbours")
        return "; ".join(parts) or "as it is"


def offered(study: Study) -> dict[str, Head]:
    """Return what can rank at once, on the first seed, by name.

    'dagf' was trained as the profile says, 'dagf head' on a frozen backbone; 'gem untrained' has no
    attention to learn, and stands on that seed's backbone. Raises `UserError` where nothing is.
    """
    profile, found = study.profile, dict[str, Head]()
    backbone = study.backbone_config(study.seed) if study.training else None
    ready = study.store.find(backbone) is not None if backbone else study.backbone.pretrained
    if study.training and (ready or not backbone):  # else the backbone would be trained now
        for heads in (False, True) if profile.heads else (False,):
            for arm in study.plan(heads).arms:
                learns = VARIANTS[arm].trainable or not (heads or profile.frozen)
                run = _finished(study, arm, heads) if learns else None
                if run and run not in found.values():  # the two ways may be one
                    found[f"{arm} head" if heads else arm] = run
    if ready:
        plain = [arm for arm, made_of in VARIANTS.items() if not made_of.attentive]
        found |= {f"{arm} untrained": study.untrained(arm) for arm in plain}
    if not found:
        raise UserError(
            f"{study.title}: nothing is trained under profile {profile.name}; run notebook 02 first"
        )
    return found


def _finished(study: Study, arm: str, heads: bool) -> Run | None:
    """Return the run of an arm, None where it, or a trial that chooses its rate, is missing."""
    if not all(study.store.find(config) for config in study.trial_configs(arm, heads).values()):
        return None
    return study.store.find(study.chosen_config(arm, study.seed, heads))


@dataclass(frozen=True)
class Result:
    """A database image in a ranking; verdict: 'right', 'wrong' or 'junk' under the setting."""

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
        self._network = lru_cache(maxsize=4)(self._make_network)
        self._descriptors = lru_cache(maxsize=8)(self._extract)
        self._scores = lru_cache(maxsize=16)(self._compare)

    def made_of(self, view: View) -> Variant:
        """Return what the head of a view is made of."""
        of = self.arms[choose("arm", view.arm, self.arms)]
        made_of = of.config.variant if isinstance(of, Run) else of.variant
        if not self.changeable and (view.windows, view.mask) != (OWN, OWN):
            raise UserError(
                f"profile {self.study.profile.name} extracts at several scales or whitens: there "
                "windows and mask stay"
            )
        if view.windows != OWN:
            kind, windows = WINDOW_SETS[view.windows]
            made_of = replace(made_of, windows=windows, window_kind=kind)
        return made_of if view.mask == OWN else replace(made_of, mask=view.mask)

    def rank(self, query: int, view: View, setting: str, top: int = TOP) -> Ranking:
        """Return the first `top` results of a query, and its AP as the study counts it."""
        test, scores = self.study.test, self._scores(view)
        level = next(one for one in test.settings if one.name == setting)
        per_query, shown = evaluate(test, scores, [level]), test.queries[query]
        results = [
            Result(
                float(scores[query, row]),
                test.database_paths[row],
                label_of(shown, row),
                verdict(shown, row, level),
            )
            for row in np.argsort(-scores[query], kind="stable")[:top].tolist()
        ]
        mean = per_query.loc[per_query["query_set"] == shown.query_set, "AP"].mean()
        return Ranking(results, float(per_query["AP"].iloc[query]), float(mean))

    def looked(self, view: View, file: Path, box: Box | None = None) -> Plane:
        """Return where the network looks, (H, W): its attention, or how strong its features are."""
        net = self._network(view.arm, self.made_of(view))
        seen = look(net, file, self.study.profile.evaluation_image, box)
        return seen.effective if seen.attention is None else seen.attention

    def _make_network(self, arm: str, made_of: Variant) -> RetrievalNet:
        net = self.arms[arm].network()
        pooling = net.head.scale_and_mask.pooling  # it has learned; windows and masks do not
        net.head.scale_and_mask = ScaleAndMask(
            pooling, made_of.windows, made_of.window_kind, made_of.mask
        )
        return net.eval()

    def _extract(self, arm: str, made_of: Variant) -> tuple[Descriptors, Descriptors]:
        of = self.arms[arm]
        if made_of == self.made_of(View(arm)):  # just as the study extracts, to the bit
            rows, queries = self.study.descriptors(of)
            return np.asarray(rows[:], np.float32), queries
        net = on_device(self._make_network(arm, made_of))  # not that of `looked`, which stays here
        return self.study.test_maps(of).extract(net.head)

    def _compare(self, view: View) -> NDArray[np.floating]:
        """Return (queries, rows): all queries, as their mean and k-reciprocal need them."""
        rows, queries = self._descriptors(view.arm, self.made_of(view))
        if view.reranking == NONE:
            return similarities(rows, queries)
        if view.neighbours >= len(rows):
            raise UserError(f"{view.neighbours} neighbours: the database has {len(rows)} images")
        return RERANKINGS[view.reranking](rows, queries, view.neighbours)

    def page(self, views: Sequence[View], query: int, setting: str, attention: bool) -> str:
        """Return the ranking of a query as HTML, a column a view.

        attention: whether the pictures lie under a heat map of where the network looks.
        """
        shown = self.study.test.queries[query]
        file = self.study.test.root / shown.file

        def picture(view: View, file: Path, box: Box | None = None) -> str:
            pixels = thumbnail(file, box)
            return address(heated(pixels, self.looked(view, file, box)) if attention else pixels)

        sides = []
        for view in views:
            ranking = self.rank(query, view, setting)
            pictures = [picture(view, file, shown.box)]
            pictures += [picture(view, result.file) for result in ranking.results]
            sides.append((view, ranking, pictures))
        words = {"query": file.name, "setting": setting, "attention": attention}
        template = templates().get_template("query_browser.html.j2")
        return template.render(sides=sides, colours=VERDICTS, **words)


def start(study: Study, query: int = 0, views: Sequence[View] = ()) -> HTML | widgets.Widget:
    """Return the browser of a study's test queries: with controls, or a static page where headless.

    query: its number. views: what stands side by side; DAGF and GeM for (), as far as they are
    there. Raises `UserError` for a query or a view that does not exist.
    """
    explorer, test = Explorer(study), study.test
    if not 0 <= query < len(test.queries):
        raise UserError(f"query {query}: {study.title} has {len(test.queries)} queries, from 0")
    if not views:
        names = [name for name in FIRST if name in explorer.arms]
        views = [View(name) for name in list(dict.fromkeys([*names, *explorer.arms]))[:2]]
    for view in views:
        explorer.made_of(view)  # a mistake is said here, not by a control that lacks such a value
    if headless():
        return HTML(explorer.page(views, query, test.middle.name, attention=False))

    def page(query: int, setting: str, attention: bool, **view: Any) -> str:
        return explorer.page([View(**view)], query, setting, attention)

    names = [f"{number}: {Path(one.file).name}" for number, one in enumerate(test.queries)]
    settings = [setting.name for setting in test.settings]
    shared = {
        "query": _choice("query", list(zip(names, range(len(names)), strict=True)), query),
        "setting": _choice("setting", settings, test.middle.name),
        "attention": widgets.Checkbox(description="where it looks", indent=False),
    }
    sides = []
    for view in views:
        own = _view_controls(explorer, view)
        sides.append(follow(shared | own, page, shown=list(own)))
    return widgets.VBox([side_by_side(list(shared.values())), side_by_side(sides)])


def _choice(name: str, options: Sequence[Any], value: Any) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, description=name)


def _view_controls(explorer: Explorer, view: View) -> dict[str, widgets.Widget]:
    """Return a drop-down for each field of a view; its own values are always offered."""
    rows = len(explorer.study.test.database_paths)
    counts = {count for count in COUNTS if count < rows} | {view.neighbours}
    options: dict[str, Sequence[Any]] = {
        "arm": [(View(name).title, name) for name in explorer.arms],
        **CHOICES,
        "neighbours": sorted(counts),
    }
    if not explorer.changeable:
        options |= {"windows": [OWN], "mask": [OWN]}
    values = asdict(view)
    return {name: _choice(name, known, values[name]) for name, known in options.items()}
