"""How sure a difference is: t-intervals over training seeds, paired bootstrap over clusters of queries."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


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


def paired_bootstrap(
    differences: ArrayLike, clusters: ArrayLike, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """The mean of paired differences, with the percentile interval of a bootstrap that draws whole clusters.

    differences: (Q,), A minus B on the same queries. clusters: (Q,), queries that share a positive are not
    independent and are drawn together. A single cluster says nothing about others: NaN ends.
    """
    values, labels = np.asarray(differences, float), np.asarray(clusters)
    _, member = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    if len(sums) < 2:
        return Interval(float(values.mean()), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))
