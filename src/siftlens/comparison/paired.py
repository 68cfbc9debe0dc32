"""Means over images with intervals, for paired differences and for what they are differences of."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from siftlens.interrelation.inference import CONFIDENCE

# Standard errors are no less than this: float32 attention is not more exact.
_ROUNDING = 1e-6

ByDepth = Float64[np.ndarray, " depth"]


@dataclass(frozen=True)
class Estimate:
    """Means over images, one for each depth.

    Attributes:
        mean: over the images that have a value.
        se: its standard error; NaN with fewer than two images.
        low: lower end of the 95 % interval.
        high: upper end.
        p: of a mean of 0.
        n: images that have a value.
    """

    mean: ByDepth
    se: ByDepth
    low: ByDepth
    high: ByDepth
    p: ByDepth
    n: Int64[np.ndarray, " depth"]


def spread(values: Float64[np.ndarray, "image depth"]) -> ByDepth:
    """Variance over images that have a value; NaN for fewer than two."""
    known, n, mean = _moments(values)
    squares = np.where(known, values - mean, 0) ** 2
    return np.where(n > 1, squares.sum(axis=0) / np.maximum(n - 1, 1), np.nan)


def estimate(
    values: Float64[np.ndarray, "image depth"], *, pool: int | None, null_spread: ByDepth | None = None
) -> Estimate:
    """Mean over images, with Student's t.

    Effects are measured against one pool of null maps. What is odd about these maps is the same for every image and
    does not average out over images, so the maps count as a second sample, of their own size:
    se^2 = spread / images + null_spread / pool. The spread over the null maps of what the maps contribute is at most
    the spread over images, which stands in for it. This is exact for attention that sees no content, given maps of
    other images than those compared, and too wide where they are of the same images. (An interval over the images
    alone finds differences between any two models once there are many more images than maps.)

    Args:
        values: of each image and depth, NaN where there is none.
        pool: null maps behind `values`; None where they have no null.
        null_spread: variance over null maps; by default that over images.
    """
    _, n, mean = _moments(values)
    variance = spread(values)
    squared = variance / np.maximum(n, 1)
    if pool is not None:
        squared = squared + (variance if null_spread is None else null_spread) / pool
    se = np.maximum(np.sqrt(squared), _ROUNDING)
    freedom = np.maximum((n if pool is None else np.minimum(n, pool)) - 1, 1)
    half = se * stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    p = 2 * stats.t.sf(np.abs(mean) / se, freedom)
    return Estimate(mean, se, mean - half, mean + half, p, n)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is known, how often, and its mean (NaN for none)."""
    known = np.isfinite(values)
    n = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return known, n, np.where(n > 0, total / np.maximum(n, 1), np.nan)
