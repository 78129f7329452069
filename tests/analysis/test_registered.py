"""What is registered: each contrast by hand on tiny inputs, and the claims that they decide."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import registered
from dagf.analysis.ablations import BINS
from dagf.analysis.contrasts import Contrast, contrast
from dagf.model.variants import VARIANTS
from dagf.retrieval.statistics import Interval, holm, t_interval
from dagf.study.config import RunConfig
from dagf.study.study import Study, control_of
from tests.analysis.pretended import Pretended
from tests.fixtures import TOY

nan = float("nan")
COUNTS = {"primary": 1, "rivals": 3, "modules": 4, "masks": 4, "nuisances": 6, "control": 2}
COUNTS["attention maps"] = 12
NAMES = [f"{group}_{place}" for group, count in COUNTS.items() for place in range(count)]
CLAIMED = (  # the claims in their order
    *("primary", "rivals", "spatial", "channel", "complementary", "windows", "mask"),
    *("clutter and occlusion", "scale", "control", "maps", "state of the art"),
)


def test_the_registered_arms() -> None:
    others = "mac spoc rmac crow netvlad solar glam se cbam delf"
    assert registered.PRIMARY == ("dagf", "gem") and set(registered.RIVALS) >= {*others.split()}
    assert {*registered.RIVALS, *sum(registered.MODULES, ())} <= set(VARIANTS)


def test_what_is_changed_after_the_registration_is_another_analysis(project: Path) -> None:
    page = project / "docs" / "registration.md"
    page.parent.mkdir()
    page.write_text("nothing yet")
    name = registered.registration("cpu").removesuffix(": not registered")
    page.write_text(f"It is {name}.")
    assert registered.registration("cpu") == f"{name} (docs/registration.md)"
    assert registered.registration("smoke").endswith(": not registered")
    dagf = replace(VARIANTS["dagf"], activation="sharp")
    for what, key, value in [
        (registered, "LEVEL", 0.1),
        (registered, "CLAIMS", registered.CLAIMS[1:]),
        (registered, "BEST", {False: ("oracle", True)}),
        (registered.VARIANTS, "dagf", dagf),
    ]:
        with pytest.MonkeyPatch.context() as patched:
            if isinstance(what, dict):
                patched.setitem(what, key, value)
            else:
                patched.setattr(what, key, value)
            assert registered.registration("cpu").endswith(": not registered"), key


def test_primary_rivals_and_modules_compare_their_arms() -> None:
    study: Any = Pretended(dagf=[[0.7, 0.6], [0.6, 0.6]], se=[[0.5, 0.6], [0.5, 0.5]])
    (primary,) = registered.contrasts(study, "primary")
    assert primary.joint.mean == pytest.approx(12.5)
    assert study.evaluated == {(("dagf", "gem"), False)}  # end to end
    rivals = registered.contrasts(study, "rivals")  # those that are trained as heads
    assert [one.minus for one in rivals] == ["SPoC", "GeM + SE"]
    assert [one.joint.mean for one in rivals] == pytest.approx([12.5, 10])
    assert (("dagf", "spoc"), True) in study.evaluated
    study.evaluated.clear()
    registered.contrasts(study, "modules")
    pairs = {("spatial", "gem"), ("channel", "gem")}
    pairs |= {("attention", "spatial"), ("attention", "channel")}
    assert study.evaluated == {(pair, True) for pair in pairs}


def test_masks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random mask is the mean of its draws; SPoC and queries without positives are out."""
    one, three = "1", "max 1, 2, 3"
    aps = {
        (one, "none", 0): 0.3, (one, "max", 0): 0.5,
        (three, "none", 0): 0.4, (three, "max", 0): 0.6,
    }  # fmt: skip
    aps |= {(one, "random", draw): 0.2 + 0.1 * draw for draw in range(3)}
    aps |= {(three, "random", draw): 0.5 + 0.1 * draw for draw in range(3)}
    keys = product(aps.items(), (0, 1), (0, 1))
    rows = [(*key, seed, query, value + 0.1 * query) for (key, value), seed, query in keys]
    table = pd.DataFrame(rows, columns=["windows", "mask", "draw", "seed", "query", "AP"])
    table = table.assign(pooling="GeM", positives=3, query_set="query")
    others = [table.assign(pooling="SPoC", AP=0.0), table.assign(query=7, positives=0, AP=nan)]
    others += [table.assign(query_set="query-2", AP=0.0)]
    monkeypatch.setattr(registered, "grid", lambda *_: pd.concat([table, *others]))
    study: Any = Pretended()
    found = registered.contrasts(study, "masks")
    assert [(contrast.what, contrast.minus) for contrast in found] == [
        ("GeM + max windows 1, 2, 3", "GeM"),
        ("GeM + MAX-Mask", "GeM"),
        ("GeM + MAX-Mask", "GeM + random mask"),
        ("GeM + max windows 1, 2, 3 + MAX-Mask", "GeM + max windows 1, 2, 3 + random mask"),
    ]
    assert [contrast.joint.mean for contrast in found] == pytest.approx([10, 20, 20, 0], abs=1e-9)
    assert {(contrast.seeds, contrast.queries) for contrast in found} == {(2, 2)}
    assert found[0].runs == "backbones: backbone-0 (seed 0), backbone-1 (seed 1)"


def test_looks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paired by image and seed, landmarks as clusters; no landmark pixels, no score."""
    scores = {  # (landmark, file, area) -> for each seed the AUC of the evaluator and of the norm
        (0, "a", 0.1): ((0.9, 0.5), (0.8, 0.6)),
        (0, "b", 0.4): ((0.7, 0.6), (0.7, 0.6)),
        (1, "c", 0.25): ((0.6, 0.7), (0.6, 0.5)),
        (1, "d", 0.0): ((nan, nan), (nan, nan)),
    }
    others = ("feature norm", "centre prior", "Grad-CAM", "random map")
    rows = [
        (*key, seed, name, value, value / 2, value / 4)
        for key, seeds in scores.items()
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
    found = registered.contrasts(study, "attention maps")
    titles = ("pixel AUC", "pointing", "energy inside")
    assert [(one.minus, one.setting) for one in found] == [*product(others, titles)]
    assert {one.runs for one in found} == {"dagf-0 (seed 0), dagf-1 (seed 1)"}
    norm, pointing, energy, centre, *_ = found
    by_seed = [100 * (0.4 + 0.1 - 0.1) / 3, 100 * (0.2 + 0.1 + 0.1) / 3]
    assert norm.over_seeds == pytest.approx(t_interval(by_seed))
    assert pointing.over_seeds == pytest.approx(t_interval([value / 2 for value in by_seed]))
    assert centre.over_seeds == pytest.approx(t_interval([value - 10 for value in by_seed]))
    assert (norm.queries, norm.clusters, norm.seeds) == (3, 2, 2)
    alone = (100 * (-0.1 + 0.1) / 2, 100 * (0.4 + 0.1 + 0.2 + 0.1) / 4)  # landmark 1 and landmark 0
    assert norm.over_queries[1:3] == pytest.approx(alone)
    # Energy: of masks that cover a quarter at most.
    small = [100 * (0.4 - 0.1) / 2 / 4, 100 * (0.2 + 0.1) / 2 / 4]
    assert energy.over_seeds == pytest.approx(t_interval(small))
    assert energy.queries == 2
    monkeypatch.setattr(registered, "localisations", lambda _: table.assign(area=0.5))
    without = registered.contrasts(study, "attention maps")  # boxes that are all large
    assert [one.setting for one in without] == [*titles[:2]] * 4


def test_the_gain_beyond_the_control_is_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    study: Any = Pretended(dagf=[[0.7, 0.6], [0.6, 0.6]])  # over 0.5
    still: Any = Pretended(dagf=[[0.6, 0.6], [0.6, 0.5]])
    monkeypatch.setattr(registered, "control_of", {study: still}.get)
    beyond, alone = registered.contrasts(study, "control")
    of_alone = [100 * (0.1 + 0.1) / 2, 100 * (0.1 + 0.0) / 2]
    assert alone.over_seeds == pytest.approx(t_interval(of_alone))
    assert (alone.what, alone.minus, alone.setting) == ("DAGF", "GeM", "Medium, control")
    apart = [100 * (0.1 + 0.0) / 2, 100 * (0.0 + 0.1) / 2]
    assert beyond.over_seeds == pytest.approx(t_interval(apart))
    assert (beyond.what, beyond.minus) == ("DAGF − GeM", "the same on the control")


def found(mean: float = 2.0, p: float = 1e-4, margin: float = 1.0) -> Contrast:
    interval = Interval(mean, mean - margin, mean + margin)
    return Contrast("a", "b", "Medium", "query", 5, 70, 70, *[interval] * 3, p)


NOTHING, BESIDE, UNTESTED = found(0.1, 0.8), found(-3.0), found(5.0, p=nan, margin=nan)
STUDY: Any = Pretended()
Claims = Callable[..., dict[str, pd.DataFrame]]


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Claims:
    """The rows of each claim, by `CLAIMED`; all but what is named is clearly above 0."""

    def evaluate(others: dict[str, Contrast] | None = None) -> dict[str, pd.DataFrame]:
        for name, group in registered.GROUPS.items():
            made = [
                replace((others or {}).get(f"{name}_{place}", found()), what=f"{name} {place}")
                for place in range(COUNTS[name])
            ]

            def make(
                _: Study, items: Sequence[Any], own: Any = group.items, made: Any = made
            ) -> list[Contrast]:
                return made if items is own else [BESIDE for _ in items]

            monkeypatch.setitem(registered.GROUPS, name, group._replace(make=make))
        cell = {"pooling": "GeM", "windows": "1", "mask": "none", "query_set": "query"}
        cells = pd.DataFrame([cell | {"positives": 1, "AP": 0.1234}])
        monkeypatch.setattr(registered, "grid", lambda _: cells)
        table = registered.claim_table(STUDY, registered.members(STUDY))
        assert table["claim"].nunique() == len(CLAIMED) == len(registered.CLAIMS) + 1
        parts = table.groupby("claim", sort=False)
        return dict(zip(CLAIMED, (part for _, part in parts), strict=True))

    return evaluate


def unsupported(rows: dict[str, pd.DataFrame]) -> set[str]:
    verdicts = {name: part["verdict"].unique().item() for name, part in rows.items()}
    assert verdicts.pop("state of the art") == "not testable here"
    assert set(verdicts.values()) <= {"supported", "not supported"}
    return {name for name, verdict in verdicts.items() if verdict == "not supported"}


def test_all_is_supported_where_all_is_above(claims: Claims) -> None:
    """What stands beside a claim is far below zero, shown last, and decides nothing."""
    rows = claims()
    assert unsupported(rows) == set()
    (first,) = rows["primary"].to_dict("records")
    assert (first["contrast"], first["result"]) == ("(primary 0) minus b", "above zero")
    assert first["difference [95 %]"] == "+2.00 [+1.00, +3.00]"
    assert list(rows["complementary"]["contrast"]) == ["(modules 2) minus b", "(modules 3) minus b"]
    assert {name: len(rows[name]) for name in ("rivals", "mask")} == {"rivals": 4, "mask": 5}
    assert rows["mask"]["result"].iloc[-1] == "below zero, uncorrected, exploratory"
    measured = {name: part["measured on"].iloc[0] for name, part in rows.items()}
    assert measured["windows"] == "untrained heads on frozen maps (GeM: 12.3 mAP)"
    assert measured["rivals"] == "trained heads on frozen maps (GeM: 50.0 mAP)"
    assert measured["maps"] == "attention maps of DAGF, trained end to end"
    assert [part["report"].iloc[0][:2] for part in rows.values()] == [
        "06", "06", "05", "05", "05", "04", "04", "05", "05", "05", "03", "06",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("primary_0", "primary"), ("modules_0", "spatial"), ("modules_1", "channel"),
        ("modules_2", "complementary"), ("modules_3", "complementary"), ("masks_0", "windows"),
        *((f"masks_{place}", "mask") for place in (1, 2, 3)),
        *((f"nuisances_{place}", "clutter and occlusion") for place in (0, 1, 3, 4)),
        ("nuisances_2", "scale"), ("nuisances_5", "scale"), ("control_0", "control"),
        ("control_1", ""),  # no gain is expected there
        *((f"attention maps_{place}", "maps") for place in range(6)),
        *((f"rivals_{place}", "rivals") for place in range(3)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("other", [NOTHING, found(-2.0), found(9.0, margin=12.0), UNTESTED])
def test_a_claim_needs_its_contrasts(claims: Claims, name: str, row: str, other: Contrast) -> None:
    assert unsupported(claims({name: other})) == {row} - {""}


def test_holm_goes_over_the_whole_family_and_not_over_the_primary(claims: Claims) -> None:
    """Of 31, one p of 0.04 is the last in line and multiplied by 1; of two the smaller by 2."""
    weak = [name for name in NAMES if name != "primary_0"]
    assert len(weak) == 31  # 31 x 0.002 > 0.05
    assert unsupported(claims({"modules_0": found(p=0.04)})) == set()
    two = claims({"modules_0": found(p=0.03), "masks_0": found(p=0.04)})
    assert unsupported(two) == {"spatial", "windows"}
    assert two["spatial"]["result"].item() == "above zero, before correction"
    of_family = set(CLAIMED) - {"primary", "state of the art"}
    assert unsupported(claims(dict.fromkeys(weak, found(p=0.002)))) == of_family
    assert unsupported(claims(dict.fromkeys(weak, found(p=0.0015)))) == set()
    assert unsupported(claims({"primary_0": found(p=0.9)})) == set()


def test_the_table_of_the_family_has_holms_p(claims: Claims) -> None:
    claims({"modules_0": found(p=0.04), "masks_0": found(p=0.04), "rivals_0": found(-2.0)})
    family = registered.family_table(registered.members(STUDY)).set_index("what")
    counts = [name for name, count in COUNTS.items() for _ in range(count) if name != "primary"]
    assert list(family["group"]) == counts
    raw = [0.04 if what in ("modules 0", "masks 0") else 1e-4 for what in family.index]
    assert np.allclose(family["p (Holm)"].astype(float), holm(raw), atol=5e-4)
    assert family["result"]["modules 0"] == "above zero, before correction"
    row = family.loc["rivals 0"]
    assert (row["result"], row["difference [95 %]"]) == ("below zero", "-2.00 [-3.00, -1.00]")
    assert row["over queries (groups)"] == "[-3.00, -1.00], 70 (70)"


@pytest.mark.usefixtures("one_process")
def test_the_whole_analysis(toy: Study, at_toy: None, trained: list[RunConfig]) -> None:
    made = registered.members(toy)
    family = registered.family_table(made)
    rivals = len({*registered.RIVALS} & {*TOY["heads"]["arms"]})
    counts = {name: count for name, count in COUNTS.items() if name != "primary"}
    assert family["group"].value_counts().to_dict() == counts | {"rivals": rivals}
    assert not family.duplicated(["group", "what", "minus", "on"]).any()
    assert list(family["on"].unique()) == [
        "Medium", *(f"{nuisance}: worst minus mildest" for nuisance in BINS),
        *(f"{nuisance}: {edges[-1][0]}" for nuisance, edges in BINS.items()), "Medium, control",
        "pixel AUC", "pointing", "energy inside",
    ]  # fmt: skip
    table = registered.claim_table(toy, made)
    by_hand, first = contrast(toy, "dagf", "gem", "Medium"), table.iloc[0]
    assert first["verdict"] == ("supported" if by_hand.verdict == "above" else "not supported")
    assert first["contrast"] == "DAGF minus GeM"
    assert first["difference [95 %]"] == by_hand.joint.signed
    beyond, still = registered.contrasts(toy, "control")
    of_control = contrast(control_of(toy), "dagf", "gem", "Medium")
    assert still.joint == pytest.approx(of_control.joint, nan_ok=True)
    assert beyond.queries <= min(still.queries, by_hand.queries)
    assert trained == []  # all of it comes from the run store
