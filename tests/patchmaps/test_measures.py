from math import erf, sqrt

import numpy as np
import pytest
import torch

import siftlens
import siftlens.patchmaps
from siftlens.core import InputError, PatchGrid
from siftlens.keypoints import Keypoints
from siftlens.patchmaps import LEVELS, MEASURES, auroc, concentration, levels, patch_weights, standardize

GRID = PatchGrid(rows=3, cols=5, patch_height=7, patch_width=11)


def points(x: list[float], y: list[float], size: list[float] | None = None, response: list[float] | None = None):
    count = len(x)
    return Keypoints(
        x=np.array(x, np.float32),
        y=np.array(y, np.float32),
        size=np.array(size or [4.0] * count, np.float32),
        response=np.array(response or [0.05] * count, np.float32),
        angle=np.zeros(count, np.float32),
        octave=np.zeros(count, np.int16),
        descriptors=None,
        height=GRID.height,
        width=GRID.width,
    )


def random_points(count: int) -> Keypoints:
    random = np.random.default_rng(count)
    # Some lie beyond the grid: a model may leave an incomplete patch at the border unseen.
    return points(
        random.uniform(0, 58, count).tolist(),
        random.uniform(0, 23, count).tolist(),
        random.gamma(2, 4, count).tolist(),
        random.uniform(0.01, 0.1, count).tolist(),
    )


def by_loop(keypoints: Keypoints, measure: str) -> list[list[float]]:
    weights = [[0.0] * GRID.cols for _ in range(GRID.rows)]
    for x, y, size, response in zip(
        *(a.tolist() for a in (keypoints.x, keypoints.y, keypoints.size, keypoints.response)), strict=True
    ):
        if x >= GRID.width or y >= GRID.height:
            continue
        masses = {}
        for row in range(GRID.rows):
            for col in range(GRID.cols):
                left, top = col * 11, row * 7
                if measure == "footprint":
                    scale = size / 2 * sqrt(2)
                    across = (erf((left + 11 - x) / scale) - erf((left - x) / scale)) / 2
                    down = (erf((top + 7 - y) / scale) - erf((top - y) / scale)) / 2
                    masses[row, col] = across * down
                elif left <= x < left + 11 and top <= y < top + 7:
                    masses[row, col] = response if measure == "response" else 1.0
        whole = sum(masses.values()) if measure == "footprint" else 1.0
        for (row, col), mass in masses.items():
            weights[row][col] += mass / whole
    return weights


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("count", [0, 1, 97])
def test_measures_agree_with_a_loop(measure: str, count: int):
    keypoints = random_points(count)
    weights = patch_weights(keypoints, GRID, measure)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, by_loop(keypoints, measure), rtol=1e-5, atol=1e-6)
    tensor = concentration(keypoints, GRID, measure)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), weights)


def test_a_point_on_every_border_counts_in_the_right_and_lower_patch():
    x, y = np.meshgrid(np.arange(5) * 11.0, np.arange(3) * 7.0)
    keypoints = points(x.ravel().tolist(), y.ravel().tolist())
    np.testing.assert_array_equal(patch_weights(keypoints, GRID), np.ones((3, 5)))


def test_a_footprint_has_unit_mass_wherever_it_lies():
    corner = points([0.1, 54.9, 27.0], [0.1, 20.9, 10.0], size=[40.0, 1e-9, 5000.0])
    weights = patch_weights(corner, GRID, "footprint")
    assert weights.sum() == pytest.approx(3, rel=1e-6)
    assert weights[2, 4] > 1
    assert np.isfinite(weights).all()


def test_a_grid_of_another_image_size_is_refused():
    keypoints = points([4.0], [4.0])
    with pytest.raises(InputError, match=r"the grid covers \d+x\d+ px, but the model sees \d+x\d+ px"):
        concentration(keypoints, PatchGrid(1, 1, 7, 11))


def test_another_measure_is_refused():
    with pytest.raises(InputError, match="measure must be one of count, response, footprint, got 'sum'"):
        patch_weights(points([1.0], [1.0]), GRID, "sum")


def test_the_public_name():
    assert siftlens.concentration is concentration
    assert siftlens.patchmaps.concentration is concentration
    with pytest.raises(AttributeError, match=r"module 'siftlens.patchmaps' has no attribute 'concentrations'"):
        _ = siftlens.patchmaps.concentrations


def test_levels_are_fixed():
    counts = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 1000]], np.float32)
    found = levels(counts)
    assert found.tolist() == [[0, 1, 2, 2, 3], [3, 3, 3, 4, 4]]
    assert np.issubdtype(found.dtype, np.integer)
    assert LEVELS == ("0", "1", "2-3", "4-7", "8+")


@pytest.mark.parametrize("counts", [False, True])
def test_z_has_mean_0_and_variance_1(counts: bool):
    weights = np.random.default_rng(0).integers(0, 9, (3, 5)).astype(np.float32)
    values = [[np.log(1 + float(w)) if counts else float(w) for w in row] for row in weights]
    mean = sum(map(sum, values)) / 15
    deviation = sqrt(sum((v - mean) ** 2 for row in values for v in row) / 15)
    z = standardize(weights, counts)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, [[(v - mean) / deviation for v in row] for row in values], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0, 1e30])
@pytest.mark.parametrize("counts", [False, True])
def test_z_of_a_constant_is_0(value: float, counts: bool):
    assert (standardize(np.full((3, 5), value, np.float32), counts) == 0).all()


def test_auroc_agrees_with_counting_pairs():
    random = np.random.default_rng(0)
    weights = random.integers(0, 4, (3, 5)).astype(np.float32)
    mask = random.random((3, 5)) < 0.4
    inside, outside = weights[mask].tolist(), weights[~mask].tolist()
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside]
    assert auroc(weights, mask) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(mask.astype(np.float32), mask) == 1
    assert auroc(weights, ~mask) == pytest.approx(1 - auroc(weights, mask))
    assert np.isnan(auroc(weights, np.zeros((3, 5), bool)))
    assert np.isnan(auroc(weights, np.ones((3, 5), bool)))
