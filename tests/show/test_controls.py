"""Controls and the page that follows them."""

import ipywidgets as widgets

from dagf.errors import UserError
from dagf.show.controls import follow


def test_the_page_follows_each_change_once_and_says_mistakes() -> None:
    made = []

    def page(first: int, second: int) -> str:
        made.append((first, second))
        if first > second:
            raise UserError(f"{first} > {second}")
        return f"{first} and {second}"

    controls = {"first": widgets.IntText(1), "second": widgets.IntText(2)}
    *_, result = follow(controls, page, shown=["second"]).children
    assert result.value == "1 and 2"
    controls["first"].value = 3
    assert result.value == "<p>3 &gt; 2</p>"
    first, second = controls.values()
    with first.hold_trait_notifications(), second.hold_trait_notifications():
        first.value, second.value = 5, 6  # together: one page
    assert result.value == "5 and 6"
    assert made == [(1, 2), (3, 2), (5, 6)]
