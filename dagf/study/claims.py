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

    what, minus = (f"windows {windows}, mask {mask}" for windows, mask in (one, other))
    return contrast_of(points(*one) - points(*other), study.test.clusters(), what, minus, middle(study))


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
class Claim:
    """A sentence of the abstract (or of this study) and what the contrasts under it say."""

    sentence: str
    verdict: str  # supported, not supported, not testable here
    effect: str
    notebook: str


def claims(study: Study) -> list[Claim]:
    """The abstract's claims as rows. A claim is supported only if *every* contrast under it is above 0 after Holm."""
    named = family(study)
    adjusted = dict(zip(map(_key, named), holm([one.contrast.p for one in named]), strict=True))

    def claim(sentence: str, chosen: Sequence[Named], shown: Sequence[Named] = ()) -> Claim:
        held = [one.contrast.verdict == "above" and adjusted[_key(one)] < LEVEL for one in chosen]
        return Claim(sentence, _verdict(held), "; ".join(map(_effect, shown or chosen)), chosen[0].notebook)

    def of(group: str, *places: int) -> list[Named]:
        members = [one for one in named if one.group == group]
        return [members[place] for place in places] if places else members

    first = primary(study)
    best = max(of("rivals"), key=lambda one: -one.contrast.mean)  # the strongest rival: the smallest lead over it
    return [
        Claim(
            "The network with all three modules is better than the plain descriptor (primary: DAGF minus GeM)",
            _verdict([first.verdict == "above"]), _effect(Named("primary", first, "")), "06_benchmark_tables",
        ),
        claim("It is better than every other descriptor and attention here (the smallest lead is shown)",
              of("rivals"), [best]),
        claim("Spatial attention by the region evaluator helps", of("modules", 0)),
        claim("Channel attention by a trainable vector helps", of("modules", 1)),
        claim("The two attentions are complementary: both better than each alone", of("modules", 2, 3)),
        claim("Scale filters (max windows) help", of("masks", 0)),
        claim("The MAX-Mask filters out what is meaningless: better than no mask and than a random one",
              of("masks", 1, 2, 3)),
        claim("Against clutter and occlusion: the gain over GeM grows with them, and is one where they are worst",
              of("nuisances", 0, 1, 3, 4)),
        claim("Varying size matters less: the gain over GeM grows as the landmark gets smaller, and is one where it is "
              "smallest", of("nuisances", 2, 5)),
        claim("The gain over GeM comes with clutter, occlusion and scale: larger than on the control without them",
              of("control")),
        claim("The attention lies on the landmark better than feature norm and centre prior", of("attention maps")),
        Claim("Better than the state of the art on four well-known data sets", "not testable here",
              "their images cannot be redistributed, and the paper's figures are not public", "06_benchmark_tables"),
    ]  # fmt: skip


def _key(one: Named) -> tuple[str, str, str, str]:
    return one.group, one.contrast.what, one.contrast.minus, one.contrast.setting


def _verdict(held: Sequence[bool]) -> str:
    return "supported" if all(held) else "not supported"


def _effect(one: Named) -> str:
    found = one.contrast
    where = f" ({found.setting})" if one.group == "nuisances" else ""
    return f"{found.what} − {found.minus}{where}: {found.joint.signed}"


def family_table(study: Study) -> pd.DataFrame:
    """The secondary family: one row a contrast, with Holm's p over the whole family and the verdict under it."""
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
                "verdict": found.verdict if p < LEVEL else "no difference shown",
            }
        )
    return pd.DataFrame(rows)


def claim_table(study: Study) -> pd.DataFrame:
    """`claims` as a table."""
    return pd.DataFrame(
        [
            {"claim": one.sentence, "verdict": one.verdict, "effect [95 %]": one.effect, "report": one.notebook}
            for one in claims(study)
        ]
    )
