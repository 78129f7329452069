"""Re-ranking: what the neighbours of a query, and theirs, add to its ranking.

Everything in `RERANKINGS` gives scores (Q, N) from a database, queries and a number of neighbours.
Everywhere rows are unit descriptors, equal similarities put the lower row first, and a row is never
its own neighbour unless it is said to be. A query that also stands in the database is found there
like any other row. The parameters that are constants here are those of the papers.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg

from dagf.retrieval.search import Descriptors, Found, Indices, search, similarities

Scores = NDArray[np.float64]
Sparse = Any  # scipy has no types

CHUNK = 256  # rows or queries at once, which bounds the memory
GAMMA, FLOW, SOURCES = 3, 0.99, 10  # of diffusion; SOURCES: rows that a query feeds
TOLERANCE = 1e-10  # of the right-hand side's length: the order of small scores counts, too
LAMBDA, AVERAGED = 0.3, 6 / 20  # of k-reciprocal encoding; AVERAGED: k2 / k1
BETA, TOP = 0.15, 400  # of SuperGlobal; TOP: rows that are ranked anew


def expanded(database: Descriptors, rows: Descriptors, near: Found, alpha: float) -> Descriptors:
    """Return L2(x + sum_j max(s_j, 0)^alpha x_j) of each row x, over what is near it: (n, D).

    near: s_j and the numbers of the x_j in the database. alpha = 0 weights them all alike,
    dissimilar ones too. Where a sum cancels out, the row stays.
    """
    scores, numbers = near
    weights = np.maximum(scores, 0) ** np.float32(alpha)
    sums = rows + _incidence(numbers, weights, len(database)) @ database
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, lengths, out=rows.copy(), where=lengths > 1e-6)


def expansion(
    database: Descriptors, queries: Descriptors, k: int, alpha: float = 3, augment: bool = False
) -> NDArray[np.float32]:
    """Return the similarities (Q, N) of queries `expanded` by their k nearest rows: alpha-QE.

    Radenovic et al., TPAMI 2019; with alpha = 0 average query expansion (Chum et al., ICCV 2007).
    augment: every row is `expanded` first, by its k nearest *other* rows (Turcot and Lowe, ICCV
    workshops 2009; Arandjelovic and Zisserman, CVPR 2012).
    """
    if augment:
        database = expanded(database, database, neighbours(database, k), alpha)
    near = search(database, queries, k)
    return similarities(database, expanded(database, queries, near, alpha))


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def neighbours(rows: Descriptors, k: int) -> Found:
    """Return the k nearest other rows of every row: similarities (N, k), rows (N, k)."""
    scores, numbers = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
    for some in _chunks(len(rows)):
        near, names = search(rows, rows[some], k + 1)
        own = names == np.arange(some.start, some.stop)[:, None]
        own[:, -1] |= ~own.any(1)  # so many copies of a row that it is not among its own nearest
        scores[some] = near[~own].reshape(len(own), k)
        numbers[some] = names[~own].reshape(len(own), k)
    return scores, numbers


def diffusion(database: Descriptors, queries: Descriptors, k: int = 50) -> Scores:
    """Return how much of a query's similarity flows to each row over the graph, (Q, N).

    Iscen et al., CVPR 2017. A_ij = max(s_ij, 0)^gamma where i and j are among each other's k
    nearest, else 0; S = D^-1/2 A D^-1/2 with D the degrees; y holds max(s, 0)^gamma at the query's
    `SOURCES` nearest rows (at most k); the scores are f of (I - alpha S) f = y, by conjugate
    gradients. A row without a mutual neighbour keeps f = y. Memory O(N k), beside the scores.

    Ours: the system is solved to convergence over the whole graph (public code stops after some
    iterations and may cut the graph). Rows that no path joins to the query's nearest have f = 0: so
    that they do not tie, they get their similarity minus 2 and follow in the order of plain search.
    """
    scores, rows = neighbours(database, k)
    directed = _incidence(rows, np.maximum(scores, 0, dtype=float) ** GAMMA, len(rows))
    graph = directed.minimum(directed.T).tocsr()  # 0 but where both name each other
    graph.eliminate_zeros()
    inverse = sparse.diags_array(np.where(graph.sum(1) > 0, graph.sum(1), np.inf) ** -0.5)
    system = sparse.eye_array(len(database)) - FLOW * (inverse @ graph @ inverse)
    _, part = connected_components(graph, directed=False)
    out = similarities(database, queries).astype(float) - 2.0
    for line, scores, rows in zip(out, *search(database, queries, min(SOURCES, k)), strict=True):
        sources = np.zeros(len(database))
        sources[rows] = np.maximum(scores, 0, dtype=float) ** GAMMA
        fed = np.isin(part, part[sources > 0])
        line[fed] = cg(system, sources, rtol=TOLERANCE, atol=0.0)[0][fed]
    return out


def _incidence(lists: Indices, values: NDArray[np.floating], columns: int) -> Sparse:
    """(N, columns), row i holding values[i] at the columns lists[i]."""
    count, k = lists.shape
    starts = np.arange(count + 1) * k
    return sparse.csr_array((values.ravel(), lists.ravel(), starts), (count, columns))


def _ones(lists: Indices) -> Sparse:
    """(N, N), row i holding ones at the columns lists[i]."""
    return _incidence(lists, np.ones(lists.shape), len(lists))


def k_reciprocal(database: Descriptors, queries: Descriptors, k: int = 20) -> Scores:
    """Return one minus the distance of k-reciprocal encodings: similarities (Q, N), at most 1.

    Zhong et al., CVPR 2017. R(i, k): the rows that have i, and that i has, among the k nearest; i
    itself is in it. R*(i): R(i, k) with every R(j, k/2) of a j in R(i, k) of which more than two
    thirds lie in R(i, k). V_i: exp(-d_ij) over R*(i), summing to 1, then averaged over i and its
    k2 - 1 nearest. The distance is (1 - lambda) times Jaccard's of V_q and V_i plus lambda d_qi;
    d_ij = |x_i - x_j|^2 divided by its largest value from i.

    Where the paper and its code differ (the division, 'more than' for 'at least', queries as
    neighbours of one another and of the rows) this is the code, which made the published figures.
    So a query's scores depend on the other queries: give them one at a time where they must not.
    Memory: V is sparse.
    """
    plain = similarities(database, queries)
    rows, size, k2 = np.vstack([database, queries]), len(database), max(1, round(k * AVERAGED))
    least = np.concatenate([(rows[some] @ rows.T).min(1) for some in _chunks(len(rows))])
    farthest = np.maximum(2 - 2 * least.astype(float), 1e-12)  # not 0 where all rows are equal
    nearest = np.hstack([np.arange(len(rows))[:, None], neighbours(rows, k)[1]])
    encoded = _encoded(rows, _reciprocal(nearest, k), farthest)
    encoded = (_ones(nearest[:, :k2]) @ encoded / k2).tocsr()
    columns = encoded[:size].tocsc()
    apart = np.maximum(2 - 2 * plain.astype(float), 0) / farthest[size:, None]
    out = np.empty(plain.shape)
    for number in range(len(queries)):
        own = encoded[[size + number]]
        shared = columns[:, own.indices]
        smaller = np.minimum(shared.data, np.repeat(own.data, np.diff(shared.indptr)))
        common = np.bincount(shared.indices, smaller, size)
        jaccard = 1 - common / (2 - common)
        out[number] = 1 - (1 - LAMBDA) * jaccard - LAMBDA * apart[number]
    return out


def _reciprocal(nearest: Indices, k1: int) -> Sparse:
    """R*(i) of every row, as the ones of a sparse (N, N). nearest: (N, k1 + 1), oneself first."""
    whole, half = (_ones(nearest[:, : k + 1]) for k in (k1, round(k1 / 2)))
    whole, half = whole.multiply(whole.T).tocsr(), half.multiply(half.T).tocsr()
    sizes, parts = half.sum(1), []
    for some in _chunks(len(nearest)):
        members = whole[some]
        # How much of R(j, k1/2) lies in R(i, k1).
        inside = (members @ half).multiply(members).tocsr()
        inside.data = (3 * inside.data > 2 * sizes[inside.indices]).astype(float)
        grown = (members + inside @ half).tocsr()
        grown.eliminate_zeros()
        parts.append(grown)
    return sparse.vstack(parts, format="csr")


def _encoded(rows: Descriptors, members: Sparse, farthest: Scores) -> Sparse:
    """V before the averaging: exp(-d_ij) at the members of R*(i), each row summing to 1."""
    out = members.tocoo()
    for some in _chunks(out.nnz):
        alike = np.einsum("nd,nd->n", rows[out.row[some]], rows[out.col[some]]).astype(float)
        out.data[some] = np.exp(-np.maximum(2 - 2 * alike, 0) / farthest[out.row[some]])
    return (sparse.diags_array(1 / out.sum(1)) @ out).tocsr()


def superglobal(database: Descriptors, queries: Descriptors, k: int = 9) -> Scores:
    """SuperGlobal's re-ranking of each query's `TOP` rows (Shao et al., ICCV 2023): scores (Q, N).

    Each of them is refined by its k nearest among them, x' = (x + sum_j w_j x_j) / (1 + sum_j w_j)
    with w_j = beta max(s_j, 0). The expanded query e is the channel-wise maximum of the k + 1
    refined descriptors most similar to q (the query is not one of them). The score is (<q, x'> +
    <e, x'>) / 2; neither x' nor e is normalised again, as in the authors' code. All other rows
    follow below, in the order of plain search. Ours: the weights are cut off at 0, for descriptors
    that may point apart.
    """
    out = similarities(database, queries).astype(float)
    tops = search(database, queries, TOP)[1]
    for line, query, best in zip(out, queries, tops, strict=True):
        rows = database[best]
        scores, near = neighbours(rows, k)
        weights = np.float32(BETA) * np.maximum(scores, 0)
        sums = rows + _incidence(near, weights, len(rows)) @ rows
        refined = sums / (1 + weights.sum(1, keepdims=True))
        before = refined @ query
        expanded = refined[np.argsort(-before, kind="stable")[: k + 1]].max(0)
        after = (before + refined @ expanded) / 2
        rest = np.delete(np.arange(len(database)), best)
        if len(rest):
            line[rest] += after.min() - line[rest].max() - 1
        line[best] = after
    return out


Rerank = Callable[[Descriptors, Descriptors, int], NDArray[np.floating]]
RERANKINGS: dict[str, Rerank] = {  # database, queries, neighbours -> scores
    "AQE": partial(expansion, alpha=0),
    "α-QE": expansion,
    "α-QE + DBA": partial(expansion, augment=True),
    "diffusion": diffusion,
    "k-reciprocal": k_reciprocal,
    "SuperGlobal": superglobal,
}
