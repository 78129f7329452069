"""How sure a difference is: over training seeds, over clusters of queries, over both at once; and Holm."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

TIES = 1e-12  # of the sum of the absolute differences: sums of as many terms differ by less in rounding alone


class Interval(NamedTuple):
    """A mean and the ends of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"

    @property
    def ends(self) -> str:
        """Its ends with their signs, as befits a difference."""
        return f"[{self.low:+.2f}, {self.high:+.2f}]"

    @property
    def signed(self) -> str:
        """Its mean and its ends with their signs."""
        return f"{self.mean:+.2f} {self.ends}"


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of values (seeds,) and its Student interval, in their unit; of a single value the ends are NaN."""
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(
        stats.t.ppf((1 + confidence) / 2, len(sample) - 1)
        * sample.std(ddof=1)
        / np.sqrt(len(sample))
    )
    return Interval(mean, mean - half, mean + half)


def paired_bootstrap(
    differences: ArrayLike,
    clusters: ArrayLike,
    draws: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The mean of paired differences, with the percentile interval of a bootstrap that draws whole clusters.

    differences: (Q,), A minus B on the same queries. clusters: (Q,), queries that share a positive are not
    independent and are drawn together. A single cluster says nothing about others: NaN ends. Nothing at all: NaN.
    """
    values, labels = np.asarray(differences, float), np.asarray(clusters)
    _, member = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    if len(sums) < 2:
        return Interval(
            float(values.mean()) if len(values) else float("nan"), float("nan"), float("nan")
        )
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def sign_flip(
    differences: ArrayLike, clusters: ArrayLike, draws: int = 10_000, seed: int = 0
) -> float:
    """The two-sided p-value of the paired randomisation test (Fisher's) that the mean difference is 0.

    If A and B do not differ, the sign of a cluster's differences is chance: p is the share of sign patterns
    whose mean is at least as far from 0 as the one observed. differences and clusters: (Q,), as in
    `paired_bootstrap`; the signs of a cluster turn together. Every pattern is counted where there are at most
    `draws`, else as many are drawn and p = (b + 1) / (draws + 1), which is never 0 (Phipson and Smyth, 2010).
    NaN from a single cluster, or where a difference is NaN.
    """
    values, labels = np.asarray(differences, float), np.asarray(clusters)
    _, member = np.unique(labels, return_inverse=True)
    sums = np.bincount(member, values)
    if len(sums) < 2 or np.isnan(sums).any():
        return float("nan")
    exact = 2 ** len(sums) <= draws
    if exact:
        flipped = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
    else:
        flipped = np.random.default_rng(seed).integers(0, 2, (draws, len(sums)))
    # The sum stands for the mean: both have the same order, for the number of queries stays.
    extreme = np.abs((1 - 2 * flipped) @ sums) >= np.abs(sums.sum()) - TIES * np.abs(values).sum()
    return float(extreme.mean() if exact else (extreme.sum() + 1) / (draws + 1))


def two_way(
    differences: ArrayLike, clusters: ArrayLike, confidence: float = 0.95
) -> tuple[Interval, float]:
    """The mean of paired differences with an interval, and its two-sided p-value, over seeds *and* clusters at once.

    differences: (Q, S), A minus B by query and seed. clusters: (Q,), as in `paired_bootstrap`. Seeds and clusters are
    both a sample, and each has an effect of its own on the difference; the variance of the mean is

        v = v_seeds + v_clusters - v_rest

    with v_seeds and v_clusters the squared standard errors of the two sets of means, each of which holds the rest
    (seed by cluster) once (two-way clustering: Cameron, Gelbach and Miller, JBES 2011; the crossed random effects of
    Clark, JVLVB 1973), and never less than the larger of the two. Student's t with Satterthwaite's degrees of freedom,
    or those of the larger.
    One seed, or one cluster, says nothing about others: NaN.
    """
    table, labels = np.asarray(differences, float), np.asarray(clusters)
    mean = float(table.mean()) if table.size else float("nan")
    _, member = np.unique(labels, return_inverse=True)
    count, seeds = int(member.max(initial=-1)) + 1, table.shape[1]
    if min(count, seeds) < 2:
        return Interval(mean, float("nan"), float("nan")), float("nan")
    # A cluster counts by its size: the mean is a ratio of sums over clusters, linearised here.
    cells = (
        np.stack([np.bincount(member, column - mean, count) for column in table.T], axis=1)
        * count
        / len(table)
    )
    by_cluster, by_seed = cells.mean(1), cells.mean(0)
    rest = cells - by_cluster[:, None] - by_seed
    degrees = np.array([seeds - 1, count - 1, (seeds - 1) * (count - 1)])
    parts = np.array([by_seed.var(ddof=1) / seeds, by_cluster.var(ddof=1) / count, 0.0])
    parts[2] = (rest**2).sum() / degrees[2] / (seeds * count)
    variance, larger = parts[0] + parts[1] - parts[2], int(parts[:2].argmax())
    freedom = (
        variance**2 / (parts**2 / degrees).sum() if variance > parts[larger] else degrees[larger]
    )
    variance = max(variance, parts[larger])
    if variance <= (TIES * np.abs(table).max()) ** 2:  # rounding alone
        return Interval(mean, mean, mean), float(mean == 0)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half), float(
        2 * stats.t.sf(abs(mean) / np.sqrt(variance), freedom)
    )


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values (k,) of a family of k tests, in the order given (Holm, Scand. J. Statist. 1979).

    The i-th smallest (from 1) is multiplied by k - i + 1, made at least the one before, and at most 1. NaN, a
    test that could not be made, stays NaN and does not count in the family.
    """
    raw = np.asarray(p_values, float)
    order = np.argsort(raw)[: np.count_nonzero(~np.isnan(raw))]  # NaN is sorted to the end
    adjusted = np.full(len(raw), np.nan)
    adjusted[order] = np.minimum(
        np.maximum.accumulate(np.arange(len(order), 0, -1) * raw[order]), 1
    )
    return adjusted


def exponent(sizes: ArrayLike, values: ArrayLike) -> float:
    """The p of the power law values = c sizes^p that fits best (least squares of the logarithms).

    sizes, values: (n,) each, all above 0, at least two of the sizes different: other numbers have no such law.
    """
    return float(
        np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float)), 1)[0]
    )
