"""What the registered contrasts say of the abstract: its claims, each with a verdict, under Holm's correction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dagf.analysis import bins
from dagf.analysis.contrasts import Contrast, cells
from dagf.analysis.localise import SMALL
from dagf.analysis.registered import (
    HEADS,
    TRAINED,
    UNTRAINED,
    Named,
    beside,
    family,
    gem_levels,
    primary,
)
from dagf.analysis.tables import RUNS, traced
from dagf.retrieval.statistics import holm
from dagf.study.study import Study

LEVEL = 0.05
ABOVE, BEFORE = "above zero", "before correction"
NOT_EXPECTED = "; no gain is expected here, and it decides nothing"
NUISANCES = {
    "clutter": "the share of the image that other things cover",
    "occlusion": "the hidden share of the landmark",
    "scale": "the share of the image that the landmark covers",
}
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
    testable here'. measured_on: which networks. effects: those contrasts, and what stands beside them and decides
    nothing; without any, `why` says it.
    """

    sentence: str
    verdict: str
    measured_on: str
    notebook: str
    effects: tuple[Effect, ...] = ()
    why: str = ""


def claims(study: Study) -> list[Claim]:
    """The abstract's claims. One is supported only if *every* contrast under it is above zero after Holm."""
    named, levels, others, whole = family(study), gem_levels(study), beside(study), primary(study)
    adjusted = {_key(one): p for one, p in _corrected(named)}

    def effect(one: Named) -> Effect:
        found = one.contrast
        where = "" if found.setting == whole.setting else f", {found.setting}"
        result = _result(found, adjusted.get(_key(one), 0.0))
        return Effect(
            _minus(found) + where + (" †" if one.late else ""),
            found.joint.signed,
            result,
            found.runs,
        )

    def claim(
        sentence: str, chosen: Sequence[Named], more: Sequence[Effect] = (), note: str = ""
    ) -> Claim:
        effects, first = [effect(one) for one in chosen], chosen[0]
        held = all(one.result == ABOVE for one in effects)
        measured = MEASURED_ON[first.group]
        measured += f" (GeM: {levels[measured]:.1f} mAP)" if measured in levels else ""
        verdict = "supported" if held else "not supported"
        return Claim(sentence, verdict, measured + note, first.notebook, (*effects, *more))

    def of(group: str, *places: int) -> list[Named]:
        members = [one for one in named if one.group == group]
        return [members[place] for place in places] if places else members

    heads, schemes = ([_aside(one) for one in others[group]] for group in ("rivals", "masks"))
    alone = effect(*of("control", 1))
    alone = replace(alone, result=f"{alone.result}{NOT_EXPECTED}")
    return [
        claim("The whole network is better than the plain descriptor GeM: the primary contrast",
              [Named("primary", whole, "06_benchmark_tables")]),
        claim("DAGF's head is better than each of the other descriptors and attentions", of("rivals"), heads,
              "; GeM is no rival here: it has the claim above, and its head the last row"),
        claim("Spatial attention by the region evaluator helps", of("modules", 0)),
        claim("Channel attention by a trainable vector helps", of("modules", 1)),
        claim("The two attentions are complementary: together better than either alone", of("modules", 2, 3)),
        claim("Scale filters (max windows of several sizes) help", of("masks", 0)),
        claim("The MAX-Mask takes out what is meaningless: better than no mask, and than dropping as many places at "
              "random", of("masks", 1, 2, 3), schemes, "; the last two rows: the mask under the windows, and both"),
        claim("Against clutter and occlusion: the gain over GeM grows with them, and is above zero where they are "
              "worst", of("nuisances", 0, 1, 3, 4)),
        claim("Varying size matters less: the gain over GeM grows as the landmark gets smaller, and is above zero "
              "where it is smallest", of("nuisances", 2, 5)),
        claim("The gain over GeM comes from clutter, occlusion and scale: larger than on drawings without them (the "
              "control)", of("control", 0), [alone]),
        claim("The attention lies on the landmark: more than the mere strength of the features (feature norm), and "
              "than a bright centre (centre prior), by all three scores", of("attention maps", *range(6))),
        Claim("Better than the state of the art on four well-known data sets", "not testable here", "not measured",
              "06_benchmark_tables", why="the four sets are not part of this project, and the paper's own figures are "
              "not open to us"),
    ]  # fmt: skip


def headline(study: Study) -> str:
    """What comes out, in a paragraph: DAGF against GeM, each module against GeM, and how many contrasts say what."""
    named, per_query = (
        family(study),
        [one for claim in claims(study) for one in claim.effects if _counts(one)],
    )
    whole, (heads,), (_, scheme) = primary(study), *beside(study).values()
    table = study.table(["gem"])
    gem = table[
        (table["setting"] == study.test.middle.name) & (table["query_set"] == study.test.first_set)
    ]
    raised, lowered = (
        "; ".join(
            f"{one.contrast.what}, {one.contrast.joint.signed}{'' if p < LEVEL else f' ({BEFORE})'}"
            for one, p in _corrected(named)
            if one.group in ("modules", "masks")
            and one.contrast.minus == "GeM"
            and one.contrast.verdict == verdict
        )
        for verdict in ("above", "below")
    )
    up, down, level = (
        [one for one in per_query if one.result.startswith(word)]
        for word in ("above", "below", "no ")
    )
    only = [sum(one.result.endswith(BEFORE) for one in found) for found in (down, up)]
    over, late = (
        any(" minus GeM" in one.contrast for one in up),
        sum("†" in one.contrast for one in per_query),
    )
    words = [
        f"{_minus(whole)}, trained end to end: {whole.joint.signed} points of mAP, {_result(whole, 0)}; GeM has "
        f"{gem['mAP'].mean():.1f} mAP there, and of its first ten answers {gem['mP@10'].mean() / 10:.1f} are right. "
        f"Their heads alone, on frozen maps: {_aside(heads).difference}, {_aside(heads).result}.",
        f"Shown to raise GeM's mAP when added alone, on frozen maps: {raised or 'no module'}. Shown to lower it: "
        f"{lowered or 'none'}. Windows and mask together, minus GeM: {scheme.joint.signed}, {_aside(scheme).result}.",
        f"Of the {len(per_query)} contrasts below that decide a claim ({late} of them, marked †, added after a first look "
        f"at results), {len(level)} show no difference, which refutes nothing. {len(down)} are below zero, {only[0]} "
        f"of them only before the correction for the number of tests; {len(up)} are above, {only[1]} of them only "
        f"before it{'' if over else ', and none of these is a gain over GeM'}.",
    ]
    return " ".join(words)


def reading(study: Study) -> str:
    """How the contrasts are to be read: their units, and the bins of the nuisances."""
    mild, worst = (
        {name: edges[place][0] for name, edges in bins.BINS.items()} for place in (0, -1)
    )
    ends = "; ".join(
        f"{name} ({what}) {mild[name]} and {worst[name]}" for name, what in NUISANCES.items()
    )
    return (
        f"Differences are points of mAP on {study.test.middle.name}, but for the attention maps: points of pixel AUC "
        "(how well a map's height tells the landmark's pixels from the others; 50 % is chance), of pointing (how often "
        "its maximum lies on the landmark) and of energy inside (how much of its sum lies on the landmark, where that "
        f"covers {100 * SMALL:.0f} % of the image at most). For clutter, occlusion and scale the right images of each "
        "query are split into three bins and judged one bin at a time, those of the others neither right nor wrong; "
        f"worst minus mildest is the gain in the worst bin less that in the mildest. Mildest and worst: {ends}."
    )


def _counts(one: Effect) -> bool:
    """Whether an effect is one of those by which a claim is judged."""
    return not one.result.endswith(("exploratory", NOT_EXPECTED))


def _corrected(named: Sequence[Named]) -> list[tuple[Named, float]]:
    """The members of the family, each with Holm's p over all of them."""
    return list(zip(named, holm([one.contrast.p for one in named]), strict=True))


def _aside(found: Contrast) -> Effect:
    result = _result(found, 0.0) + (", uncorrected" if found.verdict in ("above", "below") else "")
    return Effect(_minus(found), found.joint.signed, f"{result}, exploratory", found.runs)


def _key(one: Named) -> tuple[str, str, str, str]:
    return one.group, one.contrast.what, one.contrast.minus, one.contrast.setting


def _minus(found: Contrast) -> str:
    """The two sides of a contrast, in brackets where they are names of several words."""
    return " minus ".join(
        f"({side})" if " " in side else side for side in (found.what, found.minus)
    )


def _result(found: Contrast, p: float) -> str:
    """What a contrast shows. p: as Holm adjusts it; 0 for the primary contrast, which stands alone."""
    if found.verdict == "no difference shown":
        return found.verdict
    return f"{found.verdict} zero" + ("" if p < LEVEL else f", {BEFORE}")


def family_table(study: Study) -> pd.DataFrame:
    """The secondary family: one row a contrast, with Holm's p over the whole family and the result under it."""
    rows = []
    for one, p in _corrected(family(study)):
        found = one.contrast
        rows.append(
            {
                "group": one.group,
                "what": found.what + (" †" if one.late else ""),
                "minus": found.minus,
                "on": found.setting,
                **cells(found, {"result": _result(found, p)}),
                "p": f"{found.p:.3f}",
                "p (Holm)": f"{p:.3f}",
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
