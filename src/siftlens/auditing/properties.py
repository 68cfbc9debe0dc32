"""Properties of a whole image, which no patch carries."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from siftlens.keypoints import luma

CHANGEABLE = ("brightness", "contrast", "redness", "yellowness", "sharpness")  # in an image that is there
PROPERTIES = (*CHANGEABLE, "size", "aspect")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TILES, _LEAST = 8, 4  # along each side, at most, and px of each, at least
_DARK = 16.0  # of 255, below which a pixel is black
_LIT = 0.25  # share of a tile's pixels that are neither black nor white, from which it is compared
_EVERYWHERE = 2.0  # times more or less than in the whole image, up to which a part of it differs just as much
_AS_WELL = 0.8  # of how well a property tells a class, from which another tells it as well
# Where an image is flat, neither contrast nor sharpness can be taken away: of these, the upper half is compared.
_COMPARED = np.array([[name not in ("contrast", "sharpness") or q >= 0.5 for q in QUANTILES] for name in CHANGEABLE])


def properties_of(
    pixels: UInt8[np.ndarray, "height width 3"], original: tuple[int, int]
) -> Float[np.ndarray, " property"]:
    """Brightness, contrast, redness and yellowness of 255; sharpness, size and aspect on a logarithmic scale.

    Args:
        pixels: what the model sees.
        original: width and height of the image before it was resized, px.
    """
    red, green, blue = pixels.astype(np.float64).mean(axis=(0, 1))
    grey = luma(pixels).astype(np.float64)
    # Of neighbours' differences to those two apart: blur takes the fine ones, a calm motif takes both.
    fine = sum(np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1))
    coarse = sum(np.abs(grey[2:] - grey[:-2] if axis == 0 else grey[:, 2:] - grey[:, :-2]).mean() for axis in (0, 1))
    width, height = original
    return np.array(
        [
            (red + green + blue) / 3,
            grey.std(),
            red - green,
            (red + green) / 2 - blue,
            np.log((fine + 1e-3) / (coarse + 1e-3)),
            np.log(width * height),
            np.log(width / height),
        ]
    )


def spread_of(pixels: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "changeable value"]:
    """The properties that can be changed: quantiles over tiles of an eighth of a side, or 4 px, and last of the whole.

    Pixels that are black or white are left out, and tiles of little else, as long as there are others: light does not
    show there, in the bars beside a picture for example.
    """
    grey = luma(pixels).astype(np.float64)
    near = np.pad(grey, 1, mode="edge")
    fine = np.abs(near[1:-1, 2:] - grey) + np.abs(near[2:, 1:-1] - grey)
    coarse = np.abs(near[1:-1, 2:] - near[1:-1, :-2]) + np.abs(near[2:, 1:-1] - near[:-2, 1:-1])
    lit = ((grey >= _DARK) & (grey <= 255 - _DARK)).astype(np.float64)
    if not lit.any():
        lit[:] = 1
    maps = np.dstack([pixels, grey, grey**2, fine, coarse]) * lit[..., None]
    shares = _tile_means(lit[..., None]).ravel()
    kept = shares >= min(_LIT, shares.max())
    tiles = _tile_means(maps).reshape(len(shares), -1)[kept] / shares[kept, None]
    values = _values(*tiles.T)
    whole = _values(*(maps.mean(axis=(0, 1)) / lit.mean()))
    return np.column_stack([np.quantile(values, QUANTILES, axis=1).T, whole])


def _values(
    red: Any, green: Any, blue: Any, grey: Any, square: Any, fine: Any, coarse: Any
) -> Float[np.ndarray, "..."]:
    """The properties from means; what is flat counts as blurred."""
    return np.array(
        [
            (red + green + blue) / 3,
            np.sqrt(np.maximum(square - grey**2, 0)),
            red - green,
            (red + green) / 2 - blue,
            np.log((fine + 1e-3) / (coarse + 0.1)),
        ]
    )


def _tile_means(maps: Float[np.ndarray, "height width map"]) -> Float[np.ndarray, "rows cols map"]:
    """Mean of each map over each tile."""
    sums, area = maps, np.ones((1, 1, 1))
    for axis in (0, 1):
        side = maps.shape[axis]
        count = max(1, min(_TILES, side // _LEAST))
        edges = np.linspace(0, side, count + 1).astype(int)
        sums = np.add.reduceat(sums, edges[:-1], axis=axis)
        area = area * np.expand_dims(np.diff(edges), (1 - axis, 2))
    return np.asarray(sums / area)


def everywhere(
    properties: Float[np.ndarray, "image property"],
    spreads: Float[np.ndarray, "image changeable value"],
    mine: Bool[np.ndarray, " image"],
) -> Bool[np.ndarray, " changeable"]:
    """In which properties the images of a class differ from others as a whole, and not in a part of them.

    A tint leaves no tile out, and the least yellow ones become more yellow, too; a scene leaves the object as it is. So
    all quantiles over tiles must differ about as much as whole images do. And where a property that tells the class
    best, or as well, differs in a part of the images only, what else differs comes with that part.

    Args:
        properties: of each image, of `properties_of`.
        spreads: of each image, of `spread_of`.
        mine: images of the class.
    """
    values = properties[:, : len(CHANGEABLE)]
    apart = np.median(values[mine], axis=0) - np.median(values[~mine], axis=0)
    parts = np.median(spreads[mine], axis=0) - np.median(spreads[~mine], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = parts[:, :-1] / parts[:, -1:]
        told = np.nan_to_num(np.abs(apart) / values.std(axis=0))
    alike = ((ratio >= 1 / _EVERYWHERE) & (ratio <= _EVERYWHERE) | ~_COMPARED).all(axis=1)
    return np.asarray(alike & alike[told >= _AS_WELL * told.max()].all())
