"""The registered analysis: one primary contrast, a secondary family under Holm, and what both say of the abstract.

Everything here is computed from the run store. Contrasts that are not listed here are exploratory, wherever they are
shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import holm
from dagf.study import bins
from dagf.study.experiment import Study
from dagf.study.grid import grid
from dagf.study.localise import localisations
from dagf.study.opening import control_of
from dagf.study.results import Contrast, cells, contrast, contrast_of, differences, query_points

PRIMARY = ("dagf", "gem")  # end to end
RIVALS = ("mac", "spoc", "rmac", "crow", "netvlad", "solar", "glam", "delf", "se", "cbam", "eca")  # heads
ALONE = (("spatial", "gem"), ("channel", "gem"))
TOGETHER = (("attention", "spatial"), ("attention", "channel"))
LEVEL = 0.05

MEASURED_ON = {  # which networks the contrasts of a group compare
    "primary": "trained end to end",
    "rivals": "trained heads on frozen maps",
    "modules": "trained heads on frozen maps",
    "masks": "untrained heads on frozen maps",
    "nuisances": "trained end to end",
    "control": "trained end to end",
    "attention maps": "attention maps of DAGF, trained end to end",
}
MASK_WORDS = {"none": "", "max": "MAX-Mask", "random": "random mask"}


@dataclass(frozen=True)
class Named:
    """A contrast with its place in the registered analysis: the group, and the notebook that shows it."""

    group: str
    contrast: Contrast
    notebook: str


def primary(study: Study) -> Contrast:
    """The registered DAGF minus GeM, both end to end, on the middle setting."""
    return contrast(study, *PRIMARY, middle(study))


def middle(study: Study) -> str:
    """The setting of the primary contrast: Medium, or the only one."""
    return study.test.settings[len(study.test.settings) // 2].name


def rivals(study: Study) -> list[Contrast]:
    """DAGF minus every other descriptor, all as heads on the same frozen maps, each at its best validation trial."""
    arms = [arm for arm in RIVALS if arm in study.plan(sweep=True).arms]
    return [contrast(study, "dagf", arm, middle(study), sweep=True) for arm in arms]


def modules(study: Study) -> list[Contrast]:
    """Each attention alone against GeM, and both together against each alone."""
    return [contrast(study, *pair, middle(study), sweep=True) for pair in (*ALONE, *TOGETHER)]


def interaction(study: Study) -> Contrast:
    """(both - GeM) - (spatial - GeM) - (channel - GeM): above 0, the two do more together than their sum."""
    arms = ("attention", "spatial", "channel", "gem")
    answers = study.answered(arms, sweep=True)
    both, spatial, channel, gem = (
        pd.DataFrame({seed: query_points(answers[arm, seed].judged, middle(study)) for seed in study.profile.seeds})
        for arm in arms
    )
    return contrast_of(
        both - spatial - channel + gem, study.test.clusters(), "both + GeM", "spatial + channel", middle(study)
    )


def masks(study: Study) -> list[Contrast]:
    """Untrained, on frozen maps with GeM: windows against none, and the MAX-Mask against none and the random mask."""
    table = grid(study, middle(study))
    table = table[table["pooling"] == "GeM"]
    pairs = [
        (("max 1, 2, 3", "none"), ("1", "none")),
        (("1", "max"), ("1", "none")),
        (("1", "max"), ("1", "random")),
        (("max 1, 2, 3", "max"), ("max 1, 2, 3", "random")),
    ]
    return [grid_contrast(study, table, *pair) for pair in pairs]


def grid_contrast(study: Study, table: pd.DataFrame, one: tuple[str, str], other: tuple[str, str]) -> Contrast:
    """One (windows, mask) minus another, of the rows of `grid` with one pooling; random masks averaged over draws."""

    def points(windows: str, mask: str) -> pd.DataFrame:
        part = table[(table["windows"] == windows) & (table["mask"] == mask) & (table["positives"] > 0)]
        return 100 * part.pivot_table("AP", "query", "seed", aggfunc="mean")

    return contrast_of(
        points(*one) - points(*other), study.test.clusters(), _scheme(*one), _scheme(*other), middle(study)
    )


def _scheme(windows: str, mask: str) -> str:
    parts = ("GeM", "" if windows == "1" else f"{windows.replace('max', 'max windows')}", MASK_WORDS[mask])
    return " + ".join(filter(None, parts))


def nuisances(study: Study) -> list[Contrast]:
    """DAGF minus GeM (both end to end): the growth from the first to the worst bin of each nuisance, then what it
    ends in, the gain in each worst bin."""
    found = [bins.gains(study, *PRIMARY, nuisance) for nuisance in bins.BINS]
    return [gains[-1] for gains in found] + [gains[-2] for gains in found]


def control(study: Study) -> Contrast:
    """The primary contrast on the control Toytown, where no gain is expected."""
    found = contrast(control_of(study), *PRIMARY, middle(study))
    return replace(found, setting=f"{found.setting}, control")


def beyond_control(study: Study) -> list[Contrast]:
    """The primary contrast minus itself on the control, paired by seed and landmark: what the nuisances account for.

    The queries of both are of the same landmarks in the same order.
    """
    apart = differences(study, *PRIMARY, middle(study)) - differences(control_of(study), *PRIMARY, middle(study))
    gain = " − ".join(VARIANTS[arm].title for arm in PRIMARY)
    return [contrast_of(apart, study.test.clusters(), gain, "the same on the control", middle(study))]


def looks(study: Study) -> list[Contrast]:
    """The region evaluator's pixel AUC minus that of the plain feature norm, and minus that of the centre prior."""
    table = localisations(study)
    auc = 100 * table.pivot_table(index=["landmark", "file"], columns=["map", "seed"], values="AUC")
    auc = auc.reset_index(level="landmark")
    clusters = auc.pop("landmark").to_numpy(np.int64)
    auc = auc.reset_index(drop=True)
    setting = "pixel AUC, per cent"
    return [
        contrast_of(pd.DataFrame(auc["region evaluator"] - auc[other]), clusters, "region evaluator", other, setting)
        for other in ("feature norm", "centre prior")
    ]


def family(study: Study) -> list[Named]:
    """The registered secondary family, in its order."""
    groups = (
        ("rivals", "06_benchmark_tables", rivals),
        ("modules", "05_attention_ablation", modules),
        ("masks", "04_scale_and_mask_ablation", masks),
        ("nuisances", "05_attention_ablation", nuisances),
        ("control", "05_attention_ablation", beyond_control),
        ("attention maps", "03_attention_maps", looks),
    )
    return [Named(group, one, notebook) for group, notebook, found in groups for one in found(study)]


@dataclass(frozen=True)
class Effect:
    """A contrast under a claim: in words, its joint interval, and what it shows, Holm's correction taken in.

    result: 'above zero', 'below zero' or 'no difference shown'; the first two with 'before correction' where Holm's
    p over the whole secondary family is not below `LEVEL`.
    """

    contrast: str
    difference: str
    result: str


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
    named = family(study)
    adjusted = dict(zip(map(_key, named), holm([one.contrast.p for one in named]), strict=True))

    def effect(one: Named) -> Effect:
        found = one.contrast
        where = f", {found.setting}" if one.group == "nuisances" else ""
        return Effect(_minus(found) + where, found.joint.signed, _result(found, adjusted.get(_key(one), 0.0)))

    def claim(sentence: str, chosen: Sequence[Named], shown: Sequence[Named] = ()) -> Claim:
        held = all(effect(one).result == "above zero" for one in chosen)
        verdict, first = "supported" if held else "not supported", chosen[0]
        return Claim(sentence, verdict, MEASURED_ON[first.group], first.notebook, tuple(map(effect, shown or chosen)))

    def of(group: str, *places: int) -> list[Named]:
        members = [one for one in named if one.group == group]
        return [members[place] for place in places] if places else members

    first = Named("primary", primary(study), "06_benchmark_tables")
    least = min(of("rivals"), key=lambda one: one.contrast.mean)
    return [
        claim("The whole network is better than the plain descriptor GeM: the primary contrast", [first]),
        claim("DAGF's head is better than every other registered descriptor and attention (shown: the rival that does "
              "best against it)", of("rivals"), [least]),
        claim("Spatial attention by the region evaluator helps", of("modules", 0)),
        claim("Channel attention by a trainable vector helps", of("modules", 1)),
        claim("The two attentions are complementary: together better than either alone", of("modules", 2, 3)),
        claim("Scale filters (max windows of several sizes) help", of("masks", 0)),
        claim("The MAX-Mask takes out what is meaningless: better than no mask, and than dropping as many cells at "
              "random", of("masks", 1, 2, 3)),
        claim("Against clutter and occlusion: the gain over GeM grows with them, and is above zero where they are "
              "worst", of("nuisances", 0, 1, 3, 4)),
        claim("Varying size matters less: the gain over GeM grows as the landmark gets smaller, and is above zero "
              "where it is smallest", of("nuisances", 2, 5)),
        claim("The gain over GeM comes from clutter, occlusion and scale: larger than on drawings without them (the "
              "control)", of("control")),
        claim("The attention lies on the landmark: more than the mere strength of the features (feature norm), and "
              "than a bright centre (centre prior)", of("attention maps")),
        Claim("Better than the state of the art on four well-known data sets", "not testable here", "not measured",
              "06_benchmark_tables", why="the four sets are not part of this project, and the paper's own figures are "
              "not open to us"),
    ]  # fmt: skip


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
                "what": found.what,
                "minus": found.minus,
                "on": found.setting,
                **cells(found),
                "p": f"{found.p:.3f}",
                "p (Holm)": f"{p:.3f}",
                "result": _result(found, p),
            }
        )
    return pd.DataFrame(rows)


def claim_table(study: Study) -> pd.DataFrame:
    """`claims` as a table: one row a contrast that is shown; the claim and its verdict stand in each of its rows."""
    return pd.DataFrame(
        [
            {
                "claim": one.sentence,
                "verdict": one.verdict,
                "measured on": one.measured_on,
                "contrast": effect.contrast,
                "difference [95 %]": effect.difference,
                "result": effect.result,
                "report": one.notebook,
            }
            for one in claims(study)
            for effect in one.effects or (Effect(one.why, "", ""),)
        ]
    )
