"""Effects over sets: which tables are pooled, and what stands in them."""

from pathlib import Path
from typing import Any

import pytest

from dagf.analysis.pooled import AGAINST, EARLIER, MODULES, ROOMS, by_set, over_sets, pooled
from dagf.analysis.room import ROOM
from dagf.files import write_json
from dagf.retrieval.statistics import random_effects

COLUMNS = ["what", "minus", "query set", "difference [95 %]"]
WHITENED = "DAGF, whitened to 256-d, power 0.5"


def keep(
    folder: Path,
    name: str,
    rows: list[Any],
    columns: list[str] = COLUMNS,
    table: str = AGAINST,
    backbone: str = "net",
    **parameters: Any,
) -> None:
    measured = {"photographs": name, "parameters": {"profile": "five", **parameters}}
    facts = {"Backbone": backbone, "Backbone's weights": "imagenet"}
    record = {"columns": columns, "rows": rows, "measured": measured, "facts": facts}
    write_json(folder / f"{name}.{table}.json", record)


def test_sets_that_learned_alike_are_pooled(tmp_path: Path) -> None:
    union = {"train_on": ["a", "b"]}
    chosen, other = "chosen GeM (GeM, whitened to 128-d, power 0.25)", "GeM off the shelf"
    rows = [
        ("DAGF", chosen, "query", "+2.00 [+0.04, +3.96]"),
        ("DAGF", other, "query", "+1.00 [+nan, +nan]"),
        (WHITENED, other, "query", "+4.00 [+0.08, +7.92]"),
        ("DAGF", chosen, "query-iconic", "+9.00 [+8.00, +10.00]"),
    ]
    keep(tmp_path, "a", rows, benchmark="a", **union)
    same = "chosen GeM (GeM, untrained)"  # which is the one off the shelf
    rows = [
        ("DAGF", same, "query", "-1.00 [-2.96, +0.96]"),
        (WHITENED, same, "query", "+0.00 [-1.96, +1.96]"),
    ]
    keep(tmp_path, "c", rows, benchmark="c/gnd_c.json", **union)
    for name in "bd":  # of the same photographs, whatever the order of names
        keep(tmp_path, name, rows, benchmark="c", **union)
    keep(tmp_path, "e", rows, benchmark="e")  # learned from others
    found = pooled(tmp_path, AGAINST).set_index(["what", "minus"])
    assert list(found.index) == [("DAGF", "chosen GeM"), ("DAGF, whitened", "GeM off the shelf")]
    assert set(found["profile"]) == {"five"} and set(found["trained on"]) == {"a, b"}
    assert set(found["backbone"]) == {"net"}
    assert found["sets"].tolist() == ["a +2.0, c -1.0", "a +4.0, c +0.0"]
    for row, effects in zip(found.itertuples(), ([2, -1], [4, 0]), strict=True):
        mean, between = random_effects(effects, [1, 1] if effects[0] == 2 else [2, 1])
        assert row[5].split()[0] == f"{mean.mean:+.2f}"
        assert float(row[6]) == pytest.approx(between, abs=0.01)
    assert pooled(tmp_path / "nothing", AGAINST).empty
    for name, gain in (("a", "+2.00 [+0.04, +3.96]"), ("b-five", "-1.00 [-2.96, +0.96]")):
        rows = [("GeM + x", "GeM", "query", gain)]
        keep(tmp_path, name, rows, table=MODULES, benchmark=name, **union)
    (row,) = pooled(tmp_path, MODULES).to_dict("records")
    assert (row["what"], row["minus"], row["sets"]) == ("GeM + x", "GeM", "a +2.0, b -1.0")


def test_each_set_has_the_best_gem_and_dagf_as_held_out_instances_prefer(tmp_path: Path) -> None:
    gem = "chosen GeM (GeM, whitened to 128-d, power 0.25)"
    deep = "chosen GeM (GeM and last stage)"  # among those that are trained as deep
    shelf, open_ = "GeM off the shelf", "no difference shown"
    rows = [
        ("DAGF", gem, "41.5 − 40.7", "50.0", "+0.82 [-3.76, +5.40]", "no difference shown"),
        (WHITENED, gem, "44.0 − 40.7", "52.0", "+3.30 [+0.12, +6.73]", "above"),
        (WHITENED, shelf, "44.0 − 43.7", "52.0", "+0.30 [-4.12, +4.73]", "no difference shown"),
        ("DAGF and last stage", deep, "45.0 − 40.9", "60.0", "+4.30 [+0.12, +8.00]", "above"),
        ("DAGF and last stage", shelf, "45.0 − 37.1", "60.0", "+7.90 [+0.06, +8.81]", "above"),
        ("DAGF", shelf, "41.5 − 37.1", "50.0", "+4.43 [+0.06, +8.81]", "above"),
    ]
    columns = ["what", "minus", "mAP", "validation", "difference [95 %]", "verdict"]
    union = {"train_on": "union"}
    keep(tmp_path, "a", rows, columns, benchmark="a", **union)
    room = [["x", "+1"], ["whole", "+9.00 [+8.00, +10.00]"]], ["module", ROOM]
    keep(tmp_path, "a", *room, table=ROOMS, **union)
    (found,) = by_set(tmp_path).to_dict("records")
    assert found == {
        "photographs": "a",
        "backbone": "net",
        "chosen GeM, mAP": "40.7",
        "chosen GeM and last stage, mAP": "40.9",
        "DAGF minus it [95 %]": "+3.30 [+0.12, +6.73]",
        "DAGF and last stage minus it [95 %]": "+4.30 [+0.12, +8.00]",
        "perfect attention": "+9.00 [+8.00, +10.00]",
    }
    last = ("DAGF and last stage", deep, "30.0 − 31.0", "20.0", "-1.00 [-3.00, +1.00]", open_)
    rows = [("DAGF", gem, "32.0 − 31.0", "50.0", "+1.00 [-2.31, +4.30]", open_), last]
    keep(tmp_path, "b-five", rows, columns, benchmark="b", **union)
    first, second, whole = by_set(tmp_path).to_dict("records")
    assert first == found and second["photographs"] == "b"
    assert second["perfect attention"] == whole["perfect attention"] == ""
    assert (whole["photographs"], whole["chosen GeM, mAP"]) == ("all 2", "")
    middle, _ = random_effects([3.3, 1], [1, 1])  # intervals of one width
    assert whole["DAGF minus it [95 %]"].split()[0] == f"{middle.mean:+.2f}"
    assert float(whole["DAGF and last stage minus it [95 %]"].split()[0]) < 4.3
    for name, gain in (("a-five", "+2.00 [+0.04, +3.96]"), ("b-five", "-1.00 [-2.96, +0.96]")):
        rows = [("DAGF", gem, "32.0 − 31.0", "50.0", gain, open_)]  # heads alone: one row for all
        keep(tmp_path, name, rows, columns, EARLIER, "net layer3", benchmark=name, **union)
    *before, last = by_set(tmp_path).to_dict("records")
    assert before == [first, second, whole]
    assert (last["photographs"], last["backbone"]) == ("all 2", "net layer3")
    middle, _ = random_effects([2, -1], [1, 1])
    assert last["DAGF minus it [95 %]"].split()[0] == f"{middle.mean:+.2f}"
    fixed, staged = over_sets(tmp_path)  # of what has a last stage alone
    on = "On 2 sets of photographs (net), DAGF"  # a gain is above GeM off the shelf, too
    assert fixed.startswith(f"{on} on a fixed network gains on 0 and loses on 0; the mean over ")
    assert staged.startswith(f"{on} and last stage gains on 1 and loses on 0; the mean over such")
