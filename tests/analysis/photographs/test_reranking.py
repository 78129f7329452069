"""Re-ranking on a miniature folder of photographs: the rows, the figures again by hand, and no choice on the test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dagf.analysis.photographs import reranking as photograph_reranking
from dagf.analysis.photographs.reranking import (
    NOTHING,
    RERANKINGS,
    off_the_shelf_reranking,
    trained_reranking,
)
from dagf.analysis.photographs.trials import (
    AS_IT_IS,
    extracted,
    off_the_shelf_methods,
    trained_methods,
)
from dagf.datasets.benchmark import Benchmark
from dagf.errors import UserError
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.retrieval.rerank import diffusion, expand_queries, k_reciprocal, superglobal
from dagf.retrieval.search import similarities
from dagf.study import parallel
from dagf.study.opening import open_study
from dagf.study.study import Study
from tests.fixtures import write_photographs

TRAINING = {"epochs": 1, "steps": 2, "landmarks": 2, "views": 2}
FOLDER: dict[str, Any] = {
    "image": {"size": 32, "mode": "squash"}, "backbone_training": None, "arms": ["gem"],
    "arm_training": None, "heads": {"training": TRAINING, "rates": [1e-3]}, "toytown": None,
}  # fmt: skip


@pytest.fixture
def study(
    project: Path,
    profile: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
) -> Study:
    """Two instances held out and four trained on, in one process, for workers take seconds to start."""
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    folder = write_photographs(tmp_path / "shots", train_instances=6)
    torch.manual_seed(5)
    torch.save(
        RetrievalNet(BackboneSpec(), variant("spoc")).backbone.state_dict(),
        tmp_path / "backbone.pth",
    )
    return open_study(profile(**FOLDER), str(folder), weights=str(tmp_path / "backbone.pth"))


def test_both_tables_have_their_rows(study: Study) -> None:
    off_the_shelf = off_the_shelf_reranking(study, ("mac", "gem"))
    assert list(off_the_shelf["method"]) == ["MAC"] * 14 + ["GeM"] * 14
    assert list(off_the_shelf["re-ranking"]) == [NOTHING, *RERANKINGS] * 4
    assert (off_the_shelf["whitening"][:7] == AS_IT_IS).all()
    assert list(off_the_shelf.columns[3:]) == ["neighbours", "validation", "query", "query − none"]
    bare = off_the_shelf["re-ranking"] == NOTHING
    assert (off_the_shelf["neighbours"][bare] == "").all()
    assert (off_the_shelf["query − none"][bare] == "").all()
    assert off_the_shelf["query − none"][~bare].str.fullmatch(r"[+-]\d+\.\d\d \[.*\]").all()
    plain = {
        (one.title, one.whitening): one
        for pair in off_the_shelf_methods(study, ("mac", "gem"))
        for one in pair
    }
    for _, row in off_the_shelf[bare].iterrows():
        one = plain[row["method"], row["whitening"]]
        assert row["validation"] == f"{one.validation:.1f}"
        assert row["query"].startswith(
            f"{one.points(study.test.query_sets['query']).mean(axis=None):.1f} ["
        )

    trained = trained_reranking(study, ("gem",))
    assert list(trained["re-ranking"]) == [NOTHING, *RERANKINGS] * 2
    kept = sorted((study.cache / "reranked").iterdir())
    assert trained_reranking(study, ("gem",)).equals(trained)
    assert sorted((study.cache / "reranked").iterdir()) == kept
    for folder, ask in (("reranked", trained_reranking), ("whitened", trained_methods)):
        broken = sorted((study.cache / folder).iterdir())
        for file in broken:
            file.write_bytes(b"AP\n\0")
        with pytest.raises(UserError, match=rf"{folder}/\w+\.csv.*delete it: it is made again"):
            ask(study, ("gem",))
        for file in broken:
            file.unlink()


def by_hand(name: str, database: Any, queries: Any, count: int) -> Any:
    """With the parameters of the papers written out."""
    match name:
        case "AQE":
            return similarities(database, expand_queries(database, queries, count, 0))
        case "diffusion":
            return diffusion(database, queries, count, 3, 0.99, count)
        case "k-reciprocal":
            return k_reciprocal(database, queries, count, {2: 1, 5: 2}[count], 0.3)
        case _:
            return superglobal(database, queries, len(database), count, 0.15)


def test_the_count_of_the_best_held_out_map_is_used_on_the_test(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        photograph_reranking, "COUNTS", (2, 5, 1000)
    )  # the last is more than there are
    table = off_the_shelf_reranking(study, ("mac",)).set_index(["whitening", "re-ranking"])
    _, parts = extracted(study, ("mac", study.profile.seeds[0]))
    assert study.training is not None
    for name in ("AQE", "diffusion", "k-reciprocal", "SuperGlobal"):
        row = table.loc[(AS_IT_IS, name)]
        figures = {}
        for part, benchmark in (("validation", study.training.validation), ("test", study.test)):
            setting = benchmark.settings[len(benchmark.settings) // 2].name
            for count in (2, 5):
                per_query = evaluate(benchmark, by_hand(name, *parts[part], count))
                figures[part, count] = mean_average_precision(per_query, setting)
        best = max((2, 5), key=lambda count: figures["validation", count])
        assert row["neighbours"] == best
        assert row["validation"] == f"{figures['validation', best]:.1f}"
        assert row["query"].startswith(f"{figures['test', best]:.1f} [")


def test_a_permuted_test_changes_no_choice(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = photograph_reranking.evaluate_middle

    def permuted(benchmark: Benchmark, scores: Any) -> pd.DataFrame:
        return whole(
            benchmark, np.roll(scores, 7, axis=1) if benchmark.name == study.test.name else scores
        )

    first = off_the_shelf_reranking(study, ("spoc",))
    monkeypatch.setattr(photograph_reranking, "judged_once", permuted)
    other = off_the_shelf_reranking(replace(study, cache=study.cache / "other"), ("spoc",))
    assert first.iloc[:, :5].equals(other.iloc[:, :5])
    assert not first["query"].equals(other["query"])


def test_too_few_images_to_have_neighbours(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photograph_reranking, "COUNTS", (1000, 2000))
    with pytest.raises(UserError, match="has no neighbours to re-rank by; give it 1001"):
        off_the_shelf_reranking(study, ("spoc",))
