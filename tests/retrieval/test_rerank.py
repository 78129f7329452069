"""Re-ranking against slow and dense definitions, and what must hold of every one."""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.retrieval import rerank as module
from dagf.retrieval.search import search, similarities

from .tools import Array, Matrix, cosines, falling, sets

FEW = settings(max_examples=15)
SEEDS = st.integers(0, 9999)
Rerank = Callable[..., NDArray[np.floating]]
constants = partial(patch.multiple, module)  # other ones, for a while


@pytest.fixture(autouse=True)
def fifteen_are_ranked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """By SuperGlobal: the sets here are small."""
    monkeypatch.setattr(module, "TOP", 15)


def others(row: int, alike: Matrix, k: int) -> list[int]:
    return [one for one in falling(alike[row]) if one != row][:k]


def expanded_slowly(rows: Array, near: list[list[int]], database: Array, alpha: float) -> Matrix:
    out = []
    for row, names in zip(rows.astype(float), near, strict=True):
        total = row.copy()
        for name in names:
            total += max(row @ database[name], 0) ** alpha * database[name]
        out.append(total / np.linalg.norm(total))
    return np.array(out)


def diffused_slowly(
    database: Array, queries: Array, k: int, gamma: float, alpha: float, query_k: int
) -> Matrix:
    alike, count = cosines(database, database), len(database)
    graph = np.zeros((count, count))
    for i in range(count):
        for j in others(i, alike, k):
            if i in others(j, alike, k):
                graph[i, j] = max(alike[i, j], 0) ** gamma
    degree = graph.sum(1)
    flow = graph / np.sqrt(np.outer(degree, degree) + (graph == 0))
    reach = np.linalg.matrix_power(np.eye(count) + (graph > 0), count) > 0
    out = []
    for scores in cosines(queries, database):
        y = np.zeros(count)
        for j in falling(scores)[:query_k]:
            y[j] = max(scores[j], 0) ** gamma
        f = np.linalg.solve(np.eye(count) - alpha * flow, y)
        out.append(np.where(reach[:, y > 0].any(1), f, scores - 2))
    return np.array(out)


def reciprocal_slowly(database: Array, queries: Array, k1: int, k2: int, lam: float) -> Matrix:
    """V as a dense table over the rows and then the queries, and its sets as Python's."""
    every = np.vstack([database, queries])
    alike, count, size = cosines(every, every), len(every), len(database)
    apart = 2 - 2 * alike
    apart = apart / apart.max(1, keepdims=True)
    lists = [[i, *others(i, alike, count)] for i in range(count)]

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    encoded = np.zeros((count, count))
    for i in range(count):
        members = mutual(i, k1)
        grown = set(members)
        for j in members:
            half = mutual(j, round(k1 / 2))
            if len(half & members) > 2 / 3 * len(half):
                grown |= half
        for j in grown:
            encoded[i, j] = np.exp(-apart[i, j])
        encoded[i] /= encoded[i].sum()
    encoded = np.array([encoded[lists[i][:k2]].mean(0) for i in range(count)])
    out = np.empty((len(queries), size))
    for q in range(len(queries)):
        for i in range(size):
            a, b = encoded[size + q], encoded[i]
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            out[q, i] = 1 - (1 - lam) * jaccard - lam * apart[size + q, i]
    return out


def superglobal_slowly(
    database: Array, queries: Array, top: int, k: int, beta: float
) -> list[dict[int, float]]:
    """The new scores of each query's best rows; the others get none."""
    out = []
    for query, scores in zip(queries.astype(float), cosines(queries, database), strict=True):
        best = falling(scores)[:top]
        alike = cosines(database[best], database[best])
        refined = {}
        for place, row in enumerate(best):
            total, weight = database[row].astype(float), 1.0
            for near in others(place, alike, k):
                share = beta * max(alike[place, near], 0)
                total, weight = total + share * database[best[near]], weight + share
            refined[row] = total / weight
        first = sorted(refined.values(), key=lambda one, query=query: -float(one @ query))[: k + 1]
        widest = np.max(first, axis=0)
        out.append({row: float(one @ query + one @ widest) / 2 for row, one in refined.items()})
    return out


@FEW
@given(SEEDS, st.integers(0, 12), st.sampled_from([0.0, 1.0, 3.0]))
def test_expansion_adds_the_nearest_by_their_similarity(seed: int, k: int, alpha: float) -> None:
    database, queries = sets(seed)
    near = [falling(scores)[:k] for scores in cosines(queries, database)]
    found = module.expanded(database, queries, search(database, queries, k), alpha)
    np.testing.assert_allclose(found, expanded_slowly(queries, near, database, alpha), atol=2e-5)
    alike = cosines(database, database)
    near = [others(row, alike, k) for row in range(len(database))]
    augmented = module.expanded(database, database, module.neighbours(database, k), alpha)
    slow = expanded_slowly(database, near, database, alpha)
    np.testing.assert_allclose(augmented, slow, atol=2e-5)
    both = module.expansion(database, queries, k, alpha, augment=True)
    assert np.array_equal(both, module.expansion(augmented, queries, k, alpha))
    for rows in (found, augmented):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@FEW
@given(SEEDS, st.integers(1, 39), st.sampled_from([0.0, 0.5, 0.99]), st.integers(1, 12))
def test_diffusion_solves_the_dense_system(seed: int, k: int, alpha: float, query_k: int) -> None:
    database, queries = sets(seed)
    with constants(FLOW=alpha, SOURCES=query_k):
        found = module.diffusion(database, queries, k)
    expected = diffused_slowly(database, queries, k, 3, alpha, min(k, query_k))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@FEW
@given(SEEDS, st.integers(1, 20), st.sampled_from([0.0, 0.3, 1.0]))
def test_k_reciprocal_is_the_jaccard_of_dense_encodings(seed: int, k: int, lam: float) -> None:
    database, queries = sets(seed)
    with constants(LAMBDA=lam):
        found = module.k_reciprocal(database, queries, k)
    k2 = max(1, round(6 * k / 20))  # as the paper's 6 is to its 20
    np.testing.assert_allclose(found, reciprocal_slowly(database, queries, k, k2, lam), atol=1e-5)


@FEW
@given(SEEDS, st.integers(1, 40), st.integers(0, 9), st.sampled_from([0.0, 0.15, 1.0]))
def test_superglobal_ranks_the_top_anew(seed: int, top: int, k: int, beta: float) -> None:
    database, queries = sets(seed)
    k = min(k, top - 1)
    with constants(BETA=beta, TOP=top):
        found = module.superglobal(database, queries, k)
    plain = similarities(database, queries)
    for number, expected in enumerate(superglobal_slowly(database, queries, top, k, beta)):
        best, new = [*expected], [*expected.values()]
        np.testing.assert_allclose(found[number, best], new, atol=1e-5)
        rest = [row for row in falling(plain[number]) if row not in expected]
        assert falling(found[number])[top:] == rest


def test_a_query_and_its_opposite_do_not_cancel_out() -> None:
    database, queries = np.float32([[-1, 0], [0, 1]]), np.float32([[1, 0]])
    for rows, k, alpha in ((database, 2, 3), (database[:1], 1, 0)):
        near = search(rows, queries, k)
        assert module.expanded(rows, queries, near, alpha).tolist() == [[1, 0]]


EVERY: dict[str, Rerank] = {
    name: partial(rerank, k=4 if name == "SuperGlobal" else 8)
    for name, rerank in module.RERANKINGS.items()
}
each = pytest.mark.parametrize("rerank", EVERY.values(), ids=EVERY)


@each
@FEW
@given(seed=SEEDS)
def test_the_order_of_the_database_says_nothing(rerank: Rerank, seed: int) -> None:
    database, queries = sets(seed)
    turn = np.random.default_rng(seed).permutation(len(database))
    found, expected = rerank(database[turn], queries), rerank(database, queries)[:, turn]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@each
def test_chunks_do_not_matter_nor_other_queries_but_in_the_k_reciprocal(rerank: Rerank) -> None:
    database, queries = sets()
    with constants(CHUNK=7):
        found = rerank(database, queries)
    np.testing.assert_allclose(found, rerank(database, queries), atol=1e-5)
    alone = np.vstack([rerank(database, queries[[row]]) for row in range(len(queries))])
    assert np.allclose(alone, found, atol=1e-5) == (rerank is not EVERY["k-reciprocal"])


@each
def test_copies_of_one_image_do_no_harm(rerank: Rerank) -> None:
    """More copies than neighbours: finite scores, and the same in every call."""
    database, queries = sets()
    database[:20] = database[0]
    first, second = rerank(database, queries), rerank(database, queries)
    assert np.isfinite(first).all()
    assert np.array_equal(first, second)
