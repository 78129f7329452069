"""What must hold of every re-ranking: invariances, and what it says to bad input."""

import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dagf.errors import UserError
from dagf.retrieval.rerank import (
    augment_database,
    diffusion,
    expand_queries,
    k_reciprocal,
    superglobal,
)
from dagf.retrieval.search import similarities

from .neighbourhoods import Array, sets, unit

Rerank = Callable[..., NDArray[np.floating]]
FEW = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 9999)


def expanded_search(database: Array, queries: Array, chunk: int = 256) -> Array:
    return similarities(database, expand_queries(database, queries, 5, 3, chunk))


def augmented_search(database: Array, queries: Array, chunk: int = 256) -> Array:
    return similarities(augment_database(database, 5, 3, chunk), queries)


EVERY: dict[str, Rerank] = {
    "alpha-QE": expanded_search,
    "DBA": augmented_search,
    "diffusion": partial(diffusion, k=8, query_k=3),
    "k-reciprocal": partial(k_reciprocal, k1=8, k2=3),
    "SuperGlobal": partial(superglobal, top=15, k=4),
}
each = pytest.mark.parametrize("rerank", EVERY.values(), ids=EVERY)


@each
@FEW
@given(seed=SEEDS)
def test_the_order_of_the_database_says_nothing(rerank: Rerank, seed: int) -> None:
    database, queries = sets(seed)
    turn = np.random.default_rng(seed).permutation(len(database))
    np.testing.assert_allclose(
        rerank(database[turn], queries), rerank(database, queries)[:, turn], atol=1e-5
    )


@each
@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_chunks_do_not_matter(rerank: Rerank, chunk: int) -> None:
    np.testing.assert_allclose(rerank(*sets(), chunk=chunk), rerank(*sets()), atol=1e-5)


@each
def test_every_query_is_judged_alone_but_in_the_k_reciprocal(rerank: Rerank) -> None:
    database, queries = sets()
    alone = np.vstack([rerank(database, queries[[row]]) for row in range(len(queries))])
    assert np.allclose(alone, rerank(database, queries), atol=1e-5) == (
        rerank is not EVERY["k-reciprocal"]
    )


@each
def test_no_queries_no_scores(rerank: Rerank) -> None:
    database, queries = sets()
    assert rerank(database, queries[:0]).shape == (0, 40)


@each
def test_copies_of_one_image_do_no_harm(rerank: Rerank) -> None:
    """More copies than neighbours: finite scores, and the same in every call."""
    database, queries = sets()
    database[:20] = database[0]
    first, second = rerank(database, queries), rerank(database, queries)
    assert np.isfinite(first).all()
    assert np.array_equal(first, second)


@each
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_broken_descriptors_are_named(rerank: Rerank, value: float) -> None:
    problem = "has length" if value == 0.5 else "holds NaN or infinity"
    database, queries = sets()
    database[17] *= value
    with pytest.raises(UserError, match=f"database: row 17 {problem}"):
        rerank(database, queries)
    database, queries = sets()
    queries[2] *= value
    with pytest.raises(UserError, match=f"queries: row 2 {problem}"):
        rerank(database, queries)


@each
def test_descriptors_of_another_model(rerank: Rerank) -> None:
    database, queries = sets()
    with pytest.raises(UserError, match="6 dimensions and the queries 4"):
        rerank(database, unit(queries[:, :4]))


WRONG = [
    (
        partial(expand_queries, k=41, alpha=3),
        r"k = 41: there are 40 rows in the database; choose 0 to 40",
    ),
    (
        partial(expand_queries, k=-1, alpha=3),
        "k = -1: there are 40 rows in the database; choose 0 to 40",
    ),
    (partial(expand_queries, k=3, alpha=-1), "alpha = -1: choose at least 0"),
    (
        lambda database, _: augment_database(database, 40, 3),
        "k = 40: there are 39 other rows in the database",
    ),
    (lambda database, _: augment_database(database, 5, np.nan), "alpha = nan: choose at least 0"),
    (diffusion, "k = 50: there are 39 other rows in the database; choose 1 to 39"),
    (partial(diffusion, k=5, query_k=41), "query_k = 41: there are 40 rows in the database"),
    (partial(diffusion, k=5, alpha=1), "alpha = 1: choose 0 to 0.999999"),
    (partial(diffusion, k=5, gamma=-3), "gamma = -3: choose at least 0"),
    (partial(k_reciprocal, k1=41), "k1 = 41: there are 40 rows in the database"),
    (
        partial(k_reciprocal, k1=4),
        "k2 = 6: there are 5 rows in a list of k1 neighbours and oneself; choose 1 to 5",
    ),
    (partial(k_reciprocal, lam=1.5), "lam = 1.5: choose 0 to 1"),
    (superglobal, "top = 400: there are 40 rows in the database; choose 1 to 40"),
    (partial(superglobal, top=9), "k = 9: there are 8 other rows in the top; choose 0 to 8"),
    (partial(superglobal, top=20, beta=-1), "beta = -1: choose at least 0"),
]


@pytest.mark.parametrize(("rerank", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
def test_parameters_out_of_range_are_named(rerank: Rerank, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        rerank(*sets())
    assert "\n" not in str(caught.value)


def test_one_row_has_no_neighbours() -> None:
    with pytest.raises(
        UserError, match="k = 1: there are 0 other rows in the database; give more rows"
    ):
        diffusion(np.eye(1, 4, dtype=np.float32), np.eye(1, 4, dtype=np.float32), k=1)


BOUNDED: dict[str, Rerank] = {
    "alpha-QE": partial(expand_queries, k=10, alpha=3, chunk=32),
    "DBA": lambda database, _: augment_database(database, 10, 3, chunk=32),
    "diffusion": partial(diffusion, k=20, chunk=32),
    "k-reciprocal": partial(k_reciprocal, chunk=32),
    "SuperGlobal": partial(superglobal, top=100, chunk=32),
}


@pytest.mark.parametrize("rerank", BOUNDED.values(), ids=BOUNDED)
def test_memory_grows_with_the_rows_and_not_with_their_square(rerank: Rerank) -> None:
    peaks = []
    for count in (1500, 3000):
        chance = np.random.default_rng(0)
        around = np.repeat(chance.standard_normal((count // 10, 32)), 10, axis=0)
        database = unit(around + 0.8 * chance.standard_normal((count, 32)))
        tracemalloc.start()
        try:
            rerank(database, database[:4])
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 4 * 3000**2 / 2  # half a dense matrix of single precision
    assert peaks[1] < 2.8 * peaks[0]  # 4 times, if it held one
