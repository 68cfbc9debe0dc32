"""Layers of models of different depth, side by side."""

import numpy as np
from jaxtyping import Float64

_EXACT = 9  # decimals of a position: what rounding left of a whole layer is the layer


def relative_depths(layers: int) -> Float64[np.ndarray, " depth"]:
    """Where the layers of a model lie: 0 the first, 1 the last; a single layer is the last."""
    return np.linspace(0, 1, layers) if layers > 1 else np.ones(1)


def positions(layers: int, depth: Float64[np.ndarray, " depth"]) -> Float64[np.ndarray, " depth"]:
    """The layer at each relative depth, counted from 0; a fraction between two layers."""
    return np.round(depth * (layers - 1), _EXACT)


def at_depths(
    values: Float64[np.ndarray, "image layer"], depth: Float64[np.ndarray, " depth"]
) -> Float64[np.ndarray, "image depth"]:
    """Values at relative depths, linear between layers; a layer itself is taken as it is.

    Args:
        values: of each image and layer.
        depth: in [0, 1].
    """
    position = positions(values.shape[1], depth)
    below = np.floor(position).astype(np.int64)
    above = np.ceil(position).astype(np.int64)
    share = position - below
    return np.asarray((1 - share) * values[:, below] + share * values[:, above])
