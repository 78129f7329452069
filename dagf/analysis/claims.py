"""What the registered contrasts say of the abstract: its claims and verdicts, after Holm."""

from typing import NamedTuple

import pandas as pd

from dagf.analysis.contrasts import Contrast, cells
from dagf.analysis.registered import FAMILY, beside, family, gem_levels, primary
from dagf.analysis.tables import RUNS, traced
from dagf.study.study import Study

LEVEL = 0.05  # of Holm's p
ABOVE, BEFORE = "above zero", "before correction"
ASIDE = "exploratory"
EXPECTED = "no gain is expected here, and it decides nothing"
MEASURED_ON = {  # which networks the contrasts of a group compare
    "primary": "trained end to end",
    "rivals": "trained heads on frozen maps",
    "modules": "trained heads on frozen maps",
    "masks": "untrained heads on frozen maps",
    "nuisances": "trained end to end",
    "control": "trained end to end",
    "attention maps": "attention maps of DAGF, trained end to end",
}


class Claim(NamedTuple):
    """A sentence of the abstract (or of this study) and the contrasts that decide it.

    group: of the secondary family, or 'primary'. places: of its contrasts; empty: all of them.
    asides: whether what stands beside the group is shown, too.
    """

    sentence: str
    group: str
    places: tuple[int, ...] = ()
    asides: bool = False


CLAIMS = (
    Claim("The whole network is better than plain GeM: the primary contrast", "primary"),
    Claim("DAGF's head is better than every other descriptor and attention", "rivals", asides=True),
    Claim("Spatial attention by the region evaluator helps", "modules", (0,)),
    Claim("Channel attention by a trainable vector helps", "modules", (1,)),
    Claim("The two attentions are complementary: better than either alone", "modules", (2, 3)),
    Claim("Scale filters (max windows of several sizes) help", "masks", (0,)),
    Claim(
        "The MAX-Mask takes out what is meaningless: better than no mask, and than dropping as "
        "many places at random",
        *("masks", (1, 2, 3), True),
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
        *("control", (0,), True),
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


class Effect(NamedTuple):
    """A contrast under a claim, and what it shows.

    result: 'above zero', 'below zero' (both with 'before correction' if Holm's p over the whole
    family is not below `LEVEL`) or 'no difference shown'. Asides, which decide nothing, say so.
    """

    contrast: Contrast
    result: str
    late: bool = False
    decides: bool = True


def effects(study: Study) -> dict[Claim, list[Effect]]:
    """Return each claim with its contrasts, those last that stand beside it and decide nothing."""
    others, members, whole = beside(study), family(study), primary(study)
    groups = {"primary": [Effect(whole, _result(whole, 0.0))]}
    for one in members:
        found = Effect(one.contrast, _result(one.contrast, one.adjusted), one.late)
        groups.setdefault(one.group, []).append(found)
    _, still = groups["control"]
    still = still._replace(result=f"{still.result}; {EXPECTED}", decides=False)
    asides = {"control": [still]}
    for group, contrasts in others.items():
        asides[group] = [Effect(one, _aside(one), decides=False) for one in contrasts]
    shown = dict[Claim, list[Effect]]()
    for claim in CLAIMS:
        own = groups[claim.group]
        shown[claim] = [own[place] for place in claim.places or range(len(own))]
        shown[claim] += asides[claim.group] if claim.asides else []
    return shown


def _result(found: Contrast, p: float) -> str:
    """What a contrast shows. p: as Holm adjusts it; 0 for the primary one, which stands alone."""
    if found.verdict == "no difference shown":
        return found.verdict
    return f"{found.verdict} zero" + ("" if p < LEVEL else f", {BEFORE}")


def _aside(found: Contrast) -> str:
    corrected = "" if found.verdict == "no difference shown" else ", uncorrected"
    return f"{_result(found, 0.0)}{corrected}, {ASIDE}"


def claim_table(study: Study) -> pd.DataFrame:
    """Return a row a contrast; the claim and its verdict stand in each of its rows.

    verdict: 'supported' if every contrast that decides it is above zero after Holm, else 'not
    supported'. †: added after a look at the test split.
    """
    levels, setting = gem_levels(study), study.test.middle.name
    rows = []
    for claim, found in effects(study).items():
        held = all(one.result == ABOVE for one in found if one.decides)
        measured = MEASURED_ON[claim.group]
        level = f" (GeM: {levels[measured]:.1f} mAP)" if measured in levels else ""
        notebook = FAMILY[claim.group].notebook if claim.group in FAMILY else "06_benchmark_tables"
        for one in found:
            on = "" if one.contrast.setting == setting else f", {one.contrast.setting}"
            row = {
                "claim": claim.sentence,
                "verdict": "supported" if held else "not supported",
                "measured on": measured + level,
                "contrast": _minus(one.contrast) + on + (" †" if one.late else ""),
                "difference [95 %]": one.contrast.joint.signed,
                "result": one.result,
                "report": notebook,
                RUNS: one.contrast.runs,
            }
            rows.append(row)
    return traced([*rows, NOT_TESTABLE])


def _minus(found: Contrast) -> str:
    """The two sides of a contrast, in brackets where they are names of several words."""
    sides = (f"({side})" if " " in side else side for side in (found.what, found.minus))
    return " minus ".join(sides)


def family_table(study: Study) -> pd.DataFrame:
    """Return the secondary family: a row a contrast, with Holm's p over the whole family."""
    return traced(
        {
            "group": one.group,
            "what": one.contrast.what + (" †" if one.late else ""),
            "minus": one.contrast.minus,
            "on": one.contrast.setting,
            **cells(one.contrast, {"result": _result(one.contrast, one.adjusted)}),
            "p (Holm)": f"{one.adjusted:.3f}",
            RUNS: one.contrast.runs,
        }
        for one in family(study)
    )
