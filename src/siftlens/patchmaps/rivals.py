"""Rival maps: what keypoints have to say more than."""

import numpy as np
from jaxtyping import Float, UInt8

from siftlens.core import PatchGrid
from siftlens.keypoints import fast_corners, luma, orb_corners

RIVALS = ("gradient", "centre", "fast", "orb")
_CENTRE_SIGMA = 0.25  # of the image's sides


def rival_maps(pixels: UInt8[np.ndarray, "height width 3"], grid: PatchGrid) -> Float[np.ndarray, "4 rows cols"]:
    """The rival maps of one image, in the order of `RIVALS`.

    gradient: mean squared gradient of the luma (central differences), per px^2; centre: a Gaussian of a quarter of the
    image's sides; fast and orb: logarithm of 1 + the number of such corners.

    Args:
        pixels: what the model sees.
        grid: the patches.
    """
    brightness = luma(pixels)
    return np.stack(
        [
            _gradient(brightness, grid),
            _centre(grid),
            np.log1p(_count(fast_corners(brightness), grid)),
            np.log1p(_count(orb_corners(brightness), grid)),
        ]
    ).astype(np.float32)


def _gradient(brightness: UInt8[np.ndarray, "height width"], grid: PatchGrid) -> Float[np.ndarray, "rows cols"]:
    down, right = np.gradient(brightness[: grid.height, : grid.width].astype(np.float32))
    energy = (down**2 + right**2).reshape(grid.rows, grid.patch_height, grid.cols, grid.patch_width)
    return np.asarray(energy.mean(axis=(1, 3)))


def _centre(grid: PatchGrid) -> Float[np.ndarray, "rows cols"]:
    offset = (grid.centres() / (grid.width, grid.height) - 0.5) / _CENTRE_SIGMA
    return np.asarray(np.exp(-0.5 * (offset**2).sum(axis=1))).reshape(grid.rows, grid.cols)


def _count(points: Float[np.ndarray, "point 2"], grid: PatchGrid) -> Float[np.ndarray, "rows cols"]:
    patch = grid.locate(points[:, 0], points[:, 1])
    return np.bincount(patch[patch >= 0], minlength=grid.patches).reshape(grid.rows, grid.cols).astype(np.float64)
