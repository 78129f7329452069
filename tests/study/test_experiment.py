"""The study: what is trained and shared, on Toytown and on a folder; contrasts and summaries by hand."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dagf.common import UserError, read_json
from dagf.model.variants import VARIANTS
from dagf.retrieval.descriptors import benchmark_scores
from dagf.retrieval.metrics import judge
from dagf.retrieval.statistics import Interval, t_interval
from dagf.study import experiment, parallel, results
from dagf.study.config import RunConfig
from dagf.study.experiment import Study
from dagf.study.opening import open_study
from dagf.study.results import Contrast, contrast, contrast_table, keep_table, shelf_summary, summary
from tests.study.conftest import write_photographs

FOLDER: dict[str, Any] = {
    "image": {"size": 32, "mode": "squash"}, "trunk_training": None, "frozen": True, "arms": ["gem", "dagf"],
    "arm_training": {"epochs": 2, "steps": 2, "landmarks": 2, "views": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Worker processes take seconds to start; one test has them."""
    monkeypatch.setattr(parallel, "cores", lambda: 1)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that were trained, in order."""
    configs: list[RunConfig] = []
    whole = experiment.train

    def counted(config: RunConfig, *rest: Any, **options: Any) -> Any:
        configs.append(config)
        return whole(config, *rest, **options)

    monkeypatch.setattr(experiment, "train", counted)
    return configs


def test_arms_share_the_trunk_of_their_seed(
    project: Path, profile: Callable[..., str], trained: list[RunConfig]
) -> None:
    study = open_study(profile())
    table = study.table()
    trunks, arms = trained[:2], trained[2:]
    assert [config.start for config in trunks] == ["", ""]
    assert [config.variant.title for config in trunks] == ["SPoC", "SPoC"]
    assert len(arms) == 4
    assert {(config.seed, config.start) for config in arms} == {(config.seed, config.id) for config in trunks}
    assert {tuple(row) for row in table[["arm", "seed", "setting"]].to_numpy()} == {
        (arm, seed, setting) for arm in ("spoc", "dagf") for seed in (0, 1) for setting in ("Easy", "Medium", "Hard")
        if ((table["setting"] == setting).any())
    }  # fmt: skip
    assert table["mAP"].between(0, 100).all()
    assert len({run.id for run in study.train().values()}) == 4
    trained.clear()
    assert study.table().equals(table)
    assert trained == []


def test_only_what_changed_is_trained_again(
    project: Path, profile: Callable[..., str], trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"seeds": [0]}
    first = open_study(profile(**small)).train()
    trained.clear()
    monkeypatch.setitem(VARIANTS, "dagf", replace(VARIANTS["dagf"], windows=(1, 2)))
    second = open_study(profile(**small)).train()
    assert [config.variant.windows for config in trained] == [(1, 2)]
    assert second["spoc", 0] == first["spoc", 0]
    assert second["dagf", 0] != first["dagf", 0]
    trained.clear()
    monkeypatch.setitem(VARIANTS, "dagf", replace(VARIANTS["dagf"], title="another title"))
    open_study(profile(**small, about="other words", arms=["dagf"])).train()
    assert trained == []
    open_study(profile(**small, arm_training={"epochs": 1, "steps": 2, "landmarks": 3, "views": 2})).train()
    assert len(trained) == 2  # the arms, not the trunk


def test_another_pyramid_is_judged_again_but_not_trained(
    project: Path, profile: Callable[..., str], trained: list[RunConfig]
) -> None:
    run = open_study(profile(arms=["spoc"], seeds=[0])).run("spoc")
    trained.clear()
    other = open_study(profile(arms=["spoc"], seeds=[0], scales=[1.0, 0.7071]))
    other.answers(other.run("spoc"))
    assert trained == []
    assert len(list(run.folder.glob("judged-*.csv"))) == 2


def test_what_a_study_cannot_be(project: Path, profile: Callable[..., str], photographs: Path) -> None:
    with pytest.raises(UserError, match=r"weights file .*nowhere\.pth does not exist"):
        open_study(profile(), weights=str(project / "nowhere.pth"))
    with pytest.raises(UserError, match="distractors and train_on belong to a benchmark of photographs"):
        open_study(profile(), train_on=str(photographs))
    with pytest.raises(UserError, match=r"labels\.csv does not exist"):
        open_study(profile(), str(project))
    with pytest.raises(UserError, match="did you mean 'spoc'"):
        open_study(profile(), str(photographs)).run("spok")


@pytest.mark.parametrize("trunk", [{"name": "small"}, {"name": "squeezenet1_1", "cut": "features.7"}])
def test_heads_on_a_frozen_trunk_and_a_folder(
    project: Path, profile: Callable[..., str], photographs: Path, trunk: Mapping[str, str]
) -> None:
    study = open_study(profile(**FOLDER, trunk=dict(trunk), seeds=[0, 1]), str(photographs))
    assert study.training is not None
    assert study.training.landmarks == 2
    table = study.table()
    assert len(table) == 4
    assert set(table["setting"]) == {"Classic"}
    for (_, seed), run in study.train().items():
        net = run.network()
        kept, fresh = (made.trunk.state_dict() for made in (net, _fresh(study, run.config)))
        assert all(kept[key].equal(fresh[key]) for key in kept), seed
        scores = benchmark_scores(net, study.test, study.profile.image)[0]
        judged = study.answers(run).judged  # through the cached maps, in half precision
        assert np.allclose(judged["AP"], judge(study.test, scores)["AP"], atol=0.35)
        assert judged["AP"].mean() == pytest.approx(judge(study.test, scores)["AP"].mean(), abs=0.05)


def _fresh(study: Study, config: RunConfig) -> Any:
    torch.manual_seed(config.seed)
    return experiment.RetrievalNet(config.trunk, config.variant)


def test_weights_are_named_by_their_content(
    project: Path, profile: Callable[..., str], photographs: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    trunk = experiment.RetrievalNet(experiment.TrunkSpec(), "spoc").trunk
    for name in ("one.pth", "two.pth"):
        torch.save(trunk.state_dict(), tmp_path / name)
    (tmp_path / "two.pth").write_bytes((tmp_path / "one.pth").read_bytes())
    name = profile(**FOLDER, seeds=[0])
    one, two = (open_study(name, str(photographs), weights=str(tmp_path / file)) for file in ("one.pth", "two.pth"))
    assert one.arm_config("gem", 0) == two.arm_config("gem", 0)
    assert one.trunk.weights.startswith("sha256:")
    kept = load_file(one.run("gem").folder / "weights.safetensors")
    assert all(kept[f"trunk.{key}"].equal(value) for key, value in trunk.state_dict().items())
    (tmp_path / "two.pth").write_bytes(b"")
    assert two.run("gem") == one.run("gem") if two.trunk == one.trunk else True
    with pytest.raises(UserError, match=r"two\.pth"):
        two.untrained("gem")


@pytest.fixture
def trunk_weights(tmp_path: Path) -> str:
    """A file with the weights of some small trunk."""
    torch.manual_seed(5)
    torch.save(experiment.RetrievalNet(experiment.TrunkSpec(), "spoc").trunk.state_dict(), tmp_path / "trunk.pth")
    return str(tmp_path / "trunk.pth")


def test_off_the_shelf(
    project: Path,
    profile: Callable[..., str],
    photographs: Path,
    trunk_weights: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = profile(**FOLDER, shelf=["gem", "spoc"], seeds=[0])
    with pytest.raises(UserError, match="no pre-trained trunk"):
        open_study(name, str(photographs)).untrained_answers("gem")
    study = open_study(name, str(photographs), weights=trunk_weights)
    table = study.shelf_table()
    assert list(table["arm"]) == ["gem", "spoc"]
    judged = study.untrained_answers("gem").judged
    assert judged.equals(study.untrained_answers("gem").judged)
    net = study.untrained("gem")
    assert not net.training
    scores = benchmark_scores(net, study.test, study.profile.image)[0]
    assert judged["AP"].mean() == pytest.approx(judge(study.test, scores)["AP"].mean(), abs=0.05)
    with pytest.raises(UserError, match="dagf has an attention that must be trained first"):
        study.untrained_answers("dagf")
    kept = set((study.cache / "off-the-shelf").iterdir())
    monkeypatch.setitem(VARIANTS, "gem", replace(VARIANTS["gem"], windows=(1, 2)))
    study.untrained_answers("gem")  # the name now stands for another descriptor
    assert len(set((study.cache / "off-the-shelf").iterdir()) - kept) == 1
    assert list(shelf_summary(table)["method"]) == ["GeM", "SPoC"]


def test_an_instance_is_trained_on_or_tested_on(project: Path, profile: Callable[..., str], tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "mine", train_instances=5)
    rows = (folder / "labels.csv").read_text().splitlines()
    tested = next(row.split(",")[1] for row in rows if row.endswith(",query"))
    learned = next(row for row in rows if row.endswith(",train"))
    file, _, role = learned.split(",")
    (folder / "labels.csv").write_text("\n".join(rows).replace(learned, f"{file},{tested},{role}") + "\n")
    with pytest.raises(UserError, match=f"{tested} would be trained and tested on"):
        open_study(profile(**FOLDER), str(folder))


def test_a_folder_without_training_images(
    project: Path, profile: Callable[..., str], tmp_path: Path, trunk_weights: str
) -> None:
    folder = write_photographs(tmp_path / "mine", train_instances=0)
    study = open_study(profile(**FOLDER), str(folder), weights=trunk_weights)
    assert study.training is None
    assert len(study.shelf_table(["gem"])) == 1
    with pytest.raises(UserError, match="mine has no images of the role 'train' to train on"):
        study.run("gem")
    elsewhere = write_photographs(tmp_path / "others", train_instances=5)
    labels = (elsewhere / "labels.csv").read_text()
    (elsewhere / "labels.csv").write_text(re.sub(r",i(?=\d)", ",other", labels))
    with_training = open_study(profile(**FOLDER), str(folder), [str(elsewhere)], train_on=str(elsewhere))
    assert with_training.training is not None
    assert len(with_training.test.distractors) == 4
    assert with_training.test_id != study.test_id


def test_a_run_trained_alone_has_one_thread_too(project: Path, profile: Callable[..., str], photographs: Path) -> None:
    torch.set_num_threads(2)
    run = open_study(profile(**FOLDER, seeds=[0]), str(photographs)).run("gem")
    assert run.record["machine"]["threads"] == 1
    assert torch.get_num_threads() == 2


@pytest.mark.study
def test_worker_processes_give_the_same_bits(
    project: Path, profile: Callable[..., str], photographs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = open_study(profile(**FOLDER, seeds=[0]), str(photographs))
    here = {key: load_file(run.folder / "weights.safetensors") for key, run in study.train().items()}
    monkeypatch.setattr(experiment, "cores", lambda: 2)
    other = replace(study, store=experiment.RunStore(tmp_path / "other"), cache=tmp_path / "cache")
    for key, run in other.train().items():
        there = load_file(run.folder / "weights.safetensors")
        assert all(here[key][name].equal(value) for name, value in there.items())
        assert list(run.folder.glob("judged-*.csv"))


def test_summary_by_hand() -> None:
    rows = [
        ("query", "Easy", 40.0, "dagf", 0), ("query", "Easy", 44.0, "dagf", 1), ("query", "Easy", 30.0, "gem", 0),
        ("query-2", "Easy", 5.04, "gem", 0), ("query", "Hard", 7.0, "gem", 0),
    ]  # fmt: skip
    table = summary(pd.DataFrame(rows, columns=["query_set", "setting", "mAP", "arm", "seed"]))
    found = table.set_index(["query set", "method"])
    assert found["Easy"]["query", "DAGF"] == str(t_interval([40, 44])) == "42.0 [16.6, 67.4]"
    assert found["Easy"]["query-2", "GeM"] == "5.0"
    assert found["Hard"]["query", "GeM"] == "7.0"
    assert found["seeds"]["query", "DAGF"] == 2


def pretend_study(values: dict[tuple[str, int], list[float]], clusters: list[int]) -> Any:
    """A study whose queries were judged as `values` says: (arm, seed) -> an AP a query, NaN without positives."""

    def judged(run: tuple[str, int]) -> pd.DataFrame:
        scores = values[run]
        frame = {"setting": "Medium", "query_set": "query", "query": range(len(scores)), "AP": scores}
        found = pd.DataFrame(frame).assign(positives=lambda table: table["AP"].notna().astype(int))
        return pd.concat([found, found.assign(setting="Hard", AP=0.0)])

    seeds = tuple(dict.fromkeys(seed for _, seed in values))
    return SimpleNamespace(
        profile=SimpleNamespace(seeds=seeds), test=SimpleNamespace(clusters=lambda: np.array(clusters)),
        train=lambda arms: {(arm, seed): (arm, seed) for arm in arms for seed in seeds}, judge_run=judged,
    )  # fmt: skip


def test_contrast_by_hand() -> None:
    nan = float("nan")
    values = {
        ("dagf", 0): [0.5, 0.6, nan, 0.9], ("gem", 0): [0.4, 0.4, nan, 0.6],
        ("dagf", 1): [0.5, 0.5, nan, 0.5], ("gem", 1): [0.3, 0.2, nan, 0.4],
    }  # fmt: skip
    found = contrast(pretend_study(values, [0, 1, 2, 3]), "dagf", "gem", "Medium")
    assert (found.seeds, found.queries) == (2, 3)
    assert found.over_seeds == pytest.approx(t_interval([20, 20]))
    assert found.over_queries.mean == pytest.approx(20)
    assert found.over_queries.low >= 15 - 1e-9
    assert found.over_queries.high <= 25 + 1e-9
    assert found.verdict == "above"
    (row,) = contrast_table([found]).to_dict("records")
    assert (row["arm"], row["minus"], row["mAP"], row["DAGF is"]) == ("DAGF", "GeM", "+20.0", "above")
    assert row["over 2 seeds"] == "[+20.0, +20.0]"
    assert row["over queries (groups)"] == "[+15.0, +25.0], 3 (3)"
    back = contrast(pretend_study(values, [0, 1, 2, 3]), "gem", "dagf", "Medium")
    assert back.verdict == "below"
    assert back.over_seeds.mean == pytest.approx(-20)
    one = contrast(pretend_study(values, [0, 0, 0, 0]), "dagf", "gem", "Medium")
    assert np.isnan(one.over_queries.low)  # one cluster: nothing to draw, so no side is taken
    assert one.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("seeds", "queries", "verdict"),
    [
        ((1, 5), (1, 5), "above"), ((-5, -1), (-5, -1), "below"), ((1, 5), (-1, 5), "no difference shown"),
        ((-1, 5), (1, 5), "no difference shown"), ((-5, -1), (1, 5), "no difference shown"),
        ((0, 5), (1, 5), "no difference shown"), ((float("nan"), float("nan")), (1, 5), "no difference shown"),
    ],
)  # fmt: skip
def test_a_verdict_needs_both_intervals(seeds: tuple[float, float], queries: tuple[float, float], verdict: str) -> None:
    made = Contrast("dagf", "gem", "Medium", "query", 3, 9, 9, Interval(0, *seeds), Interval(0, *queries))
    assert made.verdict == verdict


def test_a_kept_table(project: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [0.5, np.nan], "n": pd.array([1, None], dtype="Int64")})
    keep_table("kept", frame, "T", "C", note="N")
    folder = project / "data" / "scratch" / "tables"
    record = read_json(folder / "kept.json")
    assert record["rows"] == [[1, "x", 0.5, 1], [2, None, None, None]]
    assert (record["columns"], record["title"], record["note"]) == (["a", "b", "c", "n"], "T", "N")
    assert pd.read_csv(folder / "kept.csv")["c"].isna().sum() == 1
    assert results.photograph_tables() == []
