"""Poisson bootstrap weights that an image carries with it wherever it is seen."""

from collections.abc import Sequence
from math import exp, factorial

import numpy as np
from jaxtyping import Float

from siftlens.interrelation.randomness import stream

REPLICATES = 400
# Poisson(1) by inversion of 53-bit uniforms: numpy promises to keep that stream, but not `Generator.poisson`.
_CUMULATIVE = np.cumsum([exp(-1) / factorial(count) for count in range(19)])


def image_weights(
    contents: Sequence[str], seed: int, replicates: int = REPLICATES
) -> Float[np.ndarray, "replicate image"]:
    """How often each image is drawn in each bootstrap replicate: 1 in replicate 0 (the data), then Poisson(1).

    A weight depends on the image's content, the seed and the replicate alone. An image and its keypoint map are one
    unit: as a map of the reference pool an image has the very same weights.

    Args:
        contents: content hashes.
        seed: the analysis' seed.
        replicates: number of bootstrap replicates, R.

    Returns:
        (1 + R, image) float64.
    """
    weights = np.ones((1 + replicates, len(contents)))
    for image, content in enumerate(contents):
        uniform = stream(seed, "bootstrap", content).random(replicates)
        weights[1:, image] = np.searchsorted(_CUMULATIVE, uniform, side="right")
    return weights
