"""Semantic concentration: keypoints and a grid make a weight per patch."""

from math import erf, sqrt

import numpy as np
from jaxtyping import Bool, Float, Int

from siftlens.core import InputError, PatchGrid
from siftlens.keypoints import Keypoints

MEASURES = ("count", "response", "footprint")
LEVELS = ("0", "1", "2-3", "4-7", "8+")  # fixed, so that nothing depends on the data set
_LEVEL_STARTS = (1, 2, 4, 8)


def patch_weights(keypoints: Keypoints, grid: PatchGrid, measure: str = "count") -> Float[np.ndarray, "rows cols"]:
    """Semantic concentration of every patch, c.

    Args:
        keypoints: of the image that the grid covers.
        grid: the patches.
        measure: "count", keypoints whose position lies in the patch; "response", the sum of their responses;
            "footprint", each keypoint spreads unit mass over the patches as a Gaussian of sigma = size / 2 (what
            would fall outside the grid is spread over the inside, so that the border loses nothing).

    Raises:
        InputError: another measure.
    """
    if measure not in MEASURES:
        raise InputError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    patch = grid.locate(keypoints.x, keypoints.y)
    inside = patch >= 0
    if measure == "footprint":
        sigma = np.maximum(keypoints.size[inside] / 2, 1e-6)
        over_rows = _spread(keypoints.y[inside], sigma, grid.rows, grid.patch_height)
        over_cols = _spread(keypoints.x[inside], sigma, grid.cols, grid.patch_width)
        return np.asarray(over_rows.T @ over_cols, np.float32)
    weights = keypoints.response[inside] if measure == "response" else None
    summed = np.bincount(patch[inside], weights, minlength=grid.patches)
    return np.asarray(summed, np.float32).reshape(grid.rows, grid.cols)


def levels(count: Float[np.ndarray, "*grid"]) -> Int[np.ndarray, "*grid"]:
    """Level 0 to 4 of every patch by its number of keypoints: 0, 1, 2-3, 4-7, 8 or more."""
    return np.asarray(np.digitize(count, _LEVEL_STARTS))


def standardize(weights: Float[np.ndarray, "*grid"], counts: bool) -> Float[np.ndarray, "*grid"]:
    """z: weights, log(1 + weights) for counts, with mean 0 and variance 1 within the image; 0 where constant."""
    values = weights.astype(np.float64)
    if counts:
        values = np.log1p(values)
    if values.min() == values.max():
        return np.zeros(values.shape, np.float32)
    return np.asarray((values - values.mean()) / values.std(), np.float32)


def auroc(weights: Float[np.ndarray, "*grid"], mask: Bool[np.ndarray, "*grid"]) -> float:
    """Chance that a patch of the mask has more weight than one outside it, ties counting half; NaN without both.

    Source: the Mann-Whitney U statistic.
    """
    inside = int(mask.sum())
    outside = mask.size - inside
    if not inside or not outside:
        return float("nan")
    _, place, repeats = np.unique(weights, return_inverse=True, return_counts=True)
    rank = (np.cumsum(repeats) - (repeats - 1) / 2)[place].reshape(mask.shape)  # ties share their mean rank
    return float((rank[mask].sum() - inside * (inside + 1) / 2) / (inside * outside))


def _spread(
    centre: Float[np.ndarray, " point"], sigma: Float[np.ndarray, " point"], patches: int, extent: int
) -> Float[np.ndarray, "point patches"]:
    """Share of each Gaussian's mass in each row or column of patches; shares of one point sum to 1."""
    borders = np.arange(patches + 1) * extent
    scaled = (borders - centre[:, None].astype(np.float64)) / (sigma[:, None] * sqrt(2))
    below = np.array([erf(value) for value in scaled.flat]).reshape(scaled.shape) / 2
    mass = np.diff(below, axis=1)
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))
