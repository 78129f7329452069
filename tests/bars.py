"""What the progress bars of a module are told."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


@dataclass
class Bar:
    """A bar: its words, how many it was told of (None: unknown), how many it has counted."""

    what: str
    total: int | None
    counted: int = 0


def watch(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """The bars that the functions of `module` show from here on."""
    bars: list[Bar] = []

    def progress(
        items: Iterable[Any],
        what: str,
        total: int | None = None,
        unit: str = "image",
        amount: Callable[[Any], int] = lambda _: 1,
    ) -> Iterator[Any]:
        bar = Bar(what, total)
        bars.append(bar)
        for item in items:
            yield item
            bar.counted += amount(item)

    monkeypatch.setattr(module, "progress", progress)
    return bars
