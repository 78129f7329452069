"""The registered analysis: Holm over the whole family, and the verdicts that follow (contrasts: test_registered)."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import bins, claims, registered
from dagf.analysis.claims import Effect, claim_table, family_table
from dagf.analysis.contrasts import Contrast, contrast
from dagf.analysis.registered import RIVALS, Named
from dagf.retrieval.statistics import Interval, holm
from dagf.study.config import RunConfig
from dagf.study.opening import control_of
from dagf.study.study import Study
from tests.fixtures import TOY

NOTEBOOKS = {
    "rivals": "06",
    "modules": "05",
    "masks": "04",
    "nuisances": "05",
    "control": "05",
    "attention maps": "03",
}
GROUPS = {"rivals": 3, "modules": 4, "masks": 4, "nuisances": 6, "control": 2, "attention maps": 12}
ROWS = (
    *(
        "primary",
        "rivals",
        "spatial",
        "channel",
        "complementary",
        "windows",
        "mask",
        "clutter and occlusion",
        "scale",
    ),
    *("control", "maps", "state of the art"),
)


def found(
    mean: float = 2.0, p: float = 1e-4, margin: float = 1.0, what: str = "a", minus: str = "b"
) -> Contrast:
    interval = Interval(mean, mean - margin, mean + margin)
    return Contrast(
        what, minus, "Medium", "query", 5, 70, 70, interval, interval, interval, p, p / 2
    )


NOTHING = found(0.1, 0.8)
HEADS = found(0.2, what="DAGF's head", minus="GeM's head", margin=1.0)
BESIDE = {
    "rivals": [HEADS],
    "masks": [found(-2.0, what="all", minus="windows"), found(-3.0, what="all", minus="none")],
}
Judged = Callable[..., dict[str, claims.Claim]]


@pytest.fixture
def per_query(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """The claims, by `ROWS`, of a family in which all is clearly above 0 but for the contrasts that are named."""

    def evaluate(primary: Contrast | None = None, **others: Contrast) -> Any:
        named = []
        for group, count in GROUPS.items():
            for place in range(count):
                one = others.pop(f"{group.replace(' ', '_')}_{place}", found())
                named.append(
                    Named(
                        group,
                        Contrast(**{**vars(one), "what": f"{group} {place}"}),
                        NOTEBOOKS[group],
                    )
                )
        assert not others
        monkeypatch.setattr(claims, "family", lambda _: named)
        monkeypatch.setattr(claims, "beside", lambda _: BESIDE)
        monkeypatch.setattr(
            claims, "gem_levels", lambda _: {"untrained heads on frozen maps": 12.34}
        )
        monkeypatch.setattr(claims, "primary", lambda _: primary or found(what="DAGF", minus="GeM"))
        return dict(zip(ROWS, claims.claims(None), strict=True))  # type: ignore[arg-type]

    return evaluate


def unsupported(rows: dict[str, claims.Claim]) -> set[str]:
    assert rows["state of the art"].verdict == "not testable here"
    assert {row.verdict for row in rows.values()} <= {
        "supported",
        "not supported",
        "not testable here",
    }
    return {name for name, row in rows.items() if row.verdict == "not supported"}


def test_all_is_supported_where_all_is_above(per_query: Judged) -> None:
    rows = per_query()
    assert unsupported(rows) == set()
    assert rows["primary"].effects == (
        Effect("DAGF minus GeM", "+2.00 [+1.00, +3.00]", "above zero"),
    )
    assert [effect.contrast for effect in rows["complementary"].effects] == [
        "(modules 2) minus b",
        "(modules 3) minus b",
    ]
    assert rows["windows"].measured_on == "untrained heads on frozen maps (GeM: 12.3 mAP)"
    assert rows["mask"].measured_on.startswith(
        "untrained heads on frozen maps (GeM: 12.3 mAP); the last two rows"
    )
    assert rows["maps"].measured_on == "attention maps of DAGF, trained end to end"
    assert [row.notebook[:2] for row in rows.values()] == [
        "06", "06", "05", "05", "05", "04", "04", "05", "05", "05", "03", "06",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("primary", "primary"), ("modules_0", "spatial"), ("modules_1", "channel"), ("modules_2", "complementary"),
        ("modules_3", "complementary"), ("masks_0", "windows"), ("masks_1", "mask"), ("masks_2", "mask"),
        ("masks_3", "mask"), *((f"nuisances_{place}", "clutter and occlusion") for place in (0, 1, 3, 4)),
        ("nuisances_2", "scale"), ("nuisances_5", "scale"), ("control_0", "control"),
        *((f"attention_maps_{place}", "maps") for place in range(6)),
        *((f"rivals_{place}", "rivals") for place in range(3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("other", [NOTHING, found(-2.0), found(2.0, margin=2.5)])
def test_a_claim_needs_each_of_its_contrasts_and_no_other(
    per_query: Judged, name: str, row: str, other: Contrast
) -> None:
    assert unsupported(per_query(**{name: other})) == {row}


def test_a_lead_over_the_strongest_rival_does_not_hide_a_doubtful_one(per_query: Judged) -> None:
    """All are shown, and GeM's head last; a large lead with a wide interval is not above 0."""
    rows = per_query(rivals_1=found(1.5), rivals_2=found(9.0, 0.3, margin=12.0))
    assert rows["rivals"].effects[1] == Effect(
        "(rivals 1) minus b", "+1.50 [+0.50, +2.50]", "above zero"
    )
    assert [one.contrast for one in rows["rivals"].effects] == [
        *(f"(rivals {place}) minus b" for place in range(3)), "(DAGF's head) minus (GeM's head)",
    ]  # fmt: skip
    assert unsupported(rows) == {"rivals"}


def test_the_gain_on_the_control_is_shown_and_none_is_expected(per_query: Judged) -> None:
    for other, result in (
        (found(-2.0), "below zero"),
        (NOTHING, "no difference shown"),
        (found(), "above zero"),
    ):
        rows = per_query(control_1=other)
        assert unsupported(rows) == set()
        assert (
            rows["control"].effects[-1].result
            == f"{result}; no gain is expected here, and it decides nothing"
        )


def test_the_headline_counts_what_was_registered(
    per_query: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {"modules_0": found(-1.5, 0.02, minus="GeM"), "masks_0": found(0.1, 0.8, minus="GeM")}
    modules |= {"masks_1": found(-2.5, minus="GeM")}
    others = {"rivals_1": found(2.0, 0.02), "attention_maps_6": found(-2.0), "control_1": NOTHING}
    per_query(primary=found(0.1, 0.9), **modules, **others)
    monkeypatch.setattr(claims, "gem_levels", lambda _: {})
    rows = [
        ("Medium", "query", 10.0, 30.0),
        ("Medium", "query", 12.0, 34.0),
        ("Hard", "query", 1.0, 1.0),
    ]
    table = pd.DataFrame(rows, columns=["setting", "query_set", "mAP", "mP@10"])
    test = SimpleNamespace(middle=SimpleNamespace(name="Medium"), first_set="query")
    study: Any = SimpleNamespace(table=lambda arms: table if arms == ["gem"] else None, test=test)
    words = claims.headline(study)
    assert words == (
        "a minus b, trained end to end: +0.10 [-0.90, +1.10] points of mAP, no difference shown; GeM has 11.0 mAP "
        "there, and of its first ten answers 3.2 are right. Their heads alone, on frozen maps: +0.20 [-0.80, "
        "+1.20], no difference shown, exploratory. Shown to raise GeM's mAP when added alone, on frozen maps: no "
        "module. Shown to lower it: modules 0, -1.50 [-2.50, -0.50] (before correction); masks 1, -2.50 [-3.50, "
        "-1.50]. Windows and mask together, minus GeM: -3.00 [-4.00, -2.00], below zero, uncorrected, exploratory. "
        "Of the 25 contrasts below that decide a claim (0 of them, marked †, added after a first look at results), "
        "2 show no difference, which refutes nothing. 2 are below zero, 1 of them only before the correction for "
        "the number of tests; 21 are above, 1 of them only before it, and none of these is a gain over GeM."
    )


def test_the_reading_names_the_bins() -> None:
    study: Any = SimpleNamespace(test=SimpleNamespace(middle=SimpleNamespace(name="Medium")))
    words = claims.reading(study)
    assert set(claims.NUISANCES) == set(bins.BINS)
    assert "occlusion (the hidden share of the landmark) below 5 % and above 25 %" in words
    assert "where that covers 25 % of the image at most" in words


def test_holm_goes_over_the_whole_family(per_query: Judged) -> None:
    """Of thirty-one, one p of 0.04 is the last in line and multiplied by 1; of two large ones the smaller is by 2."""
    assert unsupported(per_query(modules_0=found(p=0.04))) == set()
    assert unsupported(per_query(modules_0=found(p=0.03), masks_0=found(p=0.04))) == {
        "spatial",
        "windows",
    }
    weak = {
        f"{group.replace(' ', '_')}_{place}": found(p=0.002)
        for group, n in GROUPS.items()
        for place in range(n)
    }
    assert len(weak) == 31
    assert unsupported(per_query(**weak)) == set(ROWS) - {
        "primary",
        "state of the art",
    }  # 31 x 0.002 > 0.05
    assert unsupported(per_query(**{name: found(p=0.0015) for name in weak})) == set()


def test_what_could_not_be_tested_is_not_supported(per_query: Judged) -> None:
    unsure = Interval(5, float("nan"), float("nan"))
    one_seed = Contrast(
        "a", "b", "Medium", "query", 1, 70, 70, unsure, unsure, Interval(5, 4, 6), unsure.low, 1e-4
    )
    assert unsupported(per_query(modules_0=one_seed, primary=one_seed)) == {"primary", "spatial"}


def test_the_primary_contrast_is_outside_the_family(per_query: Judged) -> None:
    assert unsupported(per_query(primary=found(p=0.049))) == set()
    assert unsupported(per_query(primary=found(p=0.9), **{f"modules_{n}": found(p=0.9) for n in range(4)})) == {
        "spatial", "channel", "complementary",
    }  # fmt: skip


def test_what_stands_beside_a_claim_decides_nothing(per_query: Judged) -> None:
    """Far below zero, it is shown last, called exploratory, and its claim holds all the same."""
    mask = per_query()["mask"]
    assert mask.verdict == "supported"
    assert len(mask.effects) == 5
    assert mask.effects[-1] == Effect(
        "all minus none", "-3.00 [-4.00, -2.00]", "below zero, uncorrected, exploratory"
    )


def test_a_contrast_that_was_added_after_a_look_is_marked(
    per_query: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(
        "†" in effect.contrast for claim in per_query().values() for effect in claim.effects
    )
    late = [
        Named(one.group, one.contrast, one.notebook, one.group == "control")
        for one in claims.family(None)
    ]  # type: ignore[arg-type]
    monkeypatch.setattr(claims, "family", lambda _: late)
    marked = [
        claim.sentence
        for claim in claims.claims(None)
        for one in claim.effects
        if one.contrast.endswith(" †")  # type: ignore[arg-type]
    ]
    assert len(marked) == 2
    assert all("the control" in one for one in marked)
    table = family_table(None)  # type: ignore[arg-type]
    assert list(table["what"].str.endswith(" †")) == list(table["group"] == "control")


def test_the_tables_say_what_the_claims_say(per_query: Judged) -> None:
    rows = per_query(modules_0=found(p=0.04), masks_0=found(p=0.04), rivals_0=found(-2.0))
    table = claim_table(None)  # type: ignore[arg-type]
    names = ["claim", "verdict", "measured on", "contrast", "difference [95 %]", "result", "report"]
    assert list(table.columns) == names
    shown = table.drop_duplicates("claim")
    assert list(shown["verdict"]) == [row.verdict for row in rows.values()]
    assert table["claim"].value_counts().to_dict() == {
        row.sentence: len(row.effects) or 1 for row in rows.values()
    }
    alone = table.set_index("contrast")["result"]
    assert (alone["(modules 0) minus b"], alone["(modules 1) minus b"]) == (
        "above zero, before correction",
        "above zero",
    )
    assert table.iloc[-1]["contrast"] == rows["state of the art"].why
    family = family_table(None).set_index("what")  # type: ignore[arg-type]
    assert list(family["group"]) == [group for group, count in GROUPS.items() for _ in range(count)]
    raw = [0.04 if what in ("modules 0", "masks 0") else 1e-4 for what in family.index]
    assert list(family["p"].astype(float)) == [round(p, 3) for p in raw]
    assert np.allclose(family["p (Holm)"].astype(float), holm(raw), atol=5e-4)
    others = dict.fromkeys(("modules 0", "masks 0"), "above zero, before correction") | {
        "rivals 0": "below zero"
    }
    assert family["result"].to_dict() == {
        what: others.get(str(what), "above zero") for what in family.index
    }
    assert family["difference [95 %]"]["rivals 0"] == "-2.00 [-3.00, -1.00]"
    assert family["over seeds"]["rivals 0"] == "[-3.00, -1.00], 5"
    assert family["over queries (groups)"]["rivals 0"] == "[-3.00, -1.00], 70 (70)"


@pytest.mark.usefixtures("one_process")
def test_the_whole_analysis_of_a_tiny_study(
    toy: Study, toy_root: Path, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGF_ROOT", str(toy_root))
    family = family_table(toy)
    assert family["group"].value_counts().to_dict() == GROUPS | {
        "rivals": len({*RIVALS} & {*TOY["heads"]["arms"]})
    }
    assert not family.duplicated(
        ["group", "what", "minus", "on"]
    ).any()  # each has its own place under Holm
    sides = {
        f"{side} zero{after}"
        for side in ("above", "below")
        for after in ("", ", before correction")
    }
    assert set(family["result"]) <= {*sides, "no difference shown"}
    assert list(family["on"].unique()) == [
        "Medium", *(f"{nuisance}: worst minus mildest" for nuisance in bins.BINS),
        *(f"{nuisance}: {edges[-1][0]}" for nuisance, edges in bins.BINS.items()), "Medium, control",
        "pixel AUC", "pointing", "energy inside",
    ]  # fmt: skip
    table = claim_table(toy)
    assert table["claim"].nunique() == len(ROWS)
    by_hand = contrast(toy, "dagf", "gem", "Medium")
    assert table["verdict"][0] == ("supported" if by_hand.verdict == "above" else "not supported")
    assert table["contrast"][0] == "DAGF minus GeM"
    assert table["difference [95 %]"][0] == by_hand.joint.signed
    still = registered.control(toy)
    assert still.setting == "Medium, control"
    assert still.mean == pytest.approx(contrast(control_of(toy), "dagf", "gem", "Medium").mean)
    beyond, _ = registered.controls(toy)
    assert beyond.queries <= min(still.queries, by_hand.queries)
    assert trained == []  # all of it comes from the run store
