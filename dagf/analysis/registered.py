"""The registered analysis: what is compared, as data; Holm over all of it; the abstract's claims.

One primary contrast, and a secondary family that is adjusted together. Everything is computed from
the run store. Contrasts that are not listed here are exploratory, wherever they are shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from dagf import paths
from dagf.analysis.ablations import BINS, gains
from dagf.analysis.contrasts import Contrast, contrast, contrast_of, p_text, points, runs_of
from dagf.analysis.grid import grid, of_first_set
from dagf.analysis.localise import SMALL, localisations
from dagf.analysis.room import BEST
from dagf.analysis.tables import RUNS, run_words
from dagf.files import content_hash
from dagf.model.network import Variant
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import holm
from dagf.study.study import Study, control_of, kept_backbones

LEVEL = 0.05  # of Holm's p
PRIMARY = ("dagf", "gem")  # end to end
RIVALS = ("mac", "spoc", "rmac", "crow", "netvlad", "solar", "glam", "delf", "se", "cbam", "eca")
MODULES = (  # each attention alone against GeM, and both together against each alone
    *(("spatial", "gem"), ("channel", "gem")),
    *(("attention", "spatial"), ("attention", "channel")),
)
SCHEMES = {  # windows and mask, as `grid` names them
    "GeM": ("1", "none"),
    "GeM + MAX-Mask": ("1", "max"),
    "GeM + random mask": ("1", "random"),
    "GeM + max windows 1, 2, 3": ("max 1, 2, 3", "none"),
    "GeM + max windows 1, 2, 3 + MAX-Mask": ("max 1, 2, 3", "max"),
    "GeM + max windows 1, 2, 3 + random mask": ("max 1, 2, 3", "random"),
}
GEM, MASK, RANDOM, WINDOWS, BOTH, BOTH_RANDOM = SCHEMES
MAPS = ("feature norm", "centre prior", "Grad-CAM", "random map")  # minus which attention is scored
SCORES = {"AUC": "pixel AUC", "pointing": "pointing", "energy": "energy inside"}
GROWTH, WORST = -1, -2  # of the contrasts of `gains`
Items = Sequence[Any]


def arms(study: Study, pairs: Items, heads: bool = True) -> list[Contrast]:
    """Return one arm minus another on the middle setting: heads on frozen maps, or end to end."""
    setting = study.test.middle.name
    return [contrast(study, one, other, setting, heads=heads) for one, other in pairs]


def rivals(study: Study, others: Items) -> list[Contrast]:
    """Return DAGF minus other descriptors, as heads, each at its best validation trial."""
    trained = study.profile.plan(heads=True).arms
    return arms(study, [("dagf", arm) for arm in others if arm in trained])


def masks(study: Study, pairs: Items) -> list[Contrast]:
    """Return one of `SCHEMES` minus another: untrained, on frozen maps, with GeM.

    Random masks are averaged over their draws.
    """
    setting, clusters = study.test.middle.name, study.test.clusters()
    backbones = {seed: study.backbone_run(seed) for seed in study.profile.seeds}
    runs = run_words((seed, one.id) for seed, one in backbones.items() if one)
    runs = f"backbones: {runs}" if runs else ""  # elsewhere they are not trained here
    cells = of_first_set(grid(study)).query("pooling == 'GeM'")
    level: Any = 100 * cells.pivot_table("AP", "query", ["windows", "mask", "seed"])
    return [
        contrast_of(level[SCHEMES[a]] - level[SCHEMES[b]], clusters, a, b, setting, runs=runs)
        for a, b in pairs
    ]


def nuisances(study: Study, places: Items) -> list[Contrast]:
    """Return the growth of the primary contrast with nuisances, or its worst bins."""
    found = {nuisance: gains(study, *PRIMARY, nuisance) for nuisance in BINS}
    return [found[nuisance][place] for nuisance, place in places]


def controls(study: Study, _: Items) -> list[Contrast]:
    """Return the primary contrast minus itself on the control, and that on the control alone.

    The difference, paired by seed and landmark, is what the nuisances account for; on the control
    no gain is expected. The queries of both are of the same landmarks in the same order.
    """
    (dagf, gem), setting, control = PRIMARY, study.test.middle.name, control_of(study)
    full, still = (points(one, PRIMARY, setting) for one in (study, control))
    apart = (full[dagf] - full[gem]) - (still[dagf] - still[gem])
    names = " − ".join(VARIANTS[arm].title for arm in PRIMARY), "the same on the control"
    runs = f"{runs_of(study, *PRIMARY)}; control: {runs_of(control, *PRIMARY)}"
    beyond = contrast_of(apart, study.test.clusters(), *names, setting, runs=runs)
    return [beyond, replace(contrast(control, *PRIMARY, setting), setting=f"{setting}, control")]


def looks(study: Study, scored: Items) -> list[Contrast]:
    """Return the region evaluator's scores against exact masks minus those of other maps.

    Paired by image and seed, landmarks as clusters.
    """
    table, found = localisations(study), []
    runs = run_words((seed, study.run("dagf", seed).id) for seed in study.profile.seeds)
    for other, score in scored:
        part = table[table["area"] <= SMALL] if score == "energy" else table
        if part.empty:  # photographs whose boxes are all large
            continue
        level: Any = 100 * part.pivot_table(score, ["landmark", "file"], ["map", "seed"])
        apart = level["region evaluator"] - level[other]
        landmarks = apart.index.get_level_values("landmark").to_numpy(np.int64)
        names = "region evaluator", other, SCORES[score]
        found.append(contrast_of(apart.reset_index(drop=True), landmarks, *names, runs=runs))
    return found


class Group(NamedTuple):
    """Contrasts of the same networks: `make` (study, items) returns one an item."""

    make: Callable[[Study, Items], list[Contrast]]
    items: Items
    notebook: str
    measured: str


ENDS, HEADS = "trained end to end", "trained heads on frozen maps"
UNTRAINED, ATTENTION = "untrained heads on frozen maps", f"attention maps of DAGF, {ENDS}"
GROUPS = {
    "primary": Group(partial(arms, heads=False), [PRIMARY], "06_benchmark_tables", ENDS),
    # all others are the family
    "rivals": Group(rivals, RIVALS, "06_benchmark_tables", HEADS),
    "modules": Group(arms, MODULES, "05_attention_ablation", HEADS),
    "masks": Group(
        masks,
        [(WINDOWS, GEM), (MASK, GEM), (MASK, RANDOM), (BOTH, BOTH_RANDOM)],
        *("04_scale_and_mask_ablation", UNTRAINED),
    ),
    "nuisances": Group(
        nuisances,
        [(nuisance, place) for place in (GROWTH, WORST) for nuisance in BINS],
        *("05_attention_ablation", ENDS),
    ),
    "control": Group(controls, ["beyond", "alone"], "05_attention_ablation", ENDS),
    "attention maps": Group(
        looks,
        [(other, score) for other in MAPS for score in SCORES],
        *("03_attention_maps", ATTENTION),
    ),
}


class Claim(NamedTuple):
    """A sentence of the abstract (or of this study), in twelve words at most, and what decides it.

    places: of the contrasts of its group; empty: all of them. asides: of those that are shown, too,
    where no gain is expected. beside: items of what a reader would miss; not registered.
    """

    sentence: str
    group: str
    places: Sequence[int] = ()
    asides: Sequence[int] = ()
    beside: Items = ()


CLAIMS = (
    Claim("The whole network is better than plain GeM", "primary"),
    Claim(
        "DAGF's head is better than every other descriptor and attention", "rivals", beside=["gem"]
    ),
    Claim("Spatial attention by the region evaluator helps", "modules", (0,)),
    Claim("Channel attention by a trainable vector helps", "modules", (1,)),
    Claim("The two attentions are complementary: better than either alone", "modules", (2, 3)),
    Claim("Scale filters (max windows of several sizes) help", "masks", (0,)),
    Claim(
        "The MAX-Mask is better than no mask, and than dropping places at random",
        *("masks", (1, 2, 3), (), [(BOTH, WINDOWS), (BOTH, GEM)]),
    ),
    Claim(
        "It helps most against clutter and occlusion: the gain grows with them",
        *("nuisances", (0, 1, 3, 4)),
    ),
    Claim("It helps most where the landmark is small", "nuisances", (2, 5)),
    Claim("Without clutter, occlusion and scale it helps less", "control", (0,), (1,)),
    Claim(
        "The attention lies on the landmark, beyond feature norm and centre",
        *("attention maps", range(6)),
    ),
)
NOT_TESTABLE = {
    "claim": "Better than the state of the art on four data sets",
    "verdict": "not testable here",
    "measured on": "not measured",
    "contrast": "the four sets are not part of this project, the paper's figures not open",
    **dict.fromkeys(("difference [95 %]", "result"), ""),
    "report": "06_benchmark_tables",
}
NOTHING = "no difference shown"


def registration(profile: str) -> str:
    """Return what names the registered analysis, and whether docs/registration.md has that name.

    It is the hash of all that was decided before: the profile, the arms as they are compared, the
    backbones that they start from, the family, the claims, and the ceiling that is the room.
    """
    compared = [*PRIMARY, *RIVALS, *sum(MODULES, ()), *[ceiling for ceiling, _ in BEST.values()]]
    plain = asdict(Variant("")).items()
    arms = {arm: dict(asdict(VARIANTS[arm]).items() - plain) for arm in compared}
    rules = repr(([group[1:] for group in GROUPS.values()], CLAIMS, SCHEMES, BINS, LEVEL, BEST))
    weights = {seed: run.record["weights_sha256"] for seed, run in kept_backbones().items()}
    values = yaml.safe_load(paths.profile(profile).read_text(encoding="utf-8"))
    name = content_hash([values, arms, rules, [*weights.items()]])
    page = paths.root() / "docs" / "registration.md"
    known = page.is_file() and name in page.read_text(encoding="utf-8")
    return f"{name} (docs/registration.md)" if known else f"{name}: not registered"


def result(one: Contrast) -> str:
    """Return 'above zero', 'below zero' (maybe 'before correction') or 'no difference shown'."""
    if one.verdict == NOTHING:
        return NOTHING
    return f"{one.verdict} zero" + ("" if one.adjusted < LEVEL else ", before correction")


def in_words(one: Contrast, setting: str) -> str:
    """Return the two sides, in brackets where a name is of several words."""
    sides = (f"({side})" if " " in side else side for side in (one.what, one.minus))
    on = "" if one.setting == setting else f", {one.setting}"
    return " minus ".join(sides) + on


Members = dict[str, list[Contrast]]  # by the name of their group


def contrasts(study: Study, name: str) -> list[Contrast]:
    """Return the contrasts of one of `GROUPS`."""
    return GROUPS[name].make(study, GROUPS[name].items)


def members(study: Study) -> Members:
    """Return all that is registered, by group; Holm's p goes over all groups but the primary."""
    found = {name: contrasts(study, name) for name in GROUPS}
    family = [name for name in GROUPS if name != "primary"]
    adjusted = iter(holm([one.p for name in family for one in found[name]]).tolist())
    for name in family:
        found[name] = [replace(one, adjusted=next(adjusted)) for one in found[name]]
    return found


def claim_table(study: Study, members: Members) -> pd.DataFrame:
    """Return a row a contrast; the claim and its verdict stand in each of its rows.

    verdict: 'supported' if every contrast that decides it is above zero after Holm, else 'not
    supported'. measured on: with GeM's mAP there.
    """
    setting, rows = study.test.middle.name, []
    cells = of_first_set(grid(study)).query("pooling == 'GeM'")
    levels = {
        ENDS: points(study, ["gem"], setting).mean(axis=None),
        HEADS: points(study, ["gem"], setting, heads=True).mean(axis=None),
        UNTRAINED: 100 * cells.query("windows == '1' and mask == 'none'")["AP"].mean(),
    }
    for claim in CLAIMS:
        own, group = members[claim.group], GROUPS[claim.group]
        decide = [own[place] for place in claim.places or range(len(own))]
        held = all(result(one) == "above zero" for one in decide)
        shown = [(one, result(one)) for one in decide]
        for place in claim.asides:
            words = "; no gain is expected here, and it decides nothing"
            shown.append((own[place], result(own[place]) + words))
        for one in group.make(study, claim.beside) if claim.beside else []:
            words = "" if result(one) == NOTHING else ", uncorrected"
            shown.append((one, f"{result(one)}{words}, exploratory"))
        level = f" (GeM: {levels[group.measured]:.1f} mAP)" if group.measured in levels else ""
        for one, outcome in shown:
            row = {
                "claim": claim.sentence,
                "verdict": "supported" if held else "not supported",
                "measured on": group.measured + level,
                "contrast": in_words(one, setting),
                "difference [95 %]": one.joint.signed,
                "result": outcome,
                "report": group.notebook,
                RUNS: one.runs,
            }
            rows.append(row)
    return pd.DataFrame([*rows, NOT_TESTABLE])


def family_table(members: Members) -> pd.DataFrame:
    """Return the secondary family: a row a contrast, with Holm's p over the whole family."""
    rows = [
        {
            "group": name,
            "what": one.what,
            "minus": one.minus,
            "on": one.setting,
            **one.cells(result=result(one)),
            "p (Holm)": p_text(one.adjusted),
            RUNS: one.runs,
        }
        for name, group in members.items()
        for one in group
        if name != "primary"
    ]
    return pd.DataFrame(rows)
