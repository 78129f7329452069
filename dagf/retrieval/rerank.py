"""Re-ranking: what the neighbours of a query, and theirs, add to its ranking. No label is ever looked at.

Query and database-side expansion give other descriptors, to be searched as usual. Diffusion, k-reciprocal
encoding and SuperGlobal give scores (Q, N). Everywhere rows are unit descriptors, equal similarities put the
lower row first, and a row is never its own neighbour unless it is said to be. A query that also stands in the
database is found there like any other row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from dagf.errors import UserError
from dagf.retrieval.search import Descriptors, check_descriptors, search, similarities

Scores = NDArray[np.float64]
Rows = NDArray[np.int64]
Sparse = Any  # scipy has no types

TOLERANCE = 1e-10  # of the right-hand side's length; the scores of far rows are small, and their order counts too


def expand_queries(
    database: Descriptors, queries: Descriptors, k: int, alpha: float, chunk: int = 256
) -> Descriptors:
    """alpha-QE: q' = L2(q + sum_j max(s_j, 0)^alpha x_j) over the query's k nearest rows x_j at similarity s_j.

    Radenovic et al., TPAMI 2019. alpha = 0 weights all k alike, dissimilar ones too: average query expansion
    (Chum et al., ICCV 2007). k = 0 leaves the queries as they are. Gives (Q, D). Where a sum cancels out, the
    query stays. `chunk` queries are expanded at once.

    Raises `UserError` for broken descriptors, k above the number of rows, or a negative alpha.
    """
    _within("k", k, 0, len(database), "rows in the database")
    _within("alpha", alpha, 0)
    out = np.empty_like(queries)
    for start in range(0, len(queries), chunk):
        some = slice(start, start + chunk)
        out[some] = _expanded(database, queries[some], *search(database, queries[some], k), alpha)
    return out


def augment_database(database: Descriptors, k: int, alpha: float, chunk: int = 256) -> Descriptors:
    """Database-side augmentation: every row x becomes L2(x + sum_j max(s_j, 0)^alpha x_j), all at the same time.

    As in `expand_queries`, over the k nearest *other* rows: x itself counts once, with weight 1 (Turcot and
    Lowe, ICCV workshops 2009; Arandjelovic and Zisserman, CVPR 2012). Gives (N, D). `chunk` rows at once.

    Raises `UserError` for broken descriptors, k above the number of other rows, or a negative alpha.
    """
    _within("k", k, 0, len(database) - 1, "other rows in the database")
    _within("alpha", alpha, 0)
    out = np.empty_like(database)
    scores, rows = _neighbours(database, k, chunk)
    for start in range(0, len(database), chunk):
        some = slice(start, start + chunk)
        out[some] = _expanded(database, database[some], scores[some], rows[some], alpha)
    return out


def diffusion(
    database: Descriptors,
    queries: Descriptors,
    k: int = 50,
    gamma: float = 3,
    alpha: float = 0.99,
    query_k: int = 10,
    chunk: int = 256,
) -> Scores:
    """How much of the query's similarity flows to each row over the graph of the database (Iscen et al., CVPR 2017).

    A_ij = max(s_ij, 0)^gamma where i and j are among each other's k nearest, else 0; S = D^-1/2 A D^-1/2 with
    D the degrees; y holds max(s, 0)^gamma at the query's `query_k` nearest rows; the scores (Q, N) are f of
    (I - alpha S) f = y, by conjugate gradients. A row without a mutual neighbour keeps f = y. All rows that no
    path joins to the query's nearest have f = 0: so that they do not tie, they get their similarity minus 2,
    hence follow below in the order of plain search. Memory O(N k + N chunk), beside the scores.

    Ours: the system is solved to convergence over the whole graph (public code stops after some iterations and may
    cut the graph), and so is what becomes of the rows that nothing reaches.

    Raises `UserError` for broken descriptors or a parameter out of range.
    """
    _within("k", k, 1, len(database) - 1, "other rows in the database")
    _within("query_k", query_k, 1, len(database), "rows in the database")
    _within("gamma", gamma, 0)
    _within("alpha", alpha, 0, 1 - 1e-6)
    plain = similarities(database, queries)
    graph = _affinity(*_neighbours(database, k, chunk), gamma)
    inverse = np.where(graph.sum(1) > 0, graph.sum(1), np.inf) ** -0.5
    flow = alpha * (sparse.diags_array(inverse) @ graph @ sparse.diags_array(inverse)).tocsr()
    parts, part = connected_components(graph, directed=False)
    out = np.empty(plain.shape)
    for start in range(0, len(queries), chunk):
        some = slice(start, start + chunk)
        scores, rows = search(database, queries[some], query_k)
        sources = np.maximum(scores, 0, dtype=float) ** gamma * (scores > 0)
        y = np.zeros(plain[some].shape)
        np.put_along_axis(y, rows, sources, 1)
        fed = np.zeros((len(y), parts), bool)
        fed[np.nonzero(y)[0], part[np.nonzero(y)[1]]] = True
        out[some] = np.where(fed[:, part], _solved(flow, y.T).T, plain[some] - 2.0)
    return out


def k_reciprocal(
    database: Descriptors,
    queries: Descriptors,
    k1: int = 20,
    k2: int = 6,
    lam: float = 0.3,
    chunk: int = 256,
) -> Scores:
    """One minus the distance of k-reciprocal encodings (Zhong et al., CVPR 2017): similarities (Q, N), at most 1.

    R(i, k): the rows that have i, and that i has, among the k nearest; i itself is in it. R*(i): R(i, k1) with
    every R(j, k1/2) of a j in R(i, k1) of which more than two thirds lie in R(i, k1). V_i: exp(-d_ij) over
    R*(i), summing to 1, then averaged over i and its k2 - 1 nearest. The distance is (1 - lam) times Jaccard's
    of V_q and V_i plus lam d_qi; d_ij = |x_i - x_j|^2 divided by its largest value from i.

    Where the paper and its code differ (the division, 'more than' for 'at least', queries as neighbours of one
    another and of the rows) this is the code, which made the published figures. So a query's scores depend on
    the other queries: give them one at a time where they must not. Memory: V is sparse, `chunk` x (N + Q) beside.

    Raises `UserError` for broken descriptors or a parameter out of range.
    """
    _within("k1", k1, 1, len(database), "rows in the database")
    _within("k2", k2, 1, k1 + 1, "rows in a list of k1 neighbours and oneself")
    _within("lam", lam, 0, 1)
    plain = similarities(database, queries)
    rows, size = np.vstack([database, queries]), len(database)
    farthest = _farthest(rows, chunk)
    nearest = np.hstack([np.arange(len(rows))[:, None], _neighbours(rows, k1, chunk)[1]])
    members = _reciprocal(nearest, k1, chunk)
    encoded = _encoded(rows, members, farthest, chunk)
    if k2 > 1:
        encoded = (_incidence(nearest[:, :k2]) @ encoded / k2).tocsr()
    columns = encoded[:size].tocsc()
    apart = np.maximum(2 - 2 * plain.astype(float), 0) / farthest[size:, None]
    out = np.empty(plain.shape)
    for number in range(len(queries)):
        own = encoded[[size + number]]
        shared = columns[:, own.indices]
        smaller = np.minimum(shared.data, np.repeat(own.data, np.diff(shared.indptr)))
        common = np.bincount(shared.indices, smaller, size)
        out[number] = 1 - (1 - lam) * (1 - common / (2 - common)) - lam * apart[number]
    return out


def superglobal(
    database: Descriptors,
    queries: Descriptors,
    top: int = 400,
    k: int = 9,
    beta: float = 0.15,
    chunk: int = 256,
) -> Scores:
    """SuperGlobal's re-ranking of each query's `top` rows (Shao et al., ICCV 2023): scores (Q, N).

    Each of them is refined by its k nearest among them, x' = (x + sum_j w_j x_j) / (1 + sum_j w_j) with
    w_j = beta max(s_j, 0). The expanded query e is the channel-wise maximum of the k + 1 refined descriptors
    most similar to q (the query is not one of them). The score is (<q, x'> + <e, x'>) / 2; neither x' nor e is
    normalised again, as in the authors' code. All other rows follow below, in the order of plain search. Ours: the
    weights are cut off at 0, for descriptors that may point apart. Memory O(top (k + chunk)), beside the scores.

    Raises `UserError` for broken descriptors or a parameter out of range.
    """
    _within("top", top, 1, len(database), "rows in the database")
    _within("k", k, 0, top - 1, "other rows in the top")
    _within("beta", beta, 0)
    out = similarities(database, queries).astype(float)
    tops = search(database, queries, top)[1]
    for number, (query, best) in enumerate(zip(queries, tops, strict=True)):
        refined = _refined(database[best], k, beta, chunk)
        before = refined @ query
        expanded = refined[np.argsort(-before, kind="stable")[: k + 1]].max(0)
        after = (before + refined @ expanded) / 2
        rest = np.ones(len(database), bool)
        rest[best] = False
        if rest.any():
            out[number, rest] += after.min() - out[number, rest].max() - 1
        out[number, best] = after
    return out


def _within(name: str, value: float, low: float, high: float = np.inf, what: str = "") -> None:
    if low <= value <= high:
        return
    there = f"there are {max(high, 0):g} {what}" if what else ""
    bounds = f"at least {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"
    choice = f"choose {bounds}" if low <= high else "give more rows"
    raise UserError(f"{name} = {value}: {'; '.join(filter(None, [there, choice]))}")


def _neighbours(rows: Descriptors, k: int, chunk: int) -> tuple[NDArray[np.float32], Rows]:
    """The k nearest other rows of every row, nearest first: similarities (N, k) and row numbers (N, k)."""
    check_descriptors(
        rows, "database"
    )  # before a part of it asks: what is wrong is a row of the database
    scores, numbers = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
    for start in range(0, len(rows), chunk):
        block = rows[start : start + chunk]
        near, names = search(rows, block, k + 1)
        own = names == np.arange(start, start + len(block))[:, None]
        own[:, -1] |= ~own.any(
            1
        )  # so many copies of a row that it is not even among its own nearest
        scores[start : start + chunk] = near[~own].reshape(len(block), k)
        numbers[start : start + chunk] = names[~own].reshape(len(block), k)
    return scores, numbers


def _expanded(
    database: Descriptors, rows: Descriptors, scores: NDArray[np.float32], near: Rows, alpha: float
) -> Descriptors:
    sums = rows + np.einsum(
        "nk,nkd->nd", np.maximum(scores, 0) ** np.float32(alpha), database[near]
    )
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), rows)


def _refined(rows: Descriptors, k: int, beta: float, chunk: int) -> Descriptors:
    scores, near = _neighbours(rows, k, chunk)
    weights = np.float32(beta) * np.maximum(scores, 0)
    return (rows + np.einsum("nk,nkd->nd", weights, rows[near])) / (
        1 + weights.sum(1, keepdims=True)
    )


def _incidence(lists: Rows, values: Any = None) -> Sparse:
    """(N, N), row i holding `values` (by default ones) at the columns lists[i]."""
    count, k = lists.shape
    data = np.ones(lists.size) if values is None else values.ravel()
    return sparse.csr_array((data, lists.ravel(), np.arange(0, lists.size + 1, k)), (count, count))


def _affinity(scores: NDArray[np.float32], rows: Rows, gamma: float) -> Sparse:
    weights = np.maximum(scores, 0, dtype=float) ** gamma * (scores > 0)
    directed = _incidence(rows, weights)
    mutual = directed.minimum(
        directed.T
    ).tocsr()  # 0 but where both name each other, and exactly symmetric
    mutual.eliminate_zeros()
    return mutual


def _solved(flow: Sparse, y: Scores) -> Scores:
    """F (N, Q) with (I - flow) F = y, each column by conjugate gradients; flow is symmetric, its norm below 1."""
    solution, residual = np.zeros_like(y), y.copy()
    direction, size = residual.copy(), (residual**2).sum(0)
    goal = TOLERANCE**2 * size
    for _ in range(10 * len(y) + 100):  # N steps would do without rounding, and far fewer do
        if (size <= goal).all():
            break
        image = direction - flow @ direction
        going = size > goal  # a column that has arrived stays
        step = np.divide(size, (direction * image).sum(0), out=np.zeros_like(size), where=going)
        solution += step * direction
        residual -= step * image
        after = np.where(going, (residual**2).sum(0), size)
        direction = (
            residual + np.divide(after, size, out=np.zeros_like(size), where=going) * direction
        )
        size = after
    return solution


def _farthest(rows: Descriptors, chunk: int) -> Scores:
    """The largest squared distance (N,) from each row to any."""
    least = [(rows[start : start + chunk] @ rows.T).min(1) for start in range(0, len(rows), chunk)]
    return np.maximum(
        2 - 2 * np.concatenate(least).astype(float), 1e-12
    )  # not 0 where all rows are equal


def _reciprocal(nearest: Rows, k1: int, chunk: int) -> Sparse:
    """R*(i) of every row, as the ones of a sparse (N, N). nearest: (N, k1 + 1), oneself first."""
    whole, half = (_incidence(nearest[:, : k + 1]) for k in (k1, round(k1 / 2)))
    whole, half = whole.multiply(whole.T).tocsr(), half.multiply(half.T).tocsr()
    sizes, parts = half.sum(1), []
    for start in range(0, len(nearest), chunk):
        members = whole[start : start + chunk]
        inside = (
            (members @ half).multiply(members).tocsr()
        )  # how much of R(j, k1/2) lies in R(i, k1)
        inside.data = (3 * inside.data > 2 * sizes[inside.indices]).astype(float)
        grown = (members + inside @ half).tocsr()
        grown.eliminate_zeros()
        parts.append(grown)
    return sparse.vstack(parts, format="csr")


def _encoded(rows: Descriptors, members: Sparse, farthest: Scores, chunk: int) -> Sparse:
    """V before the averaging: exp(-d_ij) at the members of R*(i), each row summing to 1."""
    out = members.copy()
    for start in range(0, len(rows), chunk):
        ends = members.indptr[start : start + chunk + 1]
        some = slice(ends[0], ends[-1])
        of = np.repeat(np.arange(start, start + len(ends) - 1), np.diff(ends))
        alike = np.einsum("nd,nd->n", rows[of], rows[members.indices[some]]).astype(float)
        out.data[some] = np.exp(-np.maximum(2 - 2 * alike, 0) / farthest[of])
    return (sparse.diags_array(1 / out.sum(1)) @ out).tocsr()
