"""DAGF and its modules beside their rivals: GeM off the shelf, and what held-out instances choose.

Both sides are chosen alike: as they are or whitened, and trained no deeper than the other.
"""

from collections.abc import Sequence

import pandas as pd

from dagf.analysis.ablations import trained_heads
from dagf.analysis.contrasts import contrast_of, contrast_table
from dagf.analysis.methods import ONE_SCALE, SCALES, Method, method_row, methods
from dagf.analysis.tables import HEAD, RUNS, STAGE, UNTRAINED
from dagf.model.variants import VARIANTS
from dagf.study.study import Study

PLAIN = "spoc", "mac", "rmac", "crow"  # descriptors without parameters, beside GeM
MODULES = "spatial", "channel", "scale-mask", "dagf"  # and the whole
SHELF, CHOSEN, CHOSEN_PLAIN = "GeM off the shelf", "chosen GeM", "chosen plain descriptor"


def depths(study: Study) -> tuple[str, ...]:
    """Return how much of a network is trained in a study: heads, and maybe last stages."""
    return (HEAD, STAGE) if study.profile.last_stage else (HEAD,)


def gems(study: Study, how: str = HEAD, scales: tuple[float, ...] = ONE_SCALE) -> list[Method]:
    """Return GeM {untrained, trained} x {as it is, whitened}.

    how: the depth to which it is trained at most (`heads_of`). scales: of the image pyramid.
    """
    ways = (UNTRAINED, HEAD, STAGE)[: (UNTRAINED, HEAD, STAGE).index(how) + 1]
    return [one for way in ways for one in methods(study, ["gem"], way, scales)]


def best(found: Sequence[Method]) -> Method:
    """Return the method of the highest mAP on validation, the first where two are equal."""
    return max(found, key=lambda method: method.validation)


def rivals(study: Study, how: str = HEAD) -> dict[str, Method]:
    """Return what others are compared with: GeM off the shelf, and what validation chooses.

    The chosen GeM is the best of `gems`, the chosen plain descriptor the best of these and of SPoC,
    MAC, R-MAC and CroW off the shelf, as they are and whitened.
    """
    found = gems(study, how)
    plain = [*found, *methods(study, PLAIN, UNTRAINED)]
    return {SHELF: found[0], CHOSEN: best(found), CHOSEN_PLAIN: best(plain)}


def method_table(study: Study, shown: Sequence[Method]) -> pd.DataFrame:
    """Return a row a method: validation mAP, mAP of each query set, and the gains over its rivals.

    Gains: with their bootstrap intervals over clusters of test queries. Rivals are trained no
    deeper than the method.
    """
    others = {how: rivals(study, how) for how in depths(study)}
    chosen, rows = {one.name for found in others.values() for one in found.values()}, []
    for method in shown:
        row = method_row(study, method)
        for query_set in study.test.query_sets:
            for title, other in others[STAGE if method.title.endswith(STAGE) else HEAD].items():
                row[f"{query_set} − {title}"] = method.minus(study, other, query_set)
        row["rival"] = "yes" if method.name in chosen else ""
        rows.append(row | {RUNS: method.runs})
    return pd.DataFrame(rows)


def against_rivals(study: Study) -> pd.DataFrame:
    """Return DAGF and its modules minus each of their rivals, paired by seed and query.

    The heads and, where that is trained, DAGF with the last stage; then whichever DAGF validation
    chooses. Rivals are trained no deeper.

    Columns beside those of `contrast_table`: chosen and rival, which methods stand on both sides;
    their mAP on validation and on the test (per cent).
    """
    heads = trained_heads(study, MODULES)
    own = [(VARIANTS[arm].title, best(methods(study, [arm])), HEAD) for arm in heads]
    if study.profile.last_stage:
        staged = best(methods(study, ["dagf"], STAGE))
        own.append((f"DAGF{STAGE}", staged, STAGE))
        own.append(("chosen DAGF", best([own[-2][1], staged]), STAGE))
    others = {how: rivals(study, how) for how in depths(study)}
    found, sides, clusters = [], [], study.test.clusters()
    for query_set, queries in study.test.query_sets.items():
        for what, method, how in own:
            for minus, other in others[how].items():
                pair = method, other
                one, two = (side.points(queries) for side in pair)
                runs = "; ".join(f"{side.title}: {side.runs}" for side in pair if side.runs)
                about = what, minus, study.test.middle.name, query_set, runs
                found.append(contrast_of(one - two, clusters, *about))
                levels = [f"{side.mean().mean():.1f}" for side in (one, two)]
                held = [f"{side.validation:.1f}" for side in pair]
                sides.append((method.name, other.name, " − ".join(held), " − ".join(levels)))
    table = contrast_table(found).drop(columns="setting")
    names = "chosen", "rival", "validation", "mAP"
    for place, (name, values) in enumerate(zip(names, zip(*sides, strict=True), strict=True)):
        table.insert(2 + place, name, values)
    return table


def pyramid_table(study: Study) -> pd.DataFrame:
    """Return GeM, and DAGF as a head, at one scale and at those of a pyramid.

    As they are and whitened, minus the same at one scale, and minus the GeM that validation chooses
    at the same scales.
    """
    rows = []
    single = [*gems(study), *methods(study, ["dagf"])]
    for scales in (ONE_SCALE, SCALES):
        plain = gems(study, HEAD, scales)
        shown = [*plain, *methods(study, ["dagf"], HEAD, scales)]
        for method, alone in zip(shown, single, strict=True):
            words = ", ".join(f"{scale:.2g}" for scale in scales)
            row = {"scales": words} | method_row(study, method)
            for query_set in study.test.query_sets:
                row[f"{query_set} − one scale"] = method.minus(study, alone, query_set)
                row[f"{query_set} − {CHOSEN}"] = method.minus(study, best(plain), query_set)
            rows.append(row | {RUNS: method.runs})
    return pd.DataFrame(rows)
