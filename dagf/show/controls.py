"""What the query browser and the live search share: how controls stand, what they hold, and how a mistake is said."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from dagf.errors import UserError
from dagf.show.html import templates

ROW = {
    "display": "flex",
    "flex_flow": "row wrap",
    "grid_gap": "0 1.5rem",
}  # controls side by side, as far as they fit


def values(controls: Mapping[str, widgets.Widget]) -> dict[str, Any]:
    """What each control holds, by its name."""
    return {name: control.value for name, control in controls.items()}


def mistake(error: UserError) -> str:
    """The line of an error, to stand where the answer would."""
    return templates().from_string("<p>{{ it }}</p>").render(it=error)
