"""What the registered contrasts say of the abstract: its claims and verdicts, after Holm."""

from typing import NamedTuple

import pandas as pd

from dagf.analysis.contrasts import Contrast, cells
from dagf.analysis.registered import ENDS, FAMILY, Member, beside, family, gem_levels, primary
from dagf.analysis.tables import RUNS
from dagf.study.study import Study

LEVEL = 0.05  # of Holm's p
ABOVE = "above zero"


class Claim(NamedTuple):
    """A sentence of the abstract (or of this study) and the contrasts that decide it.

    group: of the secondary family, or 'primary'. places: of its contrasts; empty: all of them.
    asides: the places of those that are shown, too, and decide nothing.
    """

    sentence: str
    group: str
    places: tuple[int, ...] = ()
    asides: tuple[int, ...] = ()


CLAIMS = (
    Claim("The whole network is better than plain GeM: the primary contrast", "primary"),
    Claim(
        "DAGF's head is better than every other descriptor and attention", "rivals", asides=(-1,)
    ),
    Claim("Spatial attention by the region evaluator helps", "modules", (0,)),
    Claim("Channel attention by a trainable vector helps", "modules", (1,)),
    Claim("The two attentions are complementary: better than either alone", "modules", (2, 3)),
    Claim("Scale filters (max windows of several sizes) help", "masks", (0,)),
    Claim(
        "The MAX-Mask takes out what is meaningless: better than no mask, and than dropping as "
        "many places at random",
        *("masks", (1, 2, 3), (-1,)),
    ),
    Claim(
        "Against clutter and occlusion: the gain over GeM grows with them, and is above zero "
        "where they are worst",
        *("nuisances", (0, 1, 3, 4)),
    ),
    Claim(
        "Varying size matters less: the gain over GeM grows as the landmark gets smaller, and is "
        "above zero where it is smallest",
        *("nuisances", (2, 5)),
    ),
    Claim(
        "The gain over GeM comes from clutter, occlusion and scale: larger than on drawings "
        "without them (the control)",
        *("control", (0,), (1,)),
    ),
    Claim(
        "The attention lies on the landmark: more than the mere strength of the features (feature "
        "norm), and than a bright centre (centre prior), by all three scores",
        *("attention maps", tuple(range(6))),
    ),
)
NOT_TESTABLE = {
    "claim": "Better than the state of the art on four well-known data sets",
    "verdict": "not testable here",
    "measured on": "not measured",
    "contrast": "the four sets are not part of this project, the paper's figures not open",
    **dict.fromkeys(("difference [95 %]", "result"), ""),
    "report": "06_benchmark_tables",
}


def result(one: Member) -> str:
    """Return 'above zero', 'below zero' or 'no difference shown'.

    The first two with 'before correction' where Holm's p is not below `LEVEL`.
    """
    if one.contrast.verdict == "no difference shown":
        return one.contrast.verdict
    return f"{one.contrast.verdict} zero" + ("" if one.adjusted < LEVEL else ", before correction")


def aside(one: Member) -> str:
    """Return the result of what decides nothing, which it says."""
    if one.place >= 0:
        return f"{result(one)}; no gain is expected here, and it decides nothing"
    shown = one.contrast.verdict != "no difference shown"
    return result(one) + (", uncorrected" if shown else "") + ", exploratory"


def claim_table(study: Study) -> pd.DataFrame:
    """Return a row a contrast; the claim and its verdict stand in each of its rows.

    verdict: 'supported' if every contrast that decides it is above zero after Holm, else 'not
    supported'. †: added after a look at the test split.
    """
    members = [Member("primary", 0, primary(study)), *family(study), *beside(study)]
    levels, rows = gem_levels(study), []
    for claim in CLAIMS:
        group, about = [one for one in members if one.group == claim.group], FAMILY.get(claim.group)
        decide = [one for one in group if one.place in (claim.places or range(len(group)))]
        results = [(one, result(one)) for one in decide]
        held = all(words == ABOVE for _, words in results)
        results += [(one, aside(one)) for one in group if one.place in claim.asides]
        measured = about.measured if about else ENDS
        level = f" (GeM: {levels[measured]:.1f} mAP)" if measured in levels else ""
        for one, words in results:
            row = {
                "claim": claim.sentence,
                "verdict": "supported" if held else "not supported",
                "measured on": measured + level,
                "contrast": in_words(one.contrast, study) + (" †" if one.late else ""),
                "difference [95 %]": one.contrast.joint.signed,
                "result": words,
                "report": about.notebook if about else "06_benchmark_tables",
                RUNS: one.contrast.runs,
            }
            rows.append(row)
    return pd.DataFrame([*rows, NOT_TESTABLE])


def in_words(found: Contrast, study: Study) -> str:
    """Return the two sides of a contrast, in brackets where their names are of several words."""
    sides = (f"({side})" if " " in side else side for side in (found.what, found.minus))
    on = "" if found.setting == study.test.middle.name else f", {found.setting}"
    return " minus ".join(sides) + on


def family_table(study: Study) -> pd.DataFrame:
    """Return the secondary family: a row a contrast, with Holm's p over the whole family."""
    rows = [
        {
            "group": one.group,
            "what": one.contrast.what + (" †" if one.late else ""),
            "minus": one.contrast.minus,
            "on": one.contrast.setting,
            **cells(one.contrast, {"result": result(one)}),
            "p (Holm)": f"{one.adjusted:.3f}",
            RUNS: one.contrast.runs,
        }
        for one in family(study)
    ]
    return pd.DataFrame(rows)
