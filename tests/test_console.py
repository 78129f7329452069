import pytest
from tqdm import tqdm

from dagf import console
from dagf.console import progress


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show each bar at once, and what it shows."""
    at_once = {"delay": 0, "mininterval": 0, "miniters": 1}
    monkeypatch.setattr(console, "tqdm", lambda **options: tqdm(**options | at_once))
    monkeypatch.delenv(console.HEADLESS, raising=False)


@pytest.mark.parametrize(
    ("given", "shows"), [({}, True), ({"RANK": "1"}, False), ({console.HEADLESS: "1"}, False)]
)
def test_one_process_shows_a_bar_that_counts(monkeypatch, capsys, given, shows) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert console.headless() == (console.HEADLESS in given)
    assert list(progress(["ab", "c"], "counting", 3, "letter", len)) == ["ab", "c"]
    assert ("3/3" in capsys.readouterr().err) == shows
