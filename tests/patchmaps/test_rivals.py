import numpy as np
import pytest

from siftlens.core import PatchGrid
from siftlens.keypoints import fast_corners, luma, orb_corners
from siftlens.patchmaps import RIVALS, rival_maps

GRID = PatchGrid(rows=7, cols=11, patch_height=13, patch_width=11)
PIXELS = np.random.default_rng(0).integers(0, 256, (GRID.height + 5, GRID.width + 3, 3), np.uint8)


def named(pixels: np.ndarray) -> dict[str, np.ndarray]:
    maps = rival_maps(pixels, GRID)
    assert maps.shape == (4, 7, 11)
    assert maps.dtype == np.float32
    return dict(zip(RIVALS, maps, strict=True))


def test_gradient_energy_agrees_with_a_loop():
    grey = luma(PIXELS)[: GRID.height, : GRID.width].astype(float)
    energy = np.zeros((7, 11))
    for y in range(GRID.height):
        for x in range(GRID.width):
            low, high = max(x - 1, 0), min(x + 1, GRID.width - 1)
            right = (grey[y, high] - grey[y, low]) / (high - low)
            low, high = max(y - 1, 0), min(y + 1, GRID.height - 1)
            down = (grey[high, x] - grey[low, x]) / (high - low)
            energy[y // 13, x // 11] += (right**2 + down**2) / (13 * 11)
    np.testing.assert_allclose(named(PIXELS)["gradient"], energy, rtol=1e-4)


def test_the_centre_prior_is_a_gaussian_of_a_quarter():
    centre = named(PIXELS)["centre"]
    for row in range(7):
        for col in range(11):
            dx, dy = (col + 0.5) / 11 - 0.5, (row + 0.5) / 7 - 0.5
            assert centre[row, col] == pytest.approx(np.exp(-(dx**2 + dy**2) / (2 * 0.25**2)), rel=1e-5)
    assert centre.argmax() == 3 * 11 + 5


@pytest.mark.parametrize(("name", "find"), [("fast", fast_corners), ("orb", orb_corners)])
def test_corners_are_counted_per_patch(name: str, find):
    counts = np.zeros((7, 11))
    for x, y in find(luma(PIXELS)).tolist():
        if y < GRID.height and x < GRID.width:
            counts[int(y // 13), int(x // 11)] += 1
    assert counts.sum() > 50
    np.testing.assert_allclose(named(PIXELS)[name], np.log(1 + counts), rtol=1e-6)


def test_a_blank_image_has_only_a_centre():
    maps = named(np.full_like(PIXELS, 90))
    assert maps["centre"].std() > 0
    assert all((maps[name] == 0).all() for name in ("gradient", "fast", "orb"))
