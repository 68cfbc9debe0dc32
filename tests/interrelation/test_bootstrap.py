"""Weights that images carry, and that they give honest p values where images and maps both vary."""

from math import exp, factorial

import numpy as np
import pytest

from oracles.interrelation import crossed_record
from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.inference import finalize


def test_weights_belong_to_the_content():
    weights = image_weights(["a", "b", "a"], seed=0, replicates=23)
    assert weights.shape == (24, 3) and (weights[0] == 1).all()
    assert np.array_equal(weights[:, 0], weights[:, 2]) and not np.array_equal(weights[:, 0], weights[:, 1])
    assert np.array_equal(weights[:, 1:2], image_weights(["b"], seed=0, replicates=23))
    assert np.array_equal(weights[:12], image_weights(["a", "b", "a"], seed=0, replicates=11))
    assert not np.array_equal(weights, image_weights(["a", "b", "a"], seed=1, replicates=23))


def test_weights_are_poisson_of_mean_one():
    weights = image_weights([str(n) for n in range(499)], seed=0, replicates=401)[1:]
    for count in range(6):
        expected = exp(-1) / factorial(count)
        spread = np.sqrt(expected / weights.size)
        assert abs((weights == count).mean() - expected) < 4 * spread
    assert abs(np.corrcoef(weights[:200].ravel(), weights[200:400].ravel())[0, 1]) < 0.01
    assert abs(weights.mean(axis=0) - 1).max() < 5 / np.sqrt(401)


def false_positives(*, images, pool, null_maps, runs, heads=61, bootstrap_maps=True):
    """Share of heads with p < .05 against each null, in a crossed design without any effect."""
    found = []
    for run in range(runs):
        record, contents, pool_contents = crossed_record(images, pool, null_maps, heads, seed=run)
        weights, pool_weights = (image_weights(names, 0, 200) for names in (contents, pool_contents))
        sums = Accumulator.empty(record, pool, 200)
        sums.add(record, weights, pool_weights if bootstrap_maps else np.ones_like(pool_weights))
        heads_table = finalize(sums).heads
        tested = heads_table[heads_table.statistic == "semantic_pull"]
        found.append([(tested.p < 0.05).mean(), (tested.mirror_p < 0.05).mean()])
    return np.mean(found, axis=0)


@pytest.mark.parametrize(
    ("images", "pool", "null_maps"), [(307, 53, 20), (97, 53, 40)], ids=["many images", "pool nearly exhausted"]
)
def test_p_values_are_calibrated_where_images_and_maps_vary(images, pool, null_maps):
    other, mirror = false_positives(images=images, pool=pool, null_maps=null_maps, runs=13)
    assert 0.025 < other < 0.075 and 0.025 < mirror < 0.075


def test_weighting_images_alone_would_find_what_is_not_there():
    other, _ = false_positives(images=307, pool=53, null_maps=20, runs=5, bootstrap_maps=False)
    assert other > 0.25


def test_a_pool_that_is_the_sample_is_not_counted_twice():
    """An image and its map are one unit: what varies between maps alone cancels, and no false alarm is left."""
    rates = []
    for run in range(7):
        record, contents, _ = crossed_record(47, 47, 40, 61, seed=run, pool_is_sample=True)
        weights = image_weights(contents, 0, 200)
        sums = Accumulator.empty(record, 47, 200)
        sums.add(record, weights, weights)
        table = finalize(sums).heads
        rates.append((table[table.statistic == "semantic_pull"].p < 0.05).mean())
    assert np.mean(rates) < 0.07
