"""The query browser: a study's queries in JupyterLab, ranked in ways that are changed by controls.

    from dagf.show import query_browser
    query_browser.start(study)

In a report, without a kernel, only the page is shown with which the browser would begin. What it
offers is trained where it is missing, as everywhere in the study.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import HTML
from numpy.typing import NDArray

from dagf.analysis.cam import look
from dagf.analysis.grid import WINDOW_SETS
from dagf.analysis.methods import COUNTS, NONE
from dagf.console import headless
from dagf.datasets.decode import Box
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.model.scale_mask import MASKS, ScaleFilters
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.rerank import RERANKINGS
from dagf.retrieval.search import Descriptors, similarities
from dagf.show.controls import follow, side_by_side
from dagf.show.figures import VERDICTS
from dagf.show.gallery import label_of, verdict
from dagf.show.html import templates
from dagf.show.pictures import address, heated, thumbnail
from dagf.study.runs import Head
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

    @property
    def title(self) -> str:
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
    """Return what can rank, on the first seed, by name.

    'dagf' is trained as the profile says, 'dagf head' on a frozen backbone; 'gem untrained' has no
    attention to learn, and stands on that seed's backbone.
    """
    found: dict[str, Head] = {}
    if study.training:
        found |= {arm: run for (arm, _), run in study.train(seeds=[study.seed]).items()}
        heads = study.train(seeds=[study.seed], heads=True) if study.profile.heads else {}
        own = {f"{arm} head": run for (arm, _), run in heads.items()}
        found |= {name: run for name, run in own.items() if run not in found.values()}
    plain = [arm for arm, made_of in VARIANTS.items() if not made_of.attentive]
    return found | {f"{arm} untrained": study.untrained(arm) for arm in plain}


class Explorer:
    """The queries of a study under any `View`; what was computed last is kept in memory.

    Other windows and masks work on kept feature maps; those of an arm whose backbone was trained
    with it are made when they are first needed.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.arms = offered(study)
        # Maps are kept at one scale, and a whitening belongs to its head.
        self.changeable = study.profile.evaluation.single
        self._descriptors = lru_cache(maxsize=8)(self._extract)
        self._scores = lru_cache(maxsize=16)(self._compare)

    def rank(self, query: int, view: View, setting: str) -> tuple[pd.DataFrame, float, float]:
        """Return the first `TOP` results of a query, its AP, and the mAP of its query set.

        A result has its score, file, label ('' for a negative), and verdict under the setting.
        Where nothing is right the AP is NaN.
        """
        test, scores = self.study.test, self._scores(view)
        level = next(one for one in test.settings if one.name == setting)
        per_query, shown = evaluate(test, scores, [level]), test.queries[query]
        rows = np.argsort(-scores[query], kind="stable")[:TOP].tolist()
        results = pd.DataFrame(
            {
                "score": scores[query, rows],
                "file": [test.database_paths[row] for row in rows],
                "label": [label_of(shown, row) for row in rows],
                "verdict": [verdict(shown, row, level) for row in rows],
            }
        )
        mean = per_query.loc[per_query["query_set"] == shown.query_set, "AP"].mean()
        return results, float(per_query["AP"].iloc[query]), float(mean)

    def network(self, arm: str, windows: str = OWN, mask: str = OWN) -> RetrievalNet:
        """Return the network of a view: its pooling has learned, windows and masks do not."""
        net = self.arms[arm].network()
        scheme = net.head.scale_and_mask
        if windows != OWN:
            kind, sizes = WINDOW_SETS[windows]
            scheme.filters = ScaleFilters(sizes, kind)
        if mask != OWN:
            scheme.mask = MASKS[mask]()
        return net.eval()

    def _extract(self, arm: str, windows: str, mask: str) -> tuple[Descriptors, Descriptors]:
        if (windows, mask) == (OWN, OWN):  # just as the study extracts, to the bit
            rows, queries = self.study.descriptors(self.arms[arm])
            return np.asarray(rows[:], np.float32), queries
        net = on_device(self.network(arm, windows, mask))
        return self.study.test_maps(self.arms[arm]).extract(net.on_maps)

    def _compare(self, view: View) -> NDArray[np.floating]:
        """Return (queries, rows): all queries, as their mean and k-reciprocal need them."""
        rows, queries = self._descriptors(view.arm, view.windows, view.mask)
        if view.reranking == NONE:
            return similarities(rows, queries)
        if view.neighbours >= len(rows):
            raise UserError(f"{view.neighbours} neighbours: the database has {len(rows)} images")
        return RERANKINGS[view.reranking](rows, queries, view.neighbours)

    def page(self, views: Sequence[View], query: int, setting: str, attention: bool) -> str:
        """Return the ranking of a query as HTML, a column a view.

        attention: whether the pictures lie under a heat map of where the network looks: of its
        attention, or of how strong its features are.
        """
        shown, spec = self.study.test.queries[query], self.study.profile.evaluation.image
        file, sides = self.study.test.root / shown.file, []
        for view in views:
            net = self.network(view.arm, view.windows, view.mask) if attention else None

            def picture(file: Path, box: Box | None = None, net: RetrievalNet | None = net) -> str:
                pixels = thumbnail(file, box)
                if net:
                    seen = look(net, file, spec, box)
                    over = seen.effective if seen.attention is None else seen.attention
                    pixels = heated(pixels, over)
                return address(pixels)

            results, ap, mean = self.rank(query, view, setting)
            pictures = [picture(file, shown.box), *map(picture, results["file"])]
            sides.append((view, results.itertuples(), ap, mean, pictures))
        words = {"query": file.name, "setting": setting, "attention": attention}
        template = templates().get_template("query_browser.html.j2")
        return template.render(sides=sides, colours=VERDICTS, **words)


def start(study: Study) -> HTML | widgets.Widget:
    """Return the browser of a study's test queries: with controls, or a static page where headless.

    It begins with the first query, and DAGF beside GeM, as far as they are there.
    """
    explorer, test = Explorer(study), study.test
    first = [name for name in FIRST if name in explorer.arms]
    views = [View(name) for name in list(dict.fromkeys([*first, *explorer.arms]))[:2]]
    if headless():
        return HTML(explorer.page(views, 0, test.middle.name, attention=False))

    def page(query: int, setting: str, attention: bool, **view: Any) -> str:
        return explorer.page([View(**view)], query, setting, attention)

    names = [f"{number}: {Path(one.file).name}" for number, one in enumerate(test.queries)]
    settings = [setting.name for setting in test.settings]
    shared: dict[str, widgets.Widget] = _choices(
        {"query": [(name, number) for number, name in enumerate(names)], "setting": settings},
        {"query": 0, "setting": test.middle.name},
    )
    shared["attention"] = widgets.Checkbox(description="where it looks", indent=False)
    sides = []
    for view in views:
        counts = {count for count in COUNTS if count < len(test.database_paths)}
        options = {
            "arm": [(View(name).title, name) for name in explorer.arms],
            **(CHOICES if explorer.changeable else CHOICES | {"windows": [OWN], "mask": [OWN]}),
            "neighbours": sorted(counts | {view.neighbours}),
        }
        own = _choices(options, asdict(view))
        sides.append(follow(shared | own, page, shown=list(own)))
    return widgets.VBox([side_by_side(list(shared.values())), side_by_side(sides)])


def _choices(options: Mapping[str, Sequence[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: widgets.Dropdown(options=known, value=values[name], description=name)
        for name, known in options.items()
    }
