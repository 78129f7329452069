"""The query browser: ask a study's queries in JupyterLab, change how they are answered, and see what that changes.

    from dagf.show import query_browser
    query_browser.browse(study)
    query_browser.browse(study, 3, [View("dagf"), View("dagf", mask="none", reranking="diffusion")])

In a report there is no kernel behind a control, so that only the page is shown with which the browser would begin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML

from dagf.analysis.photographs.reranking import NOTHING
from dagf.collections.page import address, heated, kept_thumbnail
from dagf.console import headless
from dagf.datasets.benchmark import Box
from dagf.errors import UserError
from dagf.show.controls import ROW, mistake, values
from dagf.show.figures import VERDICTS
from dagf.show.html import templates
from dagf.show.views import MASKS, OWN, RERANKED, WINDOWS, Explorer, View
from dagf.study.study import Study

FIRST = ("dagf", "gem", "gem untrained")  # the primary contrast, as far as it is there


@dataclass(frozen=True)
class Question:
    """What all views are asked: a query by its number, a setting, how many results, and whether attention is shown."""

    query: int
    setting: str
    top: int
    attention: bool


def browse(
    study: Study,
    query: int | str = 0,
    views: Sequence[View] = (),
    setting: str = "",
    attention: bool = False,
    top: int = 7,
) -> HTML | widgets.Widget:
    """The browser of a study's test queries: with controls in JupyterLab, as a static page where it is headless.

    query: its number or the name of its file. views: what stands side by side; DAGF and GeM for (), as far as they are
    there. setting: 'Easy', 'Medium', ...; the middle one for ''. attention: whether the pictures lie under a heat map
    of where the network looks. top: how many results. Nothing is trained: it offers what is there
    (`dagf.show.views.offered`).

    Raises `UserError` for a query, a setting or a choice that does not exist.
    """
    explorer = Explorer(study)
    question = Question(explorer.query(query), explorer.setting(setting).name, top, attention)
    views = views or _first_views(explorer)
    for view in views:
        explorer.made_of(
            view
        )  # said now, in one line, rather than by a control that lacks such a value
    if headless():
        return HTML(page(explorer, question, views))
    return Browser(explorer, question, views).box


def _first_views(explorer: Explorer) -> list[View]:
    names = [name for name in FIRST if name in explorer.arms]
    names += [name for name in explorer.arms if name not in names]
    return [View(name) for name in names[:2]]


def page(explorer: Explorer, question: Question, views: Sequence[View]) -> str:
    """The answers to a question as HTML, a column a view; errors as in `Explorer.answer`."""
    asked = explorer.study.test.queries[question.query]
    file = explorer.study.test.root / asked.file
    sides = []
    for view in views:
        answer = explorer.answer(question.query, view, question.setting, question.top)
        draw = partial(_picture, explorer, view, question.attention)
        sides.append(
            {
                "title": explorer.arms[view.arm].title,
                "choices": _choices(view),
                "answer": answer,
                "query": draw(file, asked.box),
                "pictures": [draw(result.file) for result in answer.results],
            }
        )
    words = {
        "setting": question.setting,
        "query": file.name,
        "colours": VERDICTS,
        "attention": question.attention,
    }
    return templates().get_template("browser.html.j2").render(sides=sides, **words)


def _choices(view: View) -> str:
    """What differs from the arm as it is, in words."""
    parts = [
        f"{name}: {value}"
        for name, value in (("windows", view.windows), ("mask", view.mask))
        if value != OWN
    ]
    if view.reranking != NOTHING:
        parts.append(f"{view.reranking} by {view.neighbours} neighbours")
    return "; ".join(parts) or "as it is"


def _picture(
    explorer: Explorer, view: View, attention: bool, file: Path, box: Box | None = None
) -> str:
    pixels = kept_thumbnail(file, box)
    return address(heated(pixels, explorer.looked(view, file, box)) if attention else pixels)


class Browser:
    """The controls and what they show: `box` is to be displayed.

    `shared` holds the controls of the `Question`, `views` those of each `View`, by the names of their fields.
    """

    def __init__(self, explorer: Explorer, question: Question, views: Sequence[View]) -> None:
        self.explorer, self.top = explorer, question.top
        self.shared = _question_controls(explorer, question)
        self.views = [_view_controls(explorer, view) for view in views]
        self.results = [widgets.HTML() for _ in views]
        self.status = widgets.Label("")
        self.log = widgets.Output()  # bars, and what no user has caused
        everything = range(len(views))
        for control in self.shared.values():
            control.observe(partial(self._changed, everything), "value")
        sides = []
        for side, (controls, answer) in enumerate(zip(self.views, self.results, strict=True)):
            for control in controls.values():
                control.observe(partial(self._changed, [side]), "value")
            rows = widgets.VBox(list(controls.values()))
            sides.append(
                widgets.VBox([rows, answer], layout={"flex": "1 1 20rem", "min_width": "0"})
            )
        top = widgets.Box([*self.shared.values(), self.status], layout=ROW)
        self.box = widgets.VBox([top, self.log, widgets.Box(sides, layout=ROW)])
        self._changed(everything)

    def _changed(self, sides: Sequence[int], change: Any = None) -> None:
        question = Question(top=self.top, **values(self.shared))
        self.log.outputs = ()
        self.status.value = "searching …"
        with self.log:
            for side in sides:
                controls = self.views[side]
                controls["neighbours"].disabled = controls["reranking"].value == NOTHING
                try:
                    self.results[side].value = page(
                        self.explorer, question, [View(**values(controls))]
                    )
                except UserError as error:
                    self.results[side].value = mistake(error)
        self.status.value = ""


def _question_controls(explorer: Explorer, question: Question) -> dict[str, widgets.Widget]:
    test = explorer.study.test
    queries = [
        (f"{number}: {Path(query.file).name}", number) for number, query in enumerate(test.queries)
    ]
    return {
        "query": widgets.Dropdown(options=queries, value=question.query, description="query"),
        "setting": widgets.Dropdown(
            options=[one.name for one in test.settings],
            value=question.setting,
            description="setting",
        ),
        "attention": widgets.Checkbox(
            value=question.attention, description="where it looks", indent=False
        ),
    }


def _view_controls(explorer: Explorer, view: View) -> dict[str, widgets.Widget]:
    """A drop-down for each field of a view. What a user has named beyond what is offered is offered, too."""
    options = {
        "arm": [(arm.title, name) for name, arm in explorer.arms.items()],
        "windows": WINDOWS if explorer.changeable else (OWN,),
        "mask": MASKS if explorer.changeable else (OWN,),
        "reranking": RERANKED,
        "neighbours": sorted({*explorer.counts, view.neighbours}),
    }
    names = {"reranking": "re-ranking"}
    return {
        name: widgets.Dropdown(
            options=options[name], value=getattr(view, name), description=names.get(name, name)
        )
        for name in (field.name for field in fields(view))
    }
