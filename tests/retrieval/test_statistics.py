"""Intervals and tests against scipy, by hand, by slow counting, and in simulated studies."""

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from dagf.retrieval import statistics
from dagf.retrieval.statistics import Interval, holm, share, sign_flip, t_interval, two_way


def test_the_t_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(40, 3, 5)
    ends = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values) == pytest.approx((values.mean(), *ends, stats.sem(values)))


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    """In a simulation with a standard error that is known."""
    error = 2.0
    interval = Interval(0.0, -1.959964 * error, 1.959964 * error)
    found = np.random.default_rng(0).normal(interval.smallest, error, 100_000) > interval.high
    assert found.mean() == pytest.approx(0.8, abs=0.005)


def slow_bootstrap(differences: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Draw clusters with replacement, pool their members, take the mean; then percentiles."""
    names = sorted(set(clusters.tolist()))
    means = []
    for drawn in np.random.default_rng(5).integers(0, len(names), (4000, len(names))):
        pooled: list[float] = []
        for index in drawn:
            pooled += differences[clusters == names[index]].tolist()
        means.append(sum(pooled) / len(pooled))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(
    "clusters", [np.arange(12), np.array([7, 7, 7, 3, 3, 9, 9, 9, 9, 0, 1, 1])]
)
def test_clusters_are_drawn_whole(clusters: np.ndarray) -> None:
    differences = np.random.default_rng(1).normal(0.5, 1, 12)
    found = statistics.paired_bootstrap(differences, clusters)
    assert found.mean == pytest.approx(differences.mean())
    expected = slow_bootstrap(differences, clusters)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.05)  # of 4,000 draws
    assert statistics.paired_bootstrap(differences, clusters) == found


def test_equal_differences_have_no_width_and_too_little_says_nothing() -> None:
    assert statistics.paired_bootstrap([2.5] * 6, [0, 0, 1, 2, 2, 2]) == Interval(2.5, 2.5, 2.5)
    assert np.isnan(statistics.paired_bootstrap([], [])).all()
    for alone in (statistics.paired_bootstrap([1.0, 2.0, 3.0], [7, 7, 7]), t_interval([2.0])):
        assert alone.mean == 2 and np.isnan(alone[1:]).all()
    assert np.isnan(sign_flip([], []))
    assert np.isnan(sign_flip([1.0, np.nan, 2.0], [0, 1, 2]))
    assert np.isnan(sign_flip([1.0, 2.0], [3, 3]))


def test_two_way_by_hand() -> None:
    """Clusters of one size: the textbook's two-way analysis of variance without replication."""
    table = np.array([[1.0, 2.0, 4.0], [3.0, 5.0, 4.0]])  # two clusters, three seeds
    interval, p = two_way(table, [4, 9])
    mean = 19 / 6
    of_clusters = (7 / 3 - mean) ** 2 + (4 - mean) ** 2  # / (2 - 1) / 2 clusters
    of_seeds = (2 - mean) ** 2 + (3.5 - mean) ** 2 + (4 - mean) ** 2  # / (3 - 1) / 3 seeds
    rest = ((table - table.mean(0) - table.mean(1, keepdims=True) + mean) ** 2).sum() / 2 / 6
    parts = np.array([of_seeds / 6, of_clusters / 2, rest])
    variance = parts[0] + parts[1] - parts[2]
    assert variance > max(parts[:2])
    freedom = variance**2 / (parts**2 / [2, 1, 2]).sum()
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    assert interval == pytest.approx((mean, mean - half, mean + half, variance**0.5))
    assert p == pytest.approx(2 * stats.t.sf(mean / np.sqrt(variance), freedom))
    assert two_way(-table, [4, 9])[1] == pytest.approx(p)


def test_two_way_is_never_surer_than_one_source_alone() -> None:
    """Where the rest is all there is, the larger source decides."""
    table = np.array([[10.0, 20], [20, 30], [30, 10]])  # seeds agree in the mean, clusters do not
    interval, p = two_way(table, [0, 1, 2])
    assert interval == pytest.approx(t_interval(table.mean(1)))
    assert p == pytest.approx(stats.ttest_1samp(table.mean(1), 0).pvalue)


def test_two_way_draws_clusters_not_queries() -> None:
    """Copies of a query within its cluster, for every cluster alike, change nothing."""
    table = np.random.default_rng(1).normal(0.3, 1, (8, 4))
    once = two_way(table, np.arange(8))
    thrice = two_way(np.repeat(table, 3, axis=0), np.repeat(np.arange(8), 3))
    assert thrice[0] == pytest.approx(once[0])
    assert thrice[1] == pytest.approx(once[1])


def test_two_way_where_nothing_or_nothing_else_can_be_said() -> None:
    tables = [[1.0], [2.0]], [[1.0, 2.0], [2.0, 2.0]], np.empty((0, 3))
    for table, clusters in zip(tables, ([0, 1], [0, 0], []), strict=True):
        interval, p = two_way(table, clusters)
        assert np.isnan([interval.low, interval.high, p]).all()
    assert two_way([[1.0], [2.0]], [0, 1])[0].mean == 1.5
    assert two_way(np.full((3, 3), 0.1), [0, 1, 2]) == (pytest.approx((0.1, 0.1, 0.1, 0.0)), 0)
    assert two_way(np.zeros((3, 3)), [0, 1, 2])[1] == 1


@pytest.mark.parametrize(
    ("seeds", "clusters", "rest"), [(1, 3, 3), (0.3, 1, 2), (1, 0, 0.01), (0, 1, 1), (0, 0, 1)]
)
def test_two_way_keeps_its_level(seeds: float, clusters: float, rest: float) -> None:
    """Where nothing differs, about 5 % of 1,000 simulated studies say that something does."""
    rng = np.random.default_rng(7)
    rejected = 0
    for _ in range(1000):
        table = rest * rng.normal(size=(70, 5)) + seeds * rng.normal(size=5)
        table += clusters * rng.normal(size=(70, 1))
        rejected += two_way(table, np.arange(70))[1] < 0.05
    assert rejected <= 75  # 5 %, and what Satterthwaite's approximation and 1,000 draws are off by


def slow_sign_flip(differences: list[int], clusters: list[int]) -> float:
    """Every way to give each cluster a sign, query by query, in whole numbers."""
    names = sorted(set(clusters))
    means = []
    for signs in product([1, -1], repeat=len(names)):
        sign = dict(zip(names, signs, strict=True))
        pairs = zip(clusters, differences, strict=True)
        means.append(abs(sum(sign[name] * value for name, value in pairs)))
    return sum(mean >= means[0] for mean in means) / len(means)


@example([(1, 0), (2, 0), (-3, 0), (1, 1), (2, 1), (-3, 1)])  # sums that are 0 but for rounding
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 7)), min_size=2, max_size=20))
def test_sign_flips_are_counted_exactly_ties_and_all(pairs: list[tuple[int, int]]) -> None:
    """In tenths, which sum with rounding: 0.1 + 0.2 is not 0.3."""
    differences, clusters = map(list, zip(*pairs, strict=True))
    found = sign_flip(np.array(differences) / 10, clusters)
    if len(set(clusters)) == 1:
        assert np.isnan(found)
    else:
        assert found == slow_sign_flip(differences, clusters)


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.8])
def test_drawn_flips_come_near_exact_counts(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(3)
    differences, clusters = chance.normal(shift, 1, 36), np.arange(36) // 3
    exact = sign_flip(differences, clusters)
    monkeypatch.setattr(statistics, "DRAWS", 4095)
    drawn = sign_flip(differences, clusters)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * (exact / 4095) ** 0.5 + 1 / 4096)


def test_drawn_flips_are_never_impossible_and_the_order_of_the_arms_says_nothing() -> None:
    """30 clusters that agree: the exact p, 2 ** -29, is not met by drawing."""
    assert sign_flip(np.full(60, 0.1), np.arange(60) // 2) == 1 / 10_001
    assert sign_flip(np.zeros(60), np.arange(60) // 2) == 1
    differences, clusters = np.random.default_rng(6).normal(0.2, 1, 30), np.arange(30)
    found = sign_flip(differences, clusters)
    assert sign_flip(-differences, clusters) == sign_flip(7 * differences, clusters) == found


def test_a_share_is_what_a_slow_search_finds() -> None:
    """Gains and room (30 queries x 5 seeds) in 10 clusters, around 1 and 5."""
    rng, clusters = np.random.default_rng(0), np.arange(30) // 3
    queries, seeds = rng.normal(0, 2, (30, 1)), rng.normal(0, 0.5, (1, 5))
    room = 5 + queries + seeds + rng.normal(0, 1, (30, 5))
    gains = 1 + rng.normal(0, 2, (30, 5)) + 0.3 * queries
    found = share(gains, room, clusters)
    assert found.mean == pytest.approx(gains.mean() / room.mean())
    tried = np.arange(-1, 2, 0.001)
    intervals = [two_way(gains - r * room, clusters)[0] for r in tried]
    held = tried[[one.low <= 0 <= one.high for one in intervals]]
    assert (found.low, found.high) == pytest.approx((held[0], held[-1]), abs=0.002)
    for part in (0.0, 1.0):
        assert share(part * room, room, clusters)[:3] == pytest.approx((part,) * 3, abs=1e-9)
    assert np.isnan(share(room, room - 5.0, clusters)).all()  # where there is no room


def test_random_effects_by_hand() -> None:
    """Effects 1 and 5 with variances 1 and 1: Q = 8, one degree of freedom, tau^2 = 7."""
    found, between = statistics.random_effects([1, 5], [1, 1])
    assert between == pytest.approx(7**0.5)
    reach = 12.706205  # Student's, of one degree of freedom
    assert found == pytest.approx((3, 3 - reach * 2, 3 + reach * 2, 2))  # 2 = (8 / 2)^0.5
    # Weights 1 and 1/4: Q = 0.2 * 3^2 = 1.8; tau^2 = 0.8 / (1.25 - 1.0625 / 1.25) = 2.
    found, between = statistics.random_effects([0, 3], [1, 2])
    assert between == pytest.approx(2**0.5)
    assert found.mean == pytest.approx(3 * (1 / 6) / (1 / 3 + 1 / 6))
    assert found.high - found.mean == pytest.approx(reach * 2**0.5)  # both spreads are 1
    found, between = statistics.random_effects([1, 2], [1, 2])  # no scatter: the fixed effects
    assert (between, found.mean) == (0, pytest.approx((1 + 2 / 4) / (1 + 1 / 4)))
    assert found.high - found.mean == pytest.approx(reach / 1.25**0.5)  # not the smaller spread
    # Without errors of their own the sets are a sample like any other.
    found, _ = statistics.random_effects([1, 2, 6], [1e-6] * 3)
    assert found == pytest.approx(t_interval([1, 2, 6]))
    assert np.isnan(statistics.random_effects([1], [1])[0][1:]).all()
    assert np.isnan(statistics.random_effects([], [])[0]).all()


def test_holm_by_hand() -> None:
    """0.005 * 4; 0.01 * 3; 0.03 * 2; 0.04 * 1, which is lifted to the one before."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.03, 0.6, 0.7]), [0.04, np.nan, 0.09, 1, 1])
    assert holm([0.2]).tolist() == [0.2]
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).shape == (0,)
