"""Effects over sets: which tables are pooled, and what stands in them."""

from pathlib import Path
from typing import Any

import pytest

from dagf.analysis.pooled import (
    AGAINST,
    EARLIER,
    ROOMS,
    by_set,
    kept,
    mean_verdicts,
    over_sets,
    pooled,
    staged,
)
from dagf.analysis.rivals import CHOSEN, CHOSEN_PLAIN, SHELF
from dagf.analysis.room import ROOM
from dagf.files import write_json
from dagf.retrieval.statistics import random_effects

COLUMNS = ["what", "minus", "rival", "mAP", "difference [95 %]", "verdict", "standard error"]
STAGED, OPEN = "DAGF and last stage", "no difference shown"


def keep(folder: Path, name: str, rows: list[Any], table: str = AGAINST, **about: Any) -> None:
    facts = {"Backbone": about.pop("backbone", "net"), "Backbone's weights": "imagenet"}
    record = {"columns": about.pop("columns", COLUMNS), "rows": rows, "facts": facts}
    of = {"profile": "five", "benchmark": name.split("-")[0], "train_on": ["a", "b"]}
    write_json(folder / f"{name}.{table}.json", record | {"measured": {"parameters": of | about}})


def row(what: str, minus: str, gain: float, error: float, verdict: str = OPEN) -> list[str]:
    """A row of `AGAINST`: a gain over a rival that has 40 mAP."""
    difference = f"{gain:+.2f} [{gain - 1:+.2f}, {gain + 1:+.2f}]"
    rival = "R-MAC, untrained" if minus == CHOSEN_PLAIN else "GeM, whitened"
    return [what, minus, rival, f"{40 + gain:.1f} − 40.0", difference, verdict, f"{error:.3f}"]


def mean(*pairs: tuple[float, float]) -> str:
    return random_effects(*zip(*pairs, strict=True))[0].signed


def test_sets_that_learned_alike_are_pooled(tmp_path: Path) -> None:
    assert pooled(tmp_path / "nothing", AGAINST).empty
    rows = [row("DAGF", CHOSEN, 2, 1), row("GeM + x", CHOSEN, 4, 2)]
    asked = [[*one, "query"] for one in rows] + [[*row("DAGF", CHOSEN, 9, 1), "query-iconic"]]
    keep(tmp_path, "a", asked, columns=[*COLUMNS, "query set"])
    own = {"benchmark": "c/gnd_c.json"}
    keep(tmp_path, "c", [row("DAGF", CHOSEN, -1, 2), row("GeM + x", CHOSEN, 0, 1)], **own)
    for name in "bd":  # of the same photographs, whatever the order of names
        keep(tmp_path, name, rows, benchmark="c")
    keep(tmp_path, "e", rows, train_on=["e"])  # learned from others
    found = pooled(tmp_path, AGAINST)
    assert found["what"].tolist() == ["DAGF", "GeM + x"]
    assert set(found["profile"]) == {"five"} and set(found["trained on"]) == {"a, b"}
    assert set(found["backbone"]) == {"net"} and set(found["minus"]) == {CHOSEN}
    assert found["sets"].tolist() == ["a +2.0, c -1.0", "a +4.0, c +0.0"]
    pairs = [((2, 1), (-1, 2)), ((4, 2), (0, 1))]
    assert found["difference [95 %]"].tolist() == [mean(*two) for two in pairs]
    _, between = random_effects([4, 0], [2, 1])
    assert float(found["between sets"][1]) == pytest.approx(between, abs=0.01)
    for name in "ac":  # at another cut
        keep(tmp_path, name, rows, EARLIER, backbone="net layer3")
    assert pooled(tmp_path, AGAINST).equals(found)
    both = pooled(tmp_path, AGAINST, EARLIER)
    assert both["backbone"].tolist() == ["net", "net", "net layer3", "net layer3"]


def test_each_set_has_its_rival_and_the_room(tmp_path: Path) -> None:
    assert by_set(tmp_path).empty
    rows = [row("DAGF", SHELF, 3, 1), row("DAGF", CHOSEN, 2, 1), row("DAGF", CHOSEN_PLAIN, -1, 1)]
    rows += [row("GeM + x", CHOSEN, 9, 1), row(STAGED, CHOSEN, 1, 1)]
    keep(tmp_path, "a", rows)
    room = [["x", "+1"], ["whole", "+9.00 [+8.00, +10.00]"]]
    keep(tmp_path, "a", room, ROOMS, columns=["module", ROOM])
    (first,) = by_set(tmp_path).to_dict("records")
    assert first == {
        "photographs": "a",
        "backbone": "net",
        "DAGF": "+2.00 [+1.00, +3.00] (GeM 40.0)",
        STAGED: "+1.00 [+0.00, +2.00] (GeM 40.0)",
        "perfect attention": "+9.00 [+8.00, +10.00]",
    }
    (plain,) = by_set(tmp_path, CHOSEN_PLAIN).to_dict("records")
    assert plain["DAGF"] == "-1.00 [-2.00, +0.00] (R-MAC 40.0)"
    keep(tmp_path, "b-five", [row("DAGF", CHOSEN, 5, 2), row(STAGED, CHOSEN, -1, 2)])
    one, two, whole = by_set(tmp_path).to_dict("records")
    assert one == first and (two["photographs"], two["perfect attention"]) == ("b", "")
    means = mean((2, 1), (5, 2)), mean((1, 1), (-1, 2))
    assert [*whole.values()] == ["all 2", "net", *means, ""]
    heads = {"table": EARLIER, "backbone": "net layer3"}
    keep(tmp_path, "a-five", [row("DAGF", CHOSEN, 2, 1)], **heads)
    *before, last = by_set(tmp_path).to_dict("records")
    assert before == [one, two, whole]
    assert (last["photographs"], last["backbone"]) == ("a", "net layer3")
    keep(tmp_path, "b-five", [row("DAGF", CHOSEN, -1, 1)], **heads)  # their mean is in `over_sets`
    assert by_set(tmp_path).to_dict("records") == before


def test_a_gain_is_above_every_rival(tmp_path: Path) -> None:
    assert over_sets(tmp_path).empty
    keep(tmp_path, "z", [row("DAGF", CHOSEN, 1, 1)], train_on=["z"])  # one set is no mean
    for name, shelf, plain in (("a", "above", OPEN), ("b", "above", "above"), ("c", OPEN, "below")):
        rows = [row("DAGF", SHELF, 3, 1, shelf), row("DAGF", CHOSEN, 2, 1, "above")]
        rows += [row("DAGF", CHOSEN_PLAIN, 1, 1, plain), row("GeM + x", CHOSEN, 1, 1, "above")]
        rows += [["chosen DAGF", *one[1:]] for one in rows[:3]]  # is no mean of its own
        keep(tmp_path, name, [*rows, row(STAGED, SHELF, -1, 1, "below")])
    (found,) = over_sets(tmp_path).to_dict("records")
    assert found == {
        "backbone": "net",
        "what": "DAGF",
        "sets": "3",
        "minus the chosen GeM [95 %]": mean((2, 1), (2, 1), (2, 1)),
        "gains / losses beside both GeMs": "2 / 0",
        "minus the chosen plain descriptor [95 %]": mean((1, 1), (1, 1), (1, 1)),
        "gains / losses beside all three": "1 / 0",
    }
    assert mean_verdicts(tmp_path) == ["no gain shown"]


@pytest.mark.parametrize(
    ("gem", "plain", "verdict"),
    [(9, 9, "gains"), (9, 0, "no gain shown"), (-9, 0, "no gain shown"), (-9, -9, "loses")],
)
def test_a_mean_gains_beside_all_rivals(
    tmp_path: Path, gem: float, plain: float, verdict: str
) -> None:
    for name in "abc":
        rows = [row("DAGF", CHOSEN, gem, 0.1), row("DAGF", CHOSEN_PLAIN, plain, 0.1)]
        keep(tmp_path, name, rows)
    assert mean_verdicts(tmp_path) == [verdict]


def test_studies_that_train_a_last_stage_are_told(tmp_path: Path) -> None:
    deep = [["all three"], ["all three, with the last stage"]]
    keep(tmp_path, "a", deep, ROOMS, columns=["module"])
    keep(tmp_path, "b", deep[:1], ROOMS, columns=["module"], backbone="other")
    assert staged(kept(tmp_path, ROOMS), "module").tolist() == [True, True, False]
