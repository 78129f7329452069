"""A page of HTML that follows controls in JupyterLab; a user's mistake is a line on it."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from dagf.errors import UserError


def follow(
    controls: Mapping[str, widgets.Widget], page: Callable[..., str], shown: Sequence[str] = ()
) -> widgets.VBox:
    """Return the HTML of `page`, made anew from the values of the controls when one is changed.

    controls: by the names of the arguments of `page`. shown: those that stand above it.
    """
    result, log = widgets.HTML(), widgets.Output()
    last: dict[str, Any] = {}

    def update(change: object = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        if values == last:
            return
        last.update(values)
        log.outputs = ()  # bars, and what no user has caused
        with log:
            try:
                result.value = page(**values)
            except UserError as error:
                result.value = f"<p>{escape(str(error))}</p>"

    for control in controls.values():
        control.observe(update, "value")
    update()
    return widgets.VBox([side_by_side([controls[name] for name in shown]), log, result])


def side_by_side(parts: Sequence[widgets.Widget]) -> widgets.Box:
    """Return widgets beside each other, as far as they fit."""
    row = {"display": "flex", "flex_flow": "row wrap", "grid_gap": "0 1.5rem"}
    return widgets.Box(list(parts), layout=row)
