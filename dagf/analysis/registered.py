"""The registered analysis: one primary contrast and a secondary family.

Everything here is computed from the run store. Contrasts that are not listed here are exploratory, wherever they are
shown. What they say of the abstract: `dagf.analysis.claims`.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dagf.analysis import bins
from dagf.analysis.contrasts import (
    Contrast,
    backbone_words,
    contrast,
    contrast_of,
    differences,
    query_points,
    runs_of,
)
from dagf.analysis.grid import grid, of_first_set
from dagf.analysis.localise import SMALL, localisations
from dagf.analysis.tables import run_words
from dagf.model.variants import VARIANTS
from dagf.study.opening import control_of
from dagf.study.study import Study

TRAINED = "trained end to end"
HEADS = "trained heads on frozen maps"
UNTRAINED = "untrained heads on frozen maps"
PRIMARY = ("dagf", "gem")  # end to end
RIVALS = (
    "mac",
    "spoc",
    "rmac",
    "crow",
    "netvlad",
    "solar",
    "glam",
    "delf",
    "se",
    "cbam",
    "eca",
)  # heads
SINGLE = (("spatial", "gem"), ("channel", "gem"))
TOGETHER = (("attention", "spatial"), ("attention", "channel"))
PLAIN_MAPS = ("feature norm", "centre prior")  # what attention must beat to say anything of its own
OTHER_MAPS = ("Grad-CAM", "random map")
SCORES = {
    "AUC": "pixel AUC",
    "pointing": "pointing",
    "energy": "energy inside",
}  # of an attention map
LATE = {  # the members of a group, by their places, that were added after a look at the test split
    "nuisances": {3, 4, 5},  # the worst bins
    "control": {0, 1},  # the second had been registered in words, but left out of the family
    "attention maps": {*range(12)} - {0, 3},  # all but the AUC against the plain maps
}
MASK_WORDS = {"none": "", "max": "MAX-Mask", "random": "random mask"}


@dataclass(frozen=True)
class Named:
    """A contrast with its place in the registered analysis: the group, and the notebook that shows it.

    late: whether it was added after a look at the test split.
    """

    group: str
    contrast: Contrast
    notebook: str
    late: bool = False


def primary(study: Study) -> Contrast:
    """The registered DAGF minus GeM, both end to end, on the middle setting."""
    return contrast(study, *PRIMARY, study.test.middle.name)


def gem_levels(study: Study) -> dict[str, float]:
    """GeM's mAP (per cent) in each of the three comparisons that contrasts are made in, on the middle setting."""
    setting, first = study.test.middle.name, study.test.first_set
    ends, heads = (study.table(["gem"], heads=heads) for heads in (False, True))
    levels = {TRAINED: ends, HEADS: heads}
    found = {
        name: float(
            table[(table["setting"] == setting) & (table["query_set"] == first)]["mAP"].mean()
        )
        for name, table in levels.items()
    }
    cells = of_first_set(grid(study, setting))
    plain = cells[
        (cells["pooling"] == "GeM") & (cells["windows"] == "1") & (cells["mask"] == "none")
    ]
    return found | {UNTRAINED: 100 * float(plain["AP"].mean())}


def rivals(study: Study) -> list[Contrast]:
    """DAGF minus every other descriptor, all as heads on the same frozen maps, each at its best validation trial."""
    arms = [arm for arm in RIVALS if arm in study.plan(heads=True).arms]
    return [contrast(study, "dagf", arm, study.test.middle.name, heads=True) for arm in arms]


def modules(study: Study) -> list[Contrast]:
    """Each attention alone against GeM, and both together against each alone."""
    return [
        contrast(study, *pair, study.test.middle.name, heads=True) for pair in (*SINGLE, *TOGETHER)
    ]


def interaction(study: Study) -> Contrast:
    """(both - GeM) - (spatial - GeM) - (channel - GeM): above 0, the two do more together than their sum."""
    arms = ("attention", "spatial", "channel", "gem")
    results, asked = (
        study.evaluate(arms, heads=True),
        (study.test.middle.name, study.test.first_set),
    )
    both, spatial, channel, gem = (
        pd.DataFrame(
            {
                seed: query_points(results[arm, seed].per_query, *asked)
                for seed in study.profile.seeds
            }
        )
        for arm in arms
    )
    runs, groups = runs_of(study, *arms, heads=True), study.test.clusters()
    return contrast_of(
        both - spatial - channel + gem,
        groups,
        "both + GeM",
        "spatial + channel",
        study.test.middle.name,
        runs=runs,
    )


def masks(study: Study) -> list[Contrast]:
    """Untrained, on frozen maps with GeM: windows against none, and the MAX-Mask against none and the random mask."""
    table = grid(study, study.test.middle.name)
    table = of_first_set(table[table["pooling"] == "GeM"])
    pairs = [
        (("max 1, 2, 3", "none"), ("1", "none")),
        (("1", "max"), ("1", "none")),
        (("1", "max"), ("1", "random")),
        (("max 1, 2, 3", "max"), ("max 1, 2, 3", "random")),
    ]
    return [grid_contrast(study, table, *pair) for pair in pairs]


def grid_contrast(
    study: Study, table: pd.DataFrame, one: tuple[str, str], other: tuple[str, str]
) -> Contrast:
    """One (windows, mask) minus another, of the rows of `grid` with one pooling; random masks averaged over draws."""

    def points(windows: str, mask: str) -> pd.DataFrame:
        part = table[(table["windows"] == windows) & (table["mask"] == mask)]
        return 100 * part.pivot_table("AP", "query", "seed", aggfunc="mean")

    apart, runs = points(*one) - points(*other), backbone_words(study)
    return contrast_of(
        apart,
        study.test.clusters(),
        _scheme(*one),
        _scheme(*other),
        study.test.middle.name,
        runs=runs,
    )


def _scheme(windows: str, mask: str) -> str:
    parts = (
        "GeM",
        "" if windows == "1" else f"{windows.replace('max', 'max windows')}",
        MASK_WORDS[mask],
    )
    return " + ".join(filter(None, parts))


def nuisances(study: Study) -> list[Contrast]:
    """DAGF minus GeM (both end to end): the growth from the first to the worst bin of each nuisance, then what it
    ends in, the gain in each worst bin."""
    found = [bins.gains(study, *PRIMARY, nuisance) for nuisance in bins.BINS]
    return [gains[-1] for gains in found] + [gains[-2] for gains in found]


def control(study: Study) -> Contrast:
    """The primary contrast on the control Toytown, where no gain is expected."""
    found = contrast(control_of(study), *PRIMARY, study.test.middle.name)
    return replace(found, setting=f"{found.setting}, control")


def controls(study: Study) -> list[Contrast]:
    """The primary contrast minus itself on the control, paired by seed and landmark: what the nuisances account for.
    Then that on the control alone.

    The queries of both are of the same landmarks in the same order.
    """
    setting = study.test.middle.name
    apart = differences(study, *PRIMARY, setting) - differences(
        control_of(study), *PRIMARY, setting
    )
    gain = " − ".join(VARIANTS[arm].title for arm in PRIMARY)
    runs = f"{runs_of(study, *PRIMARY)}; control: {runs_of(control_of(study), *PRIMARY)}"
    beyond = contrast_of(
        apart, study.test.clusters(), gain, "the same on the control", setting, runs=runs
    )
    return [beyond, control(study)]


def looks(study: Study) -> list[Contrast]:
    """The region evaluator's scores against exact masks minus those of other maps: AUC, pointing, energy inside."""
    table = localisations(study)
    runs = run_words((seed, study.run("dagf", seed).id) for seed in study.profile.seeds)
    return [
        _look(table, score, other, runs) for other in PLAIN_MAPS + OTHER_MAPS for score in SCORES
    ]


def _look(table: pd.DataFrame, score: str, other: str, runs: str) -> Contrast:
    """One score of the region evaluator minus that of another map, in points, paired by image and seed."""
    per_query = table[table["area"] <= SMALL] if score == "energy" else table
    points = 100 * per_query.pivot_table(
        index=["landmark", "file"], columns=["map", "seed"], values=score
    )
    apart = pd.DataFrame(points["region evaluator"] - points[other])
    clusters = apart.index.get_level_values("landmark").to_numpy(np.int64)
    apart = apart.reset_index(drop=True)
    return contrast_of(apart, clusters, "region evaluator", other, SCORES[score], runs=runs)


def family(study: Study) -> list[Named]:
    """The registered secondary family, in its order."""
    groups = (
        ("rivals", "06_benchmark_tables", rivals),
        ("modules", "05_attention_ablation", modules),
        ("masks", "04_scale_and_mask_ablation", masks),
        ("nuisances", "05_attention_ablation", nuisances),
        ("control", "05_attention_ablation", controls),
        ("attention maps", "03_attention_maps", looks),
    )
    return [
        Named(group, one, notebook, place in LATE.get(group, ()))
        for group, notebook, found in groups
        for place, one in enumerate(found(study))
    ]


def beside(study: Study) -> dict[str, list[Contrast]]:
    """What a reader misses among the members of a group, by the group. Not registered: it decides nothing.

    DAGF minus GeM as heads, where the family has the other rivals; and the whole scheme minus its windows alone and
    minus GeM, where it has its windows and its mask.
    """
    setting = study.test.middle.name
    heads = contrast(study, *PRIMARY, setting, heads=True)
    table = of_first_set(grid(study, setting))
    table, whole = table[table["pooling"] == "GeM"], ("max 1, 2, 3", "max")
    schemes = [
        grid_contrast(study, table, whole, other)
        for other in (("max 1, 2, 3", "none"), ("1", "none"))
    ]
    return {"rivals": [replace(heads, what="DAGF's head", minus="GeM's head")], "masks": schemes}
