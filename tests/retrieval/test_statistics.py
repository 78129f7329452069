import numpy as np
import pytest
from scipy import stats

from dagf.retrieval.statistics import Interval, paired_bootstrap, t_interval


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_t_interval_is_scipys(confidence: float) -> None:
    values = np.random.default_rng(0).normal(40, 3, 5)
    found = t_interval(values, confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high))


def test_the_t_interval_by_hand() -> None:
    """Mean 2, standard deviation 1, t(0.975; 2) = 4.303."""
    found = t_interval([1, 2, 3])
    assert (found.mean, found.high - found.mean) == pytest.approx((2, 4.3027 / 3**0.5), rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_one_seed_has_no_interval() -> None:
    found = t_interval([41.5])
    assert found.mean == 41.5
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_an_interval_prints_short() -> None:
    assert str(Interval(41.26, 39.0, 43.449)) == "41.3 [39.0, 43.4]"


def slow_bootstrap(differences: np.ndarray, clusters: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """Draw cluster names with replacement, pool the members of all drawn, take the mean; then percentiles."""
    names = sorted(set(clusters.tolist()))
    means = []
    for drawn in np.random.default_rng(seed).integers(0, len(names), (draws, len(names))):
        pooled: list[float] = []
        for index in drawn:
            pooled += differences[clusters == names[index]].tolist()
        means.append(sum(pooled) / len(pooled))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("clusters", [np.arange(12), np.array([7, 7, 7, 3, 3, 9, 9, 9, 9, 0, 1, 1])])
def test_clusters_are_drawn_whole(clusters: np.ndarray) -> None:
    differences = np.random.default_rng(1).normal(0.5, 1, 12)
    found = paired_bootstrap(differences, clusters, draws=300, seed=5)
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx(slow_bootstrap(differences, clusters, 300, 5))


def test_equal_differences_have_no_width() -> None:
    assert paired_bootstrap([2.5] * 6, [0, 0, 1, 2, 2, 2]) == Interval(2.5, 2.5, 2.5)


def test_the_sign_turns_with_the_order_of_the_arms() -> None:
    differences = np.random.default_rng(2).normal(0, 1, 30)
    one, other = (paired_bootstrap(sign * differences, np.arange(30), seed=3) for sign in (1, -1))
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))


def test_copies_in_a_cluster_are_no_new_evidence() -> None:
    values = np.random.default_rng(4).normal(0, 1, 20)
    single = paired_bootstrap(values, np.arange(20))
    copied = paired_bootstrap(np.repeat(values, 5), np.repeat(np.arange(20), 5))
    naive = paired_bootstrap(np.repeat(values, 5), np.arange(100))
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))
    assert naive.high - naive.low < 0.6 * (single.high - single.low)


def test_a_seed_gives_one_answer() -> None:
    differences, clusters = np.random.default_rng(6).normal(0, 1, 30), np.arange(30) // 3
    assert paired_bootstrap(differences, clusters, seed=1) == paired_bootstrap(differences, clusters, seed=1)
    assert paired_bootstrap(differences, clusters, seed=1) != paired_bootstrap(differences, clusters, seed=2)


def test_more_confidence_is_wider() -> None:
    differences = np.random.default_rng(7).normal(0, 1, 40)
    narrow, wide = (paired_bootstrap(differences, np.arange(40), confidence=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < differences.mean() < narrow.high < wide.high


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    """200 experiments of 40 queries with a true difference of 1: 95 % intervals, a little short as bootstraps are."""
    chance = np.random.default_rng(8)
    found = [paired_bootstrap(chance.normal(1, 2, 40), np.arange(40), draws=500) for _ in range(200)]
    covered = np.mean([interval.low <= 1 <= interval.high for interval in found])
    assert 0.88 <= covered <= 0.98


def test_one_cluster_has_no_interval() -> None:
    found = paired_bootstrap([1.0, 2.0, 3.0], [7, 7, 7])
    assert found.mean == pytest.approx(2)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
