"""The registered analysis: one primary contrast and a secondary family, adjusted together.

Everything here is computed from the run store. Contrasts that are not listed here are exploratory,
wherever they are shown. What they say of the abstract: `dagf.analysis.claims`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from dagf.analysis import ablations
from dagf.analysis.contrasts import (
    Contrast,
    backbone_words,
    contrast,
    contrast_of,
    points,
    runs_of,
)
from dagf.analysis.grid import grid, of_first_set
from dagf.analysis.localise import SMALL, localisations
from dagf.analysis.tables import run_words
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import holm
from dagf.study.study import Study, control_of

PRIMARY = ("dagf", "gem")  # end to end
RIVALS = ("mac", "spoc", "rmac", "crow", "netvlad", "solar", "glam", "delf", "se", "cbam", "eca")
MODULES = (  # each attention alone against GeM, and both together against each alone
    *(("spatial", "gem"), ("channel", "gem")),
    *(("attention", "spatial"), ("attention", "channel")),
)
Scheme = tuple[str, str]  # windows and mask, as `grid` names them
SCHEMES: tuple[tuple[Scheme, Scheme], ...] = (  # one minus another
    (("max 1, 2, 3", "none"), ("1", "none")),
    (("1", "max"), ("1", "none")),
    (("1", "max"), ("1", "random")),
    (("max 1, 2, 3", "max"), ("max 1, 2, 3", "random")),
)
MASK_WORDS = {"none": "", "max": "MAX-Mask", "random": "random mask"}
MAPS = ("feature norm", "centre prior", "Grad-CAM", "random map")  # minus which attention is scored
SCORES = {"AUC": "pixel AUC", "pointing": "pointing", "energy": "energy inside"}


def primary(study: Study) -> Contrast:
    """Return the registered DAGF minus GeM, both end to end, on the middle setting."""
    return contrast(study, *PRIMARY, study.test.middle.name)


def head_contrast(study: Study, arm: str, baseline: str) -> Contrast:
    """Return one head minus another, both on the same frozen maps, on the middle setting."""
    return contrast(study, arm, baseline, study.test.middle.name, heads=True)


def rivals(study: Study) -> list[Contrast]:
    """Return DAGF minus every other descriptor, as heads, each at its best validation trial."""
    arms = [arm for arm in RIVALS if arm in study.profile.plan(heads=True).arms]
    return [head_contrast(study, "dagf", arm) for arm in arms]


def modules(study: Study) -> list[Contrast]:
    """Return each attention alone against GeM, and both together against each alone."""
    return [head_contrast(study, *pair) for pair in MODULES]


def interaction(study: Study) -> Contrast:
    """Return (both - GeM) - (spatial - GeM) - (channel - GeM): above 0, more than their sum."""
    arms, setting = ("attention", "spatial", "channel", "gem"), study.test.middle.name
    both, spatial, channel, gem = points(study, arms, setting, heads=True)
    apart, names = both - spatial - channel + gem, ("both + GeM", "spatial + channel")
    runs = runs_of(study, *arms, heads=True)
    return contrast_of(apart, study.test.clusters(), *names, setting, runs=runs)


def masks(study: Study, schemes: Sequence[tuple[Scheme, Scheme]] = SCHEMES) -> list[Contrast]:
    """Return windows and masks minus fewer of them: untrained, on frozen maps, with GeM.

    Random masks are averaged over their draws.
    """
    setting, clusters, runs = study.test.middle.name, study.test.clusters(), backbone_words(study)
    cells = of_first_set(grid(study, setting)).query("pooling == 'GeM'")
    levels: Any = 100 * cells.pivot_table("AP", "query", ["windows", "mask", "seed"])
    found = []
    for one, other in schemes:
        names = scheme_name(*one), scheme_name(*other)
        apart = levels[one] - levels[other]
        found.append(contrast_of(apart, clusters, *names, setting, runs=runs))
    return found


def scheme_name(windows: str, mask: str) -> str:
    """Return what GeM under windows and a mask is called in tables."""
    wide = "" if windows == "1" else windows.replace("max", "max windows")
    return " + ".join(filter(None, ("GeM", wide, MASK_WORDS[mask])))


def nuisances(study: Study) -> list[Contrast]:
    """Return the growth of the primary contrast with each nuisance, then its worst bins."""
    found = [ablations.gains(study, *PRIMARY, nuisance) for nuisance in ablations.BINS]
    return [gains[-1] for gains in found] + [gains[-2] for gains in found]


def controls(study: Study) -> list[Contrast]:
    """Return the primary contrast minus itself on the control, then that on the control alone.

    The difference, paired by seed and landmark, is what the nuisances account for; on the control
    no gain is expected. The queries of both are of the same landmarks in the same order.
    """
    setting, control = study.test.middle.name, control_of(study)
    (dagf, gem), (still_dagf, still_gem) = (
        points(one, PRIMARY, setting) for one in (study, control)
    )
    apart = (dagf - gem) - (still_dagf - still_gem)
    names = " − ".join(VARIANTS[arm].title for arm in PRIMARY), "the same on the control"
    runs = f"{runs_of(study, *PRIMARY)}; control: {runs_of(control, *PRIMARY)}"
    beyond = contrast_of(apart, study.test.clusters(), *names, setting, runs=runs)
    return [beyond, replace(primary(control), setting=f"{setting}, control")]


def looks(study: Study) -> list[Contrast]:
    """Return the region evaluator's scores against exact masks minus those of other maps.

    Paired by image and seed, landmarks as clusters.
    """
    table, found = localisations(study), []
    runs = run_words((seed, study.run("dagf", seed).id) for seed in study.profile.seeds)
    for other in MAPS:
        for score, title in SCORES.items():
            part = table[table["area"] <= SMALL] if score == "energy" else table
            scores: Any = 100 * part.pivot_table(score, ["landmark", "file"], ["map", "seed"])
            apart = scores["region evaluator"] - scores[other]
            landmarks = apart.index.get_level_values("landmark").to_numpy(np.int64)
            apart, names = apart.reset_index(drop=True), ("region evaluator", other, title)
            found.append(contrast_of(apart, landmarks, *names, runs=runs))
    return found


class Group(NamedTuple):
    """A part of the secondary family.

    measured: which networks its contrasts compare. late: the places of those that were added after
    a look at the test split.
    """

    contrasts: Callable[[Study], list[Contrast]]
    notebook: str
    measured: str
    late: frozenset[int] = frozenset()


ENDS, HEADS = "trained end to end", "trained heads on frozen maps"
UNTRAINED = "untrained heads on frozen maps"
FAMILY = {
    "rivals": Group(rivals, "06_benchmark_tables", HEADS),
    "modules": Group(modules, "05_attention_ablation", HEADS),
    "masks": Group(masks, "04_scale_and_mask_ablation", UNTRAINED),
    # the worst bins
    "nuisances": Group(nuisances, "05_attention_ablation", ENDS, frozenset({3, 4, 5})),
    # the second had been registered in words, but left out of the family
    "control": Group(controls, "05_attention_ablation", ENDS, frozenset({0, 1})),
    # all but the AUC against feature norm and centre prior
    "attention maps": Group(
        looks, "03_attention_maps", f"attention maps of DAGF, {ENDS}", frozenset(range(12)) - {0, 3}
    ),
}


class Member(NamedTuple):
    """A contrast of a group.

    place: in the group; -1 of what stands beside it. late: added after a look at the test split.
    adjusted: its p under Holm's correction over the whole family; 0 of what is outside.
    """

    group: str
    place: int
    contrast: Contrast
    late: bool = False
    adjusted: float = 0.0


def family(study: Study) -> list[Member]:
    """Return the registered secondary family, in its order."""
    found = [
        Member(name, place, one, place in group.late)
        for name, group in FAMILY.items()
        for place, one in enumerate(group.contrasts(study))
    ]
    adjusted = holm([one.contrast.p for one in found])
    return [one._replace(adjusted=float(p)) for one, p in zip(found, adjusted, strict=True)]


def beside(study: Study) -> list[Member]:
    """Return what a reader misses among the members of a group. Not registered: decides nothing.

    DAGF minus GeM as heads, beside the other rivals; the whole scheme minus its windows alone and
    minus GeM, beside windows and mask.
    """
    heads = replace(head_contrast(study, *PRIMARY), what="DAGF's head", minus="GeM's head")
    whole, windows, nothing = ("max 1, 2, 3", "max"), ("max 1, 2, 3", "none"), ("1", "none")
    schemes = masks(study, [(whole, windows), (whole, nothing)])
    return [Member("rivals", -1, heads), *(Member("masks", -1, one) for one in schemes)]


def gem_levels(study: Study) -> dict[str, float]:
    """Return GeM's mAP (per cent) in each comparison: end to end, as a head, untrained."""
    setting = study.test.middle.name
    ends, heads = (points(study, ["gem"], setting, heads=heads)[0] for heads in (False, True))
    cells = of_first_set(grid(study, setting))
    plain = cells.query("pooling == 'GeM' and windows == '1' and mask == 'none'")
    levels = ends.mean().mean(), heads.mean().mean(), 100 * plain["AP"].mean()
    return dict(zip((ENDS, HEADS, UNTRAINED), map(float, levels), strict=True))
