"""How sure a difference is: t over training seeds, bootstrap and sign flips over clusters of queries, Holm."""

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


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean over seeds and its Student interval; without width from a single value, NaN ends say so."""
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return Interval(mean, mean - half, mean + half)


def t_test(values: ArrayLike) -> float:
    """The two-sided p-value of Student's test that the mean over seeds is 0; NaN from a single value.

    Values without any spread are told apart from 0 with certainty (p = 0), unless they are 0 (p = 1).
    """
    sample = np.asarray(values, float)
    if len(sample) < 2:
        return float("nan")
    if np.ptp(sample) == 0:  # their computed deviation need not be 0
        return float(sample[0] == 0)
    t = sample.mean() / (sample.std(ddof=1) / np.sqrt(len(sample)))
    return float(2 * stats.t.sf(abs(t), len(sample) - 1))


def paired_bootstrap(
    differences: ArrayLike, clusters: ArrayLike, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """The mean of paired differences, with the percentile interval of a bootstrap that draws whole clusters.

    differences: (Q,), A minus B on the same queries. clusters: (Q,), queries that share a positive are not
    independent and are drawn together. A single cluster says nothing about others: NaN ends. Nothing at all: NaN.
    """
    values, labels = np.asarray(differences, float), np.asarray(clusters)
    _, member = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    if len(sums) < 2:
        return Interval(float(values.mean()) if len(values) else float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def sign_flip(differences: ArrayLike, clusters: ArrayLike, draws: int = 10_000, seed: int = 0) -> float:
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


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values (k,) of a family of k tests, in the order given (Holm, Scand. J. Statist. 1979).

    The i-th smallest (from 1) is multiplied by k - i + 1, made at least the one before, and at most 1. NaN, a
    test that could not be made, stays NaN and does not count in the family.
    """
    raw = np.asarray(p_values, float)
    order = np.argsort(raw)[: np.count_nonzero(~np.isnan(raw))]  # NaN is sorted to the end
    adjusted = np.full(len(raw), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(order), 0, -1) * raw[order]), 1)
    return adjusted
