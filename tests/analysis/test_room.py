"""The room and shares of it: the tables against plain means, the verdict by what was shown."""

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import room as module
from dagf.analysis.contrasts import contrast_of
from dagf.retrieval.statistics import share
from dagf.study.study import Study
from tests.fixtures import copied

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def toy(toy: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return copied(toy, tmp_path_factory.mktemp("room"))


def level(study: Study, arm: str, heads: bool) -> float:
    """The plain mean mAP of an arm on Medium, in per cent."""
    table = study.table([arm], heads=heads)
    return float(table[table["setting"] == "Medium"]["mAP"].mean())


@pytest.mark.parametrize("heads", [False, True])
def test_every_ceiling_is_shown_with_the_mean_and_without(toy: Study, heads: bool) -> None:
    table = module.ceiling_table(toy, heads)
    assert table["descriptors"].value_counts().to_dict() == dict.fromkeys(
        ("as they are", "without their mean"), 4 if heads else 3
    )
    first, last = table.iloc[0], table.iloc[-1]
    for row, study, arm in (first, toy, "oracle"), (last, toy.centred, "oracle-trained"):
        gem = level(study, "gem", heads)
        assert float(row["GeM"]) == pytest.approx(gem, abs=0.051)
        room = level(study, arm, heads) - gem
        assert float(row["room [95 %]"].split()[0]) == pytest.approx(room, abs=0.0051)


def test_gains_are_over_gem_as_it_is_and_so_is_the_room_of_the_best_ceiling(toy: Study) -> None:
    (found,) = module.gains(toy, ["channel"], heads=True)
    gem = level(toy, "gem", True)
    assert found.level == pytest.approx(gem)
    assert found.gain.joint.mean == pytest.approx(level(toy, "channel", True) - gem)
    ceiling, centred = module.BEST[True]
    reached = level(toy.centred if centred else toy, ceiling, True)
    assert found.room.joint.mean == pytest.approx(reached - gem)


def test_tables_have_a_row_a_module_and_a_row_an_attention(toy: Study) -> None:
    table = module.module_table(toy)
    assert table["module"].iloc[[0, -1]].tolist() == ["spatial attention", "all three, end to end"]
    attentions = module.attention_table(toy, ["crow", "spatial"])
    assert attentions["method"].tolist() == ["CroW", "GeM + spatial"]


@pytest.mark.parametrize(
    ("room", "gain", "verdict"),
    [(5, 2, "gains"), (5, -2, "loses"), (5, 0, "no gain shown"), (0, 2, "no room shown")],
)
def test_a_verdict_says_first_whether_there_is_room(room: float, gain: float, verdict: str) -> None:
    rng, clusters = np.random.default_rng(0), np.arange(40)

    def around(mean: float) -> pd.DataFrame:
        return pd.DataFrame(mean + rng.normal(0, 1, (40, 5)) * np.array([1, -1, 1, -1, 0]))

    parts = [around(gain), around(room)]
    made = [contrast_of(one, clusters, "one", "GeM", "Medium") for one in parts]
    found = module.Gain(40.0, *made, share(*parts, clusters))
    assert found.cells()["verdict"] == verdict
    shown = found.cells()["share of the room"]
    assert (shown == "–") == (room == 0)
    if room:
        part = parts[0].mean(axis=None) / parts[1].mean(axis=None)
        assert shown.startswith(f"{100 * part:.0f} %")
