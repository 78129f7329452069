"""The registered contrasts: who is compared with whom, and each by hand on tiny inputs."""

from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import registered
from dagf.analysis.contrasts import Contrast
from dagf.analysis.registered import FAMILY, MODULES, RIVALS
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, holm, t_interval
from dagf.study.study import Results

nan = float("nan")


class Pretended:
    """A study of two seeds and queries whose arms have these APs (0.5 if not named)."""

    def __init__(self, **values: Sequence[Sequence[float]]) -> None:
        self.values = values
        self.asked: list[tuple[tuple[str, ...], bool]] = []
        self.profile = SimpleNamespace(seeds=(0, 1), backbone_training=True)
        names = [SimpleNamespace(name=name) for name in ("Easy", "Medium", "Hard")]
        self.test = SimpleNamespace(
            clusters=lambda: np.arange(2), settings=names, middle=names[1], first_set="query",
            query_sets={"query": [0, 1], "query-2": [5, 6]},
        )  # fmt: skip

    def plan(self, heads: bool) -> Any:
        return SimpleNamespace(
            arms=("dagf", "gem", "spatial", "channel", "attention", "spoc", "se")
        )

    def run(self, arm: str, seed: int) -> Any:
        return SimpleNamespace(id=f"{arm}-{seed}")

    def backbone_config(self, seed: int) -> Any:
        return SimpleNamespace(id=f"backbone-{seed}")

    def evaluate(self, arms: Sequence[str], heads: bool = False) -> dict[tuple[str, int], Results]:
        self.asked.append((tuple(arms), heads))
        flat = [[0.5, 0.5], [0.5, 0.5]]
        return {
            (arm, seed): Results(per_query(points), pd.DataFrame())
            for arm in arms
            for seed, points in enumerate(self.values.get(arm, flat))
        }


def per_query(points: Sequence[float]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"query": range(len(points)), "AP": points, "setting": "Medium", "query_set": "query"}
    )
    frame = frame.assign(positives=1)
    others = [
        frame.assign(setting="Hard", AP=9.0),
        frame.assign(query_set="query-2", query=[5, 6], AP=7.0),
    ]
    return pd.concat([frame, *others])


def test_the_registered_pairs() -> None:
    others = "mac spoc rmac crow netvlad solar glam se cbam delf"
    assert registered.PRIMARY == ("dagf", "gem") and set(RIVALS) >= {*others.split()}
    assert {*RIVALS, *sum(MODULES, ())} <= set(VARIANTS)
    spatial, channel, both, dagf = (
        VARIANTS[arm] for arm in ("spatial", "channel", "attention", "dagf")
    )
    assert spatial.spatial == both.spatial == dagf.spatial == "evaluator"
    assert (spatial.channel, channel.spatial) == (False, None)


def test_primary_rivals_and_modules_ask_for_their_arms() -> None:
    study: Any = Pretended(dagf=[[0.7, 0.6], [0.6, 0.6]], se=[[0.5, 0.6], [0.5, 0.5]])
    assert registered.primary(study).joint.mean == pytest.approx(12.5)
    assert {*study.asked} == {(("dagf", "gem"), False)}  # end to end
    rivals = registered.rivals(study)  # those that are trained as heads
    assert [one.minus for one in rivals] == ["SPoC", "GeM + SE"]
    assert [one.joint.mean for one in rivals] == pytest.approx([12.5, 10])
    assert (("dagf", "spoc"), True) in study.asked
    study.asked.clear()
    registered.modules(study)
    pairs = [("spatial", "gem"), ("channel", "gem")]
    pairs += [("attention", "spatial"), ("attention", "channel")]
    assert list(dict.fromkeys(study.asked)) == [(pair, True) for pair in pairs]


def test_the_interaction_by_hand() -> None:
    study: Any = Pretended(
        attention=[[0.9, 0.5], [0.8, 0.5]],
        spatial=[[0.6, 0.5], [0.6, 0.6]],
        gem=[[0.4, 0.3], [0.4, 0.3]],
    )
    found = registered.interaction(study)
    first = [(0.9 - 0.4) - (0.6 - 0.4) - (0.5 - 0.4), (0.5 - 0.3) - (0.5 - 0.3) - (0.5 - 0.3)]
    second = [(0.8 - 0.4) - (0.6 - 0.4) - (0.5 - 0.4), (0.5 - 0.3) - (0.6 - 0.3) - (0.5 - 0.3)]
    by_seed = t_interval([100 * np.mean(first), 100 * np.mean(second)])
    assert found.over_seeds == pytest.approx(by_seed)
    assert (found.setting, found.queries) == ("Medium", 2)
    assert {*study.asked} == {(("attention", "spatial", "channel", "gem"), True)}


def test_the_family_in_its_order_and_what_was_added_after_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Late, as 06 says: the worst bins, the gain beyond the control and on it, and all of the maps
    but the AUC of two."""
    counts = {"rivals": 2, "modules": 4, "masks": 4, "nuisances": 6, "control": 2}
    counts["attention maps"] = 12
    assert list(FAMILY) == list(counts)
    for name, group in FAMILY.items():
        made = [SimpleNamespace(p=0.001 * (1 + place)) for place in range(counts[name])]
        monkeypatch.setitem(FAMILY, name, group._replace(contrasts=lambda _, made=made: made))
    study: Any = None
    members = registered.family(study)
    assert [(one.group, one.place) for one in members] == [
        (name, place) for name, count in counts.items() for place in range(count)
    ]
    assert [one.adjusted for one in members] == list(holm([one.contrast.p for one in members]))
    late = [(one.group, one.place) for one in members if one.late]
    worst, control = [("nuisances", place) for place in (3, 4, 5)], [("control", 0), ("control", 1)]
    maps = [("attention maps", place) for place in (1, 2, *range(4, 12))]
    assert late == [*worst, *control, *maps]
    assert [group.notebook[:2] for group in FAMILY.values()] == ["06", "05", "04", "05", "05", "03"]


def test_masks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random mask is the mean of its draws; SPoC and queries without positives are out."""
    one, three = "1", "max 1, 2, 3"
    points = {
        (one, "none", 0): 0.3, (one, "max", 0): 0.5,
        (three, "none", 0): 0.4, (three, "max", 0): 0.6,
    }  # fmt: skip
    points |= {(one, "random", draw): 0.2 + 0.1 * draw for draw in range(3)}
    points |= {(three, "random", draw): 0.5 + 0.1 * draw for draw in range(3)}
    rows = [
        (*key, seed, query, value + 0.1 * query)
        for (key, value), seed, query in product(points.items(), (0, 1), (0, 1))
    ]
    table = pd.DataFrame(rows, columns=["windows", "mask", "draw", "seed", "query", "AP"])
    table = table.assign(pooling="GeM", positives=3, query_set="query")
    others = [table.assign(pooling="SPoC", AP=0.0), table.assign(query=7, positives=0, AP=nan)]
    others += [table.assign(query_set="query-2", AP=0.0)]
    monkeypatch.setattr(registered, "grid", lambda *_: pd.concat([table, *others]))
    study: Any = Pretended(dagf=[[0.7, 0.7], [0.7, 0.7]], gem=[[0.4, 0.4], [0.2, 0.6]])
    found = registered.masks(study)
    assert [(contrast.what, contrast.minus) for contrast in found] == [
        ("GeM + max windows 1, 2, 3", "GeM"),
        ("GeM + MAX-Mask", "GeM"),
        ("GeM + MAX-Mask", "GeM + random mask"),
        ("GeM + max windows 1, 2, 3 + MAX-Mask", "GeM + max windows 1, 2, 3 + random mask"),
    ]
    assert [contrast.joint.mean for contrast in found] == pytest.approx([10, 20, 20, 0], abs=1e-9)
    assert {(contrast.seeds, contrast.queries) for contrast in found} == {(2, 2)}
    backbones = "backbones: backbone-0 (seed 0), backbone-1 (seed 1)"
    assert {contrast.runs for contrast in found} == {backbones}

    heads, *schemes = (member.contrast for member in registered.beside(study))
    assert {member.place for member in registered.beside(study)} == {-1}
    assert (heads.what, heads.minus) == ("DAGF's head", "GeM's head")
    assert heads.joint.mean == pytest.approx(30)
    assert {one.what for one in schemes} == {"GeM + max windows 1, 2, 3 + MAX-Mask"}
    minus = {one.minus: one.joint.mean for one in schemes}
    assert minus == {"GeM + max windows 1, 2, 3": pytest.approx(20), "GeM": pytest.approx(30)}
    levels = [*registered.gem_levels(study).values()]
    assert levels == pytest.approx([40, 40, 35])  # end to end, as heads, untrained


def test_looks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paired by image and seed, landmarks as clusters; no landmark pixels, no score."""
    points = {  # (landmark, file, area) -> for each seed the AUC of the evaluator and of the norm
        (0, "a", 0.1): ((0.9, 0.5), (0.8, 0.6)),
        (0, "b", 0.4): ((0.7, 0.6), (0.7, 0.6)),
        (1, "c", 0.25): ((0.6, 0.7), (0.6, 0.5)),
        (1, "d", 0.0): ((nan, nan), (nan, nan)),
    }
    others = ("feature norm", "centre prior", "Grad-CAM", "random map")
    rows = [
        (*key, seed, name, value, value / 2, value / 4)
        for key, seeds in points.items()
        for seed, (ours, norm) in enumerate(seeds)
        for name, value in zip(
            ("region evaluator", *others, "x"), (ours, norm, norm + 0.1, norm - 0.1, 0.5, 0.0),
            strict=True,
        )
    ]  # fmt: skip
    names = ["landmark", "file", "area", "seed", "map", "AUC", "pointing", "energy"]
    table = pd.DataFrame(rows, columns=names).sample(frac=1, random_state=0)
    monkeypatch.setattr(registered, "localisations", lambda _: table)
    study: Any = Pretended()
    found = registered.looks(study)
    scores = ("pixel AUC", "pointing", "energy inside")
    assert [(one.what, one.minus, one.setting) for one in found] == [
        ("region evaluator", other, score) for other in others for score in scores
    ]
    assert {one.runs for one in found} == {"dagf-0 (seed 0), dagf-1 (seed 1)"}
    norm, pointing, energy, centre, *_ = found
    by_seed = [100 * (0.4 + 0.1 - 0.1) / 3, 100 * (0.2 + 0.1 + 0.1) / 3]
    assert norm.over_seeds == pytest.approx(t_interval(by_seed))
    assert pointing.over_seeds == pytest.approx(t_interval([value / 2 for value in by_seed]))
    assert centre.over_seeds == pytest.approx(t_interval([value - 10 for value in by_seed]))
    assert (norm.queries, norm.clusters, norm.seeds) == (3, 2, 2)
    alone = (100 * (-0.1 + 0.1) / 2, 100 * (0.4 + 0.1 + 0.2 + 0.1) / 4)  # landmark 1 and landmark 0
    assert norm.over_queries[1:] == pytest.approx(alone)
    # Energy: of masks that cover a quarter at most.
    small = [100 * (0.4 - 0.1) / 2 / 4, 100 * (0.2 + 0.1) / 2 / 4]
    assert energy.over_seeds == pytest.approx(t_interval(small))
    assert energy.queries == 2


def test_nuisances_take_the_growth_of_each_and_what_it_ends_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flat = Interval(1, 0, 2)

    def gains(study: Any, arm: str, baseline: str, nuisance: str) -> list[Contrast]:
        assert (arm, baseline) == registered.PRIMARY
        places = ("first", "middle", "worst", "worst minus mildest")
        names = [f"{nuisance}: {place}" for place in places]
        return [
            Contrast(arm, baseline, name, "query", 2, 2, 2, flat, flat, flat, 0.5) for name in names
        ]

    monkeypatch.setattr(registered.ablations, "gains", gains)
    study: Any = Pretended()
    assert [one.setting for one in registered.nuisances(study)] == [
        f"{nuisance}: {place}"
        for place in ("worst minus mildest", "worst")
        for nuisance in ("clutter", "occlusion", "scale")
    ]


def test_the_gain_beyond_the_control_is_paired_by_query_and_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study: Any = Pretended(dagf=[[0.7, 0.6], [0.6, 0.6]])  # over 0.5
    still: Any = Pretended(dagf=[[0.6, 0.6], [0.6, 0.5]])
    monkeypatch.setattr(
        registered, "control_of", lambda one: still if one is study else pytest.fail()
    )
    found, alone = registered.controls(study)
    assert alone.over_seeds == pytest.approx(
        t_interval([100 * (0.1 + 0.1) / 2, 100 * (0.1 + 0.0) / 2])
    )
    assert (alone.what, alone.minus, alone.setting.endswith(", control")) == ("DAGF", "GeM", True)
    assert found.over_seeds == pytest.approx(
        t_interval([100 * (0.1 + 0.0) / 2, 100 * (0.0 + 0.1) / 2])
    )
    assert (found.what, found.minus, found.queries) == ("DAGF − GeM", "the same on the control", 2)
