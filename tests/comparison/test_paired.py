"""Means and intervals against textbook loops, and how often they err."""

import math

import numpy as np
import pytest
from scipy import stats

from siftlens.comparison.paired import estimate, spread


def looped(values, pool, null_spread=None):
    """(mean, se, low, high, p, n) of one list of values, in plain arithmetic."""
    known = [float(value) for value in values if not math.isnan(value)]
    n = len(known)
    mean = math.fsum(known) / n
    variance = math.fsum((value - mean) ** 2 for value in known) / (n - 1)
    squared = variance / n
    freedom = n - 1
    if pool is not None:
        squared += (variance if null_spread is None else null_spread) / pool
        freedom = min(n, pool) - 1
    se = math.sqrt(squared)
    half = se * stats.t.ppf(0.975, freedom)
    return mean, se, mean - half, mean + half, 2 * stats.t.sf(abs(mean) / se, freedom), n


@pytest.fixture
def values():
    values = np.random.default_rng(3).normal(0.2, 0.5, (17, 5))
    values[[2, 11], 1] = np.nan
    return values


@pytest.mark.parametrize("pool", [None, 11, 23])
@pytest.mark.parametrize("apart", [False, True])
def test_estimates_are_the_textbooks(values, pool, apart):
    null_spread = np.linspace(0.1, 0.9, 5) if apart else None
    found = estimate(values, pool=pool, null_spread=null_spread)
    for depth in range(5):
        expected = looped(values[:, depth], pool, null_spread[depth] if apart else None)
        own = (found.mean, found.se, found.low, found.high, found.p, found.n)
        np.testing.assert_allclose([part[depth] for part in own], expected, rtol=1e-12)


def test_without_a_null_it_is_the_paired_t_test(values):
    other = np.random.default_rng(4).normal(size=values.shape)
    known = np.isfinite(values[:, 1])
    expected = stats.ttest_rel(values[known, 1], other[known, 1]).pvalue
    assert estimate(values - other, pool=None).p[1] == pytest.approx(expected, rel=1e-12)


def test_nothing_is_known_of_fewer_than_two_images(values):
    values[1:, 3] = np.nan
    values[:, 4] = np.nan
    found = estimate(values, pool=7)
    assert found.n.tolist() == [17, 15, 17, 1, 0]
    assert found.mean[3] == values[0, 3]
    for part in (found.se, found.low, found.high, found.p, spread(values)):
        np.testing.assert_array_equal(np.isnan(part), [False, False, False, True, True])
    assert np.isnan(found.mean[4])


def test_no_difference_at_all_is_none():
    found = estimate(np.zeros((13, 2)), pool=13)
    np.testing.assert_array_equal(found.p, 1)
    np.testing.assert_allclose(found.high, 0, atol=1e-5)


def test_null_maps_count_as_a_sample():
    """Models that see no content differ by what 64 maps are like. An interval over images takes that for a find."""
    rng = np.random.default_rng(11)
    studies, images, pool = 300, 1024, 64
    maps = rng.normal(size=(images, studies))  # what the difference of both models makes of each image's own map
    effects = maps - maps[:pool].mean(axis=0) + 0.3 * rng.normal(size=maps.shape)
    assert np.mean(estimate(effects, pool=pool).p < 0.05) < 0.08
    assert np.mean(estimate(effects, pool=None).p < 0.05) > 0.4
