"""From judged queries to tables: summaries, contrasts and verdicts by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import contrasts
from dagf.analysis.contrasts import Contrast, contrast, contrast_of, contrast_table, summary
from dagf.retrieval.statistics import Interval, sign_flip, t_interval, two_way
from tests.analysis.pretended import Pretended

nan = float("nan")


def test_summary_by_hand() -> None:
    rows = [
        ("query", "Easy", 40.0, "dagf", 0, "a1"), ("query", "Easy", 44.0, "dagf", 1, "b2"),
        ("query", "Easy", 30.0, "gem", 0, ""), ("query-2", "Easy", 5.04, "gem", 0, ""),
        ("query", "Hard", 7.0, "gem", 0, ""), ("query", "Hard", 7.0, "dagf", 1, "b2"),
    ]  # fmt: skip
    names = ["query_set", "setting", "mAP", "arm", "seed", "run"]
    table = summary(pd.DataFrame(rows, columns=names))
    found = table.set_index(["query set", "method"])
    assert list(table.columns) == ["query set", "method", "seeds", "Easy", "Hard", "runs"]
    assert found["Easy"]["query", "DAGF"] == str(t_interval([40, 44])) == "42.0 [16.6, 67.4]"
    assert found["Easy"]["query-2", "GeM"] == "5.0"
    assert found["Hard"]["query", "GeM"] == "7.0"
    assert found["seeds"]["query", "DAGF"] == 2
    assert found["runs"].tolist() == ["a1 (seed 0), b2 (seed 1)", "", ""]


def test_contrast_by_hand() -> None:
    dagf = [[0.5, 0.6, nan, 0.9], [0.5, 0.5, nan, 0.5]]
    gem = [[0.4, 0.4, nan, 0.6], [0.3, 0.2, nan, 0.4]]
    study: Any = Pretended((0, 1, 2, 3), dagf=dagf, gem=gem)
    found = contrast(study, "dagf", "gem", "Medium")
    assert (found.seeds, found.queries) == (2, 3)
    assert found.over_seeds == pytest.approx(t_interval([20, 20]))
    assert found.over_queries.mean == pytest.approx(20)
    assert found.over_queries.low >= 15 - 1e-9
    assert found.over_queries.high <= 25 + 1e-9
    assert found.verdict == "above"
    joint, _ = two_way([[10, 20], [20, 30], [30, 10]], [0, 1, 2])
    assert found.joint == pytest.approx(joint)
    # Of the eight sign patterns of three queries, these signs and their mirror image.
    assert found.p == 2 / 8
    (row,) = contrast_table([found]).to_dict("records")
    assert (row["what"], row["minus"], row["verdict"]) == ("DAGF", "GeM", found.verdict)
    assert row["difference [95 %]"] == joint.signed
    assert row["p"] == "0.250"
    assert row["over seeds"] == "[+20.00, +20.00], 2"
    assert row["over queries (groups)"] == "[+15.00, +25.00], 3 (3)"
    # nothing is trained in the other
    assert row["runs"] == found.runs == "DAGF: dagf-0 (seed 0), dagf-1 (seed 1)"
    back = contrast(study, "gem", "dagf", "Medium")
    assert back.joint.mean == back.over_seeds.mean == pytest.approx(-20)
    together: Any = Pretended((0, 0, 0, 0), dagf=dagf, gem=gem)
    one = contrast(together, "dagf", "gem", "Medium")
    assert np.isnan(one.over_queries.low)  # one cluster: nothing to draw, so no side is taken
    assert one.verdict == "no difference shown"
    assert np.isnan(one.p)


def test_a_query_that_lacks_a_seed_is_left_out() -> None:
    values = {0: [1.0, np.nan, 3.0, 7.0], 1: [3.0, 9.0, 5.0, np.nan]}
    apart = pd.DataFrame(values, index=[4, 1, 0, 2])
    found = contrast_of(apart, np.array([5, 6, 7, 8, 9]), "a", "b", "Hard", "query-2")
    assert (found.queries, found.clusters, found.seeds) == (2, 2, 2)  # queries 4 and 0
    assert found.over_seeds == t_interval([2, 4])
    assert found.over_queries.mean == 3
    about = (found.what, found.minus, found.setting, found.query_set)
    assert about == ("a", "b", "Hard", "query-2")
    assert found.p == max(two_way([[1, 3], [3, 5]], [0, 1])[1], sign_flip([2, 4], [0, 1]))


@pytest.mark.parametrize(
    ("one", "others", "verdict"),
    [
        ((1, 5), (1, 5), "above"), ((-5, -1), (-5, -1), "below"),
        ((1, 5), (-1, 5), "no difference shown"),
        ((-1, 5), (1, 5), "no difference shown"), ((-5, -1), (1, 5), "no difference shown"),
        ((0, 5), (1, 5), "no difference shown"), ((nan, nan), (1, 5), "no difference shown"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", range(3))
def test_a_verdict_needs_every_interval(
    one: tuple[float, float], others: tuple[float, float], verdict: str, place: int
) -> None:
    intervals = [Interval(0, *(one if number == place else others)) for number in range(3)]
    assert Contrast("dagf", "gem", "Medium", "query", 3, 9, 9, *intervals, 0.01).verdict == verdict


@pytest.mark.parametrize(
    ("groups", "least"), [(5, "0.0625"), (10, "0.0020"), (13, "0.0002"), (70, "0.0001")]
)
def test_the_words_of_a_table_say_how_small_its_p_can_get(groups: int, least: str) -> None:
    clusters = np.arange(groups).repeat(2)
    test = SimpleNamespace(clusters=lambda: clusters, queries=[None] * 2 * groups)
    study: Any = SimpleNamespace(test=test, profile=SimpleNamespace(seeds=(0, 1, 2)))
    words = contrasts.sample_words(study)
    start = f"Test split: {2 * groups} queries in {groups} groups, 3 seeds;"
    assert words == f"{start} no p can be below {least}."
    assert "1 seed;" in contrasts.sample_words(study, [4])
    smallest = sign_flip(np.ones(2 * groups), clusters)  # all clusters agree
    assert smallest == pytest.approx(float(least), abs=1e-4)
