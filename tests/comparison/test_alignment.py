"""Layers of models of different depth, against a loop."""

import numpy as np
import pytest

from siftlens.comparison.alignment import at_depths, positions, relative_depths


def looped(values, depth):
    """Linear interpolation, one number at a time."""
    images, layers = values.shape
    found = np.empty((images, len(depth)))
    for image in range(images):
        for place, share in enumerate(depth):
            at = share * (layers - 1)
            below = min(int(at + 1e-9), max(layers - 2, 0))
            rest = at - below
            above = min(below + 1, layers - 1)
            found[image, place] = values[image, below] + rest * (values[image, above] - values[image, below])
    return found


@pytest.mark.parametrize(("layers", "fewest"), [(13, 5), (7, 3), (5, 5), (11, 2), (23, 17)])
def test_values_between_layers_are_linear(layers, fewest):
    values = np.random.default_rng(layers).normal(size=(3, layers))
    depth = relative_depths(fewest)
    np.testing.assert_allclose(at_depths(values, depth), looped(values, depth), rtol=0, atol=1e-12)


def test_first_and_last_layers_meet_each_other():
    values = np.random.default_rng(0).normal(size=(3, 13))
    found = at_depths(values, relative_depths(5))
    np.testing.assert_array_equal(found[:, [0, -1]], values[:, [0, -1]])


@pytest.mark.parametrize("layers", [1, 2, 3, 7, 24, 41])
def test_a_model_on_its_own_depths_is_itself(layers):
    values = np.random.default_rng(0).normal(size=(3, layers))
    values[1, layers // 2] = np.nan
    depth = relative_depths(layers)
    np.testing.assert_array_equal(positions(layers, depth), np.arange(layers))
    np.testing.assert_array_equal(at_depths(values, depth), values)


def test_a_layer_without_a_value_leaves_no_value_around_it():
    values = np.array([[0.0, np.nan, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(at_depths(values, np.array([0, 0.125, 0.5, 0.625])), [[0, np.nan, 2, 2.5]])


def test_a_single_layer_is_compared_with_the_last():
    values = np.array([[1.0, 2.0, 5.0]])
    np.testing.assert_array_equal(at_depths(values, relative_depths(1)), [[5.0]])
    np.testing.assert_array_equal(at_depths(values[:, :1], relative_depths(1)), [[1.0]])
