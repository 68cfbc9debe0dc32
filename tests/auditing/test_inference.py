"""p values over many cues at once: exact where they can be, honest where nothing is."""

import numpy as np
import pytest
from scipy import stats

from siftlens.auditing.inference import association_p, effects_p, interval, rank_z, signed_rank_z


def test_rank_z_is_wilcoxons_with_ties():
    values = np.random.default_rng(0).integers(0, 5, (61, 3)).astype(float)
    inside = np.arange(61) % 3 == 0
    for column, z in zip(values.T, rank_z(values, inside), strict=True):
        p = stats.mannwhitneyu(column[inside], column[~inside], use_continuity=False, method="asymptotic").pvalue
        assert 2 * stats.norm.sf(abs(z)) == pytest.approx(p, rel=1e-6)
    assert rank_z(np.ones((61, 1)), inside).tolist() == [0]


def test_signed_rank_z_is_wilcoxons_with_ties_and_zeros():
    values = np.random.default_rng(0).integers(-3, 6, 61).astype(float)
    told = stats.wilcoxon(values, zero_method="pratt", correction=False, method="asymptotic")
    assert signed_rank_z(values) == pytest.approx(abs(told.zstatistic))
    assert signed_rank_z(-values) == -signed_rank_z(values)
    assert signed_rank_z(np.zeros(9)) == signed_rank_z(np.ones(4)) == 0


def test_association_is_found_and_adjusted_over_all_columns():
    random = np.random.default_rng(1)
    labels = np.arange(120) % 3
    values = random.normal(size=(120, 7))
    values[labels == 2, 4] += 1.5
    z, p = association_p(values, labels, np.array([0, 1, 2, 0, 2, 1, 0]), 0)
    assert p[4] < 0.001 and z[4] > 4
    assert (np.delete(p, 4) > 0.05).all()


def test_effects_are_one_sided():
    index, random = np.arange(40), np.random.default_rng(2)
    noise = random.normal(size=40)
    p = effects_p(
        [(index, noise + 1), (index, noise - noise.mean()), (index, noise - 1), (index[:1], noise[:1])], 40, 0
    )
    assert p[0] < 0.001
    assert p[1] > 0.2
    assert p[2] > 0.99 and p[3] == 1
    assert effects_p([], 40, 0).shape == (0,)


def test_nothing_is_found_where_nothing_is():
    """Of 60 families of 10 empty effects, at most the 5 % that may be, and 3 standard errors."""
    random = np.random.default_rng(3)
    found = 0
    for seed in range(60):
        shared = random.normal(size=50)  # images that all effects have in common, as cues do
        effects = [(np.arange(50), shared + random.normal(size=50)) for _ in range(10)]
        found += effects_p(effects, 50, seed).min() < 0.05
    assert found <= 60 * 0.05 + 3 * np.sqrt(60 * 0.05 * 0.95)


def test_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    mean, low, high = interval(values)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, values.mean(), stats.sem(values)))
    assert mean == 3.75
    assert np.isnan(interval(values[:1])).all()
