"""How sure a difference is: over training seeds, clusters of queries, both; and Holm."""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

CONFIDENCE = 0.95  # of every interval
DRAWS = 10_000  # of a bootstrap, and of sign patterns where there are more
POWER = 0.80  # of finding the smallest difference that a test is said to show
DIGITS = 12  # of sums relative to that of the absolute values: what is left is rounding


class Interval(NamedTuple):
    """A mean, the ends of its interval and its standard error; NaN where there is none.

    All in the unit of the values.
    """

    mean: float
    low: float = float("nan")
    high: float = float("nan")
    error: float = float("nan")

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

    @classmethod
    def read(cls, text: str) -> "Interval":
        """Return the interval that is written so (`signed`)."""
        return cls(*map(float, re.findall(r"[+-](?:[\d.]+|nan)", text)))

    @property
    def smallest(self) -> float:
        """The smallest true difference that it would exclude 0 for, with a probability of `POWER`.

        (z_0.975 + z_0.8) standard errors (Cohen, 1988, by the normal approximation).
        """
        reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        return (self.high - self.low) / 2 * (1 + float(stats.norm.ppf(POWER)) / reach)


def t_interval(values: ArrayLike) -> Interval:
    """Return the mean of values (seeds,) and its Student interval, NaN for a single value."""
    sample = np.asarray(values, float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean)
    return _student(mean, float(stats.sem(sample)), len(sample) - 1)


def _student(mean: float, error: float, freedom: float) -> Interval:
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Interval(mean, mean - half, mean + half, error)


def _cluster_sums(values: NDArray[np.float64], clusters: ArrayLike) -> NDArray[np.float64]:
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(member, values).astype(float)


def paired_bootstrap(differences: ArrayLike, clusters: ArrayLike) -> Interval:
    """Return the mean of paired differences, with the percentile interval over whole clusters.

    differences: (Q,), A minus B on the same queries. clusters: (Q,), queries that share a positive
    are not independent and are drawn together. A single cluster says nothing about others: NaN
    ends.
    """
    values = np.asarray(differences, float)
    sums, sizes = (_cluster_sums(part, clusters) for part in (values, np.ones(len(values))))
    mean = float(values.mean()) if len(values) else float("nan")
    if len(sums) < 2:
        return Interval(mean)
    found = stats.bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=DRAWS,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Interval(mean, *map(float, found.confidence_interval))


def sign_flip(differences: ArrayLike, clusters: ArrayLike) -> float:
    """Return the two-sided p-value of Fisher's paired randomisation test of a mean of 0.

    If A and B do not differ, the sign of a cluster's differences is chance: p is the share of sign
    patterns whose mean is at least as far from 0 as the one observed. differences and clusters:
    (Q,), as in `paired_bootstrap`; the signs of a cluster turn together. Every pattern is counted
    where there are at most `DRAWS`, else as many are drawn and p = (b + 1) / (DRAWS + 1), which is
    never 0 (Phipson and Smyth, 2010). NaN from a single cluster, or where a difference is NaN.
    """
    values = np.asarray(differences, float)
    sums = _cluster_sums(values, clusters)
    if len(sums) < 2 or np.isnan(sums).any():
        return float("nan")
    # The sum stands for the mean: both have the same order, for the number of queries stays.
    found = stats.permutation_test(
        (sums / max(np.abs(values).sum(), np.finfo(float).tiny),),
        lambda sums, axis: np.abs(sums.sum(axis)).round(DIGITS),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=DRAWS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def two_way(differences: ArrayLike, clusters: ArrayLike) -> tuple[Interval, float]:
    """Return the mean of differences, interval and p-value, over seeds *and* clusters.

    differences: (Q, S), A minus B by query and seed. clusters: (Q,), as in `paired_bootstrap`.
    Seeds and clusters are both a sample, and each has an effect of its own on the difference; the
    variance of the mean is

        v = v_seeds + v_clusters - v_rest

    with v_seeds and v_clusters the squared standard errors of the two sets of means, each of which
    holds the rest (seed by cluster) once (two-way clustering: Cameron, Gelbach and Miller, JBES
    2011; the crossed random effects of Clark, JVLVB 1973), and never less than the larger of the
    two. Student's t with Satterthwaite's degrees of freedom, or those of the larger. One seed, or
    one cluster, says nothing about others: NaN.
    """
    table = np.asarray(differences, float)
    mean = float(table.mean()) if table.size else float("nan")
    _, sizes = np.unique(np.asarray(clusters), return_counts=True)
    count, seeds = len(sizes), table.shape[1]
    if min(count, seeds) < 2:
        return Interval(mean), float("nan")
    # A cluster counts by its size: the mean is a ratio of sums over clusters, linearised here.
    sums = [_cluster_sums(column - mean, clusters) for column in table.T]
    cells = np.stack(sums, axis=1) * count / len(table)
    by_cluster, by_seed = cells.mean(1), cells.mean(0)
    rest = cells - by_cluster[:, None] - by_seed
    degrees = np.array([seeds - 1, count - 1, (seeds - 1) * (count - 1)])
    parts = np.array([by_seed.var(ddof=1) / seeds, by_cluster.var(ddof=1) / count, 0.0])
    parts[2] = (rest**2).sum() / degrees[2] / (seeds * count)
    variance, larger = parts[0] + parts[1] - parts[2], int(parts[:2].argmax())
    if variance > parts[larger]:
        freedom = variance**2 / (parts**2 / degrees).sum()
    else:
        variance, freedom = parts[larger], degrees[larger]
    error = float(np.sqrt(variance))
    if error <= 10**-DIGITS * np.abs(table).max():  # rounding alone
        return Interval(mean, mean, mean, 0.0), float(mean == 0)
    return _student(mean, error, freedom), float(2 * stats.t.sf(abs(mean) / error, freedom))


def share(gains: ArrayLike, room: ArrayLike, clusters: ArrayLike) -> Interval:
    """Return the share of the room that was gained, and its interval over seeds and clusters.

    gains, room: (Q, S), what a thing and what its ceiling gained over the same baseline, by query
    and seed. clusters: (Q,), as in `paired_bootstrap`. The interval holds the shares r for which
    `two_way` finds no difference between gains and r times room (Fieller, 1954). NaN ends where the
    room itself is not above 0: of no room every share is possible.
    """
    gained, whole = np.asarray(gains, float), np.asarray(room, float)
    found = two_way(whole, clusters)[0]
    if not found.low > 0:
        return Interval(float("nan"))
    ratio = float(gained.mean() / whole.mean())

    def end(side: str, step: float) -> float:
        """Where the end of the interval of gains - r * room crosses 0, going from `ratio`."""

        def beyond(r: float) -> float:
            return float(getattr(two_way(gained - r * whole, clusters)[0], side))

        far = ratio + step
        while np.sign(beyond(far)) == np.sign(step):
            far += far - ratio
        return float(optimize.brentq(beyond, ratio, far))

    return Interval(ratio, end("low", -1.0), end("high", 1.0))


def random_effects(means: ArrayLike, errors: ArrayLike) -> tuple[Interval, float]:
    """Return the mean effect over sets with its interval, and the sets' own standard deviation.

    means, errors: (k,), a difference on each set and its standard error, above 0. The sets are a
    sample, too: their effects scatter by tau around the mean, which DerSimonian and Laird (1986)
    estimate by moments from Cochran's Q; weights are 1 / (errors^2 + tau^2). The interval is that
    of Hartung and Knapp (2001): Student's, of the weighted spread of the effects, which is not
    taken below that of their errors. NaN ends from a single set.
    """
    effects, variances = np.asarray(means, float), np.asarray(errors, float) ** 2
    if len(effects) < 2:
        return Interval(float(effects.mean()) if len(effects) else float("nan")), float("nan")
    fixed = 1 / variances
    around = (effects - np.average(effects, weights=fixed)) ** 2
    excess = (fixed * around).sum() - (len(effects) - 1)  # Q less what chance alone would give
    between = max(0.0, excess / (fixed.sum() - (fixed**2).sum() / fixed.sum()))
    weights = 1 / (variances + between)
    mean = float(np.average(effects, weights=weights))
    spread = (weights * (effects - mean) ** 2).sum() / (len(effects) - 1)
    error = float(np.sqrt(max(1.0, spread) / weights.sum()))
    return _student(mean, error, len(effects) - 1), float(np.sqrt(between))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return adjusted p-values (k,) of a family of k tests, in the order given (Holm, 1979).

    The i-th smallest (from 1) is multiplied by k - i + 1, made at least the one before, and at most
    1. NaN, a test that could not be made, stays NaN and does not count in the family.
    """
    raw = np.asarray(p_values, float)
    order = np.argsort(raw)[: np.count_nonzero(~np.isnan(raw))]  # NaN is sorted to the end
    adjusted = np.full(len(raw), np.nan)
    multiplied = np.arange(len(order), 0, -1) * raw[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(multiplied), 1)
    return adjusted
