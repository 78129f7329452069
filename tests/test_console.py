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
    ("rank", "headless", "shows"), [("0", "", True), ("1", "", False), ("0", "1", False)]
)
def test_a_bar_counts_amounts_and_one_process_shows_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
    headless: str,
    shows: bool,
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv(console.HEADLESS, headless)
    assert console.headless() == bool(headless)
    assert list(progress(["ab", "c"], "counting", 3, "letter", len)) == ["ab", "c"]
    assert ("3/3" in capsys.readouterr().err) == shows
