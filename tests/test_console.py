import io
import sys

import pytest
from tqdm import tqdm

from dagf import console
from dagf.console import progress


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show each bar at once, and what it shows."""

    class AtOnce(tqdm):
        def __init__(self, **options: object) -> None:
            super().__init__(**options | {"delay": 0, "mininterval": 0, "miniters": 1})

    monkeypatch.setattr(console, "tqdm", AtOnce)
    monkeypatch.delenv(console.HEADLESS, raising=False)


@pytest.mark.parametrize(
    ("given", "shows"), [({}, True), ({"RANK": "1"}, False), ({console.HEADLESS: "1"}, False)]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_one_process_shows_a_bar_that_counts(monkeypatch, terminal, given, shows) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    stream.isatty = lambda: terminal
    monkeypatch.setattr(console, "QUIET", 0.0)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert console.headless() == (console.HEADLESS in given)
    assert list(progress(["ab", "c"], "counting", 3, "letter", len)) == ["ab", "c"]
    assert ("3/3" in stream.getvalue()) == shows


def test_a_log_has_a_line_every_half_minute(monkeypatch, capsys) -> None:
    """Of two that run inside each other, too; and none of what takes less."""
    clock = iter(range(1000))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(console, "_said", 0.0)
    list(progress(range(29), "short"))
    for _ in progress(range(3), "outer"):
        list(progress(range(40), "inner", 40))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and not any("\r" in line for line in lines)
    assert lines[0].startswith("inner:  75% 30/40 [00:30<00:10,")
