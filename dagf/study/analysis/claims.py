"""What the registered contrasts say of the abstract: its claims, each with a verdict, under Holm's correction."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dagf.retrieval.statistics import holm
from dagf.study.analysis.registered import HEADS, TRAINED, UNTRAINED, Named, beside, family, gem_levels, primary
from dagf.study.analysis.results import Contrast, cells
from dagf.study.analysis.tables import RUNS, traced
from dagf.study.experiment import Study

LEVEL = 0.05

MEASURED_ON = {  # which networks the contrasts of a group compare
    "primary": TRAINED,
    "rivals": HEADS,
    "modules": HEADS,
    "masks": UNTRAINED,
    "nuisances": TRAINED,
    "control": TRAINED,
    "attention maps": f"attention maps of DAGF, {TRAINED}",
}


@dataclass(frozen=True)
class Effect:
    """A contrast under a claim: in words, its joint interval, and what it shows, Holm's correction taken in.

    contrast: with a † where it was added after a look at the test split. result: 'above zero', 'below zero' or 'no
    difference shown'; the first two with 'before correction' where Holm's p over the whole secondary family is not
    below `LEVEL`; with 'uncorrected' and 'exploratory' where it is not of the family. runs: what it was computed from.
    """

    contrast: str
    difference: str
    result: str
    runs: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence of the abstract (or of this study) and what the contrasts under it say.

    verdict: 'supported' (every contrast under it is above zero, Holm's correction taken in), 'not supported', or 'not
    testable here'. measured_on: which networks. effects: the contrasts that are shown; without any, `why` says it.
    """

    sentence: str
    verdict: str
    measured_on: str
    notebook: str
    effects: tuple[Effect, ...] = ()
    why: str = ""


def claims(study: Study) -> list[Claim]:
    """The abstract's claims. One is supported only if *every* contrast under it is above zero after Holm."""
    named, levels, others = family(study), gem_levels(study), beside(study)
    adjusted = dict(zip(map(_key, named), holm([one.contrast.p for one in named]), strict=True))

    def effect(one: Named) -> Effect:
        found = one.contrast
        where = f", {found.setting}" if one.group in ("nuisances", "attention maps") else ""
        result = _result(found, adjusted.get(_key(one), 0.0))
        return Effect(_minus(found) + where + (" †" if one.late else ""), found.joint.signed, result, found.runs)

    def claim(sentence: str, chosen: Sequence[Named], shown: Sequence[Named] = (), other: str = "") -> Claim:
        held = all(effect(one).result == "above zero" for one in chosen)
        verdict, first = "supported" if held else "not supported", chosen[0]
        measured = MEASURED_ON[first.group]
        measured += f" (GeM: {levels[measured]:.1f} mAP)" if measured in levels else ""
        effects = [*map(effect, shown or chosen), *([_aside(others[other])] if other in others else [])]
        return Claim(sentence, verdict, measured, first.notebook, tuple(effects))

    def of(group: str, *places: int) -> list[Named]:
        members = [one for one in named if one.group == group]
        return [members[place] for place in places] if places else members

    first = Named("primary", primary(study), "06_benchmark_tables")
    least = min(of("rivals"), key=lambda one: one.contrast.mean)
    return [
        claim("The whole network is better than the plain descriptor GeM: the primary contrast", [first]),
        claim("DAGF's head is better than each of the other descriptors and attentions (shown: the rival that does "
              "best against it; GeM is not among them)", of("rivals"), [least], other="rivals"),
        claim("Spatial attention by the region evaluator helps", of("modules", 0)),
        claim("Channel attention by a trainable vector helps", of("modules", 1)),
        claim("The two attentions are complementary: together better than either alone", of("modules", 2, 3)),
        claim("Scale filters (max windows of several sizes) help", of("masks", 0)),
        claim("The MAX-Mask takes out what is meaningless: better than no mask, and than dropping as many cells at "
              "random (last row: windows and mask together)", of("masks", 1, 2, 3), other="masks"),
        claim("Against clutter and occlusion: the gain over GeM grows with them, and is above zero where they are "
              "worst", of("nuisances", 0, 1, 3, 4)),
        claim("Varying size matters less: the gain over GeM grows as the landmark gets smaller, and is above zero "
              "where it is smallest", of("nuisances", 2, 5)),
        claim("The gain over GeM comes from clutter, occlusion and scale: larger than on drawings without them (the "
              "control)", of("control")),
        claim("The attention lies on the landmark: more than the mere strength of the features (feature norm), and "
              "than a bright centre (centre prior), by all three scores", of("attention maps", *range(6))),
        Claim("Better than the state of the art on four well-known data sets", "not testable here", "not measured",
              "06_benchmark_tables", why="the four sets are not part of this project, and the paper's own figures are "
              "not open to us"),
    ]  # fmt: skip


def _aside(found: Contrast) -> Effect:
    result = _result(found, 0.0) + (", uncorrected" if found.verdict in ("above", "below") else "")
    return Effect(_minus(found), found.joint.signed, f"{result}, exploratory", found.runs)


def _key(one: Named) -> tuple[str, str, str, str]:
    return one.group, one.contrast.what, one.contrast.minus, one.contrast.setting


def _minus(found: Contrast) -> str:
    """The two sides of a contrast, in brackets where they are names of several words."""
    return " minus ".join(f"({side})" if " " in side else side for side in (found.what, found.minus))


def _result(found: Contrast, p: float) -> str:
    """What a contrast shows. p: as Holm adjusts it; 0 for the primary contrast, which stands alone."""
    if found.verdict == "no difference shown":
        return found.verdict
    return f"{found.verdict} zero" + ("" if p < LEVEL else ", before correction")


def family_table(study: Study) -> pd.DataFrame:
    """The secondary family: one row a contrast, with Holm's p over the whole family and the result under it."""
    named = family(study)
    rows = []
    for one, p in zip(named, holm([one.contrast.p for one in named]), strict=True):
        found = one.contrast
        rows.append(
            {
                "group": one.group,
                "what": found.what + (" †" if one.late else ""),
                "minus": found.minus,
                "on": found.setting,
                **cells(found),
                "p": f"{found.p:.3f}",
                "p (Holm)": f"{p:.3f}",
                "result": _result(found, p),
                RUNS: found.runs,
            }
        )
    return traced(rows)


def claim_table(study: Study) -> pd.DataFrame:
    """`claims` as a table: one row a contrast that is shown; the claim and its verdict stand in each of its rows."""
    return traced(
        {
            "claim": one.sentence,
            "verdict": one.verdict,
            "measured on": one.measured_on,
            "contrast": effect.contrast,
            "difference [95 %]": effect.difference,
            "result": effect.result,
            "report": one.notebook,
            RUNS: effect.runs,
        }
        for one in claims(study)
        for effect in one.effects or (Effect(one.why, "", ""),)
    )
