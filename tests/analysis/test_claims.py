"""The claims of the abstract: what decides each, after Holm, and what only stands beside it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import claims
from dagf.analysis.ablations import BINS
from dagf.analysis.claims import CLAIMS, claim_table, family_table
from dagf.analysis.contrasts import Contrast, contrast
from dagf.analysis.registered import RIVALS, Member, controls
from dagf.retrieval.statistics import Interval, holm
from dagf.study.config import RunConfig
from dagf.study.study import Study, control_of
from tests.fixtures import TOY

GROUPS = {"rivals": 3, "modules": 4, "masks": 4, "nuisances": 6, "control": 2, "attention maps": 12}
ROWS = (
    *("primary", "rivals", "spatial", "channel", "complementary", "windows", "mask"),
    *("clutter and occlusion", "scale", "control", "maps", "state of the art"),
)


def found(
    mean: float = 2.0, p: float = 1e-4, margin: float = 1.0, what: str = "a", minus: str = "b"
) -> Contrast:
    interval = Interval(mean, mean - margin, mean + margin)
    return Contrast(what, minus, "Medium", "query", 5, 70, 70, *[interval] * 3, p)


NOTHING = found(0.1, 0.8)
BESIDE = [
    Member("rivals", -1, found(0.2, what="DAGF's head", minus="GeM's head")),
    Member("masks", -1, found(-2.0, what="all", minus="windows")),
    Member("masks", -1, found(-3.0, what="all", minus="none")),
]
Claims = Callable[..., dict[str, pd.DataFrame]]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, toy: Study) -> Claims:
    """The rows of each claim, by `ROWS`; all but what is named is clearly above 0."""

    def evaluate(
        primary: Contrast | None = None, late: str = "", **others: Contrast
    ) -> dict[str, pd.DataFrame]:
        members = []
        for group, count in GROUPS.items():
            for place in range(count):
                one = others.pop(f"{group.replace(' ', '_')}_{place}", found())
                one = replace(one, what=f"{group} {place}")
                members.append(Member(group, place, one, group == late))
        assert not others
        adjusted = holm([one.contrast.p for one in members])
        family = [one._replace(adjusted=p) for one, p in zip(members, adjusted, strict=True)]
        levels = {"untrained heads on frozen maps": 12.34}
        monkeypatch.setattr(claims, "family", lambda _: family)
        monkeypatch.setattr(claims, "beside", lambda _: BESIDE)
        monkeypatch.setattr(claims, "gem_levels", lambda _: levels)
        monkeypatch.setattr(claims, "primary", lambda _: primary or found(what="DAGF", minus="GeM"))
        table = claim_table(toy)
        assert table["claim"].nunique() == len(ROWS) == len(CLAIMS) + 1
        parts = table.groupby("claim", sort=False)
        return dict(zip(ROWS, (part for _, part in parts), strict=True))

    return evaluate


def unsupported(rows: dict[str, pd.DataFrame]) -> set[str]:
    verdicts = {name: part["verdict"].unique().item() for name, part in rows.items()}
    assert verdicts.pop("state of the art") == "not testable here"
    assert set(verdicts.values()) <= {"supported", "not supported"}
    return {name for name, verdict in verdicts.items() if verdict == "not supported"}


def test_all_is_supported_where_all_is_above(tables: Claims) -> None:
    rows = tables()
    assert unsupported(rows) == set()
    (first,) = rows["primary"].to_dict("records")
    assert (first["contrast"], first["result"]) == ("DAGF minus GeM", "above zero")
    assert first["difference [95 %]"] == "+2.00 [+1.00, +3.00]"
    assert list(rows["complementary"]["contrast"]) == ["(modules 2) minus b", "(modules 3) minus b"]
    measured = {name: part["measured on"].iloc[0] for name, part in rows.items()}
    assert measured["windows"] == "untrained heads on frozen maps (GeM: 12.3 mAP)"
    assert measured["maps"] == "attention maps of DAGF, trained end to end"
    assert [part["report"].iloc[0][:2] for part in rows.values()] == [
        "06", "06", "05", "05", "05", "04", "04", "05", "05", "05", "03", "06",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("primary", "primary"), ("modules_0", "spatial"), ("modules_1", "channel"),
        ("modules_2", "complementary"), ("modules_3", "complementary"), ("masks_0", "windows"),
        *((f"masks_{place}", "mask") for place in (1, 2, 3)),
        *((f"nuisances_{place}", "clutter and occlusion") for place in (0, 1, 3, 4)),
        ("nuisances_2", "scale"), ("nuisances_5", "scale"), ("control_0", "control"),
        *((f"attention_maps_{place}", "maps") for place in range(6)),
        *((f"rivals_{place}", "rivals") for place in range(3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("other", [NOTHING, found(-2.0), found(2.0, margin=2.5)])
def test_a_claim_needs_each_of_its_contrasts_and_no_other(
    tables: Claims, name: str, row: str, other: Contrast
) -> None:
    assert unsupported(tables(**{name: other})) == {row}


def test_a_lead_over_the_strongest_rival_does_not_hide_a_doubtful_one(tables: Claims) -> None:
    """All are shown, and GeM's head last; a large lead with a wide interval is not above 0."""
    rows = tables(rivals_1=found(1.5), rivals_2=found(9.0, 0.3, margin=12.0))
    assert rows["rivals"]["difference [95 %]"].iloc[1] == "+1.50 [+0.50, +2.50]"
    assert list(rows["rivals"]["contrast"]) == [
        *(f"(rivals {place}) minus b" for place in range(3)), "(DAGF's head) minus (GeM's head)",
    ]  # fmt: skip
    assert unsupported(rows) == {"rivals"}


@pytest.mark.parametrize(
    ("other", "result"),
    [(found(-2.0), "below zero"), (NOTHING, "no difference shown"), (found(), "above zero")],
)
def test_the_gain_on_the_control_is_shown_and_none_is_expected(
    tables: Claims, other: Contrast, result: str
) -> None:
    rows = tables(control_1=other)
    assert unsupported(rows) == set()
    expected = f"{result}; no gain is expected here, and it decides nothing"
    assert rows["control"]["result"].iloc[-1] == expected


def test_holm_goes_over_the_whole_family(tables: Claims) -> None:
    """Of 31, one p of 0.04 is the last in line and multiplied by 1; of two the smaller by 2."""
    assert unsupported(tables(modules_0=found(p=0.04))) == set()
    two = tables(modules_0=found(p=0.03), masks_0=found(p=0.04))
    assert unsupported(two) == {"spatial", "windows"}
    groups = [(group.replace(" ", "_"), count) for group, count in GROUPS.items()]
    names = [f"{group}_{place}" for group, count in groups for place in range(count)]
    weak = {name: found(p=0.002) for name in names}
    assert len(weak) == 31  # 31 x 0.002 > 0.05
    assert unsupported(tables(**weak)) == set(ROWS) - {"primary", "state of the art"}
    assert unsupported(tables(**{name: found(p=0.0015) for name in weak})) == set()


def test_what_could_not_be_tested_is_not_supported(tables: Claims) -> None:
    unsure = Interval(5, float("nan"), float("nan"))
    intervals = unsure, unsure, Interval(5, 4, 6)
    one_seed = Contrast("a", "b", "Medium", "query", 1, 70, 70, *intervals, unsure.low)
    assert unsupported(tables(modules_0=one_seed, primary=one_seed)) == {"primary", "spatial"}


def test_the_primary_contrast_is_outside_the_family(tables: Claims) -> None:
    assert unsupported(tables(primary=found(p=0.049))) == set()
    weak = {f"modules_{place}": found(p=0.9) for place in range(4)}
    rows = tables(primary=found(p=0.9), **weak)
    assert unsupported(rows) == {"spatial", "channel", "complementary"}


def test_what_stands_beside_a_claim_decides_nothing(tables: Claims) -> None:
    """Far below zero, it is shown last, called exploratory, and its claim holds all the same."""
    mask = tables()["mask"]
    assert set(mask["verdict"]) == {"supported"}
    assert len(mask) == 5
    last = mask.iloc[-1]
    assert last["contrast"] == "all minus none"
    assert last["difference [95 %]"] == "-3.00 [-4.00, -2.00]"
    assert last["result"] == "below zero, uncorrected, exploratory"


def test_a_contrast_that_was_added_after_a_look_is_marked(tables: Claims, toy: Study) -> None:
    assert not any(part["contrast"].str.contains("†").any() for part in tables().values())
    rows = tables(late="control")
    marked = {name for name, part in rows.items() if part["contrast"].str.endswith(" †").any()}
    assert marked == {"control"}
    assert rows["control"]["contrast"].str.endswith(" †").sum() == 2
    table = family_table(toy)
    assert list(table["what"].str.endswith(" †")) == list(table["group"] == "control")


def test_the_family_has_holms_p_over_all_of_it(tables: Claims, toy: Study) -> None:
    rows = tables(modules_0=found(p=0.04), masks_0=found(p=0.04), rivals_0=found(-2.0))
    assert rows["spatial"]["result"].item() == "above zero, before correction"
    assert rows["channel"]["result"].item() == "above zero"
    family = family_table(toy).set_index("what")
    assert list(family["group"]) == [group for group, count in GROUPS.items() for _ in range(count)]
    raw = [0.04 if what in ("modules 0", "masks 0") else 1e-4 for what in family.index]
    assert list(family["p"].astype(float)) == [round(p, 3) for p in raw]
    assert np.allclose(family["p (Holm)"].astype(float), holm(raw), atol=5e-4)
    others = dict.fromkeys(("modules 0", "masks 0"), "above zero, before correction")
    others["rivals 0"] = "below zero"
    assert family["result"].to_dict() == {
        what: others.get(str(what), "above zero") for what in family.index
    }
    row = family.loc["rivals 0"]
    assert row["difference [95 %]"] == "-2.00 [-3.00, -1.00]"
    assert row["over seeds"] == "[-3.00, -1.00], 5"
    assert row["over queries (groups)"] == "[-3.00, -1.00], 70 (70)"


@pytest.mark.usefixtures("one_process")
def test_the_whole_analysis_of_a_tiny_study(
    toy: Study, toy_root: Path, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGF_ROOT", str(toy_root))
    family = family_table(toy)
    rivals = len({*RIVALS} & {*TOY["heads"]["arms"]})
    assert family["group"].value_counts().to_dict() == GROUPS | {"rivals": rivals}
    # each has its own place under Holm
    assert not family.duplicated(["group", "what", "minus", "on"]).any()
    ends = ("", ", before correction")
    sides = {f"{side} zero{end}" for side in ("above", "below") for end in ends}
    assert set(family["result"]) <= {*sides, "no difference shown"}
    assert list(family["on"].unique()) == [
        "Medium", *(f"{nuisance}: worst minus mildest" for nuisance in BINS),
        *(f"{nuisance}: {edges[-1][0]}" for nuisance, edges in BINS.items()), "Medium, control",
        "pixel AUC", "pointing", "energy inside",
    ]  # fmt: skip
    table = claim_table(toy)
    assert list(table.columns) == [
        *("claim", "verdict", "measured on", "contrast", "difference [95 %]", "result"),
        *("report", "runs"),
    ]  # fmt: skip
    by_hand, first = contrast(toy, "dagf", "gem", "Medium"), table.iloc[0]
    assert first["verdict"] == ("supported" if by_hand.verdict == "above" else "not supported")
    assert first["contrast"] == "DAGF minus GeM"
    assert first["difference [95 %]"] == by_hand.joint.signed
    beyond, still = controls(toy)
    assert still.setting == "Medium, control"
    assert still.joint == pytest.approx(
        contrast(control_of(toy), "dagf", "gem", "Medium").joint, nan_ok=True
    )
    assert beyond.queries <= min(still.queries, by_hand.queries)
    assert trained == []  # all of it comes from the run store
