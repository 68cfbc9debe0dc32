"""Properties of a whole image, which no patch carries."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from siftlens.keypoints import luma

CHANGEABLE = ("brightness", "contrast", "redness", "yellowness", "sharpness")  # in an image that is there
PROPERTIES = (*CHANGEABLE, "size", "aspect")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TILES, _LEAST = 8, 4  # along each side, at most, and px of each, at least
_EVERYWHERE = 2.0  # times more or less than in the whole image, up to which a part of it differs just as much
_AS_WELL = 0.8  # of how well a property tells a class, from which another tells it as well
# Where an image is flat, no blur takes its sharpness away: of that, the sharper half is compared.
_COMPARED = np.array([[name != "sharpness" or quantile >= 0.5 for quantile in QUANTILES] for name in CHANGEABLE])


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


def spread_of(pixels: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "changeable quantile"]:
    """The properties that can be changed, over an image: quantiles over tiles of an eighth of a side."""
    rows, cols = (max(1, min(_TILES, side // _LEAST)) for side in pixels.shape[:2])
    tiles = [tile for row in np.array_split(pixels, rows) for tile in np.array_split(row, cols, axis=1)]
    values = [properties_of(tile, (1, 1))[: len(CHANGEABLE)] for tile in tiles]
    return np.asarray(np.quantile(values, QUANTILES, axis=0).T)


def everywhere(
    properties: Float[np.ndarray, "image property"],
    spreads: Float[np.ndarray, "image changeable quantile"],
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
        ratio, told = parts / apart[:, None], np.nan_to_num(np.abs(apart) / values.std(axis=0))
    alike = ((ratio >= 1 / _EVERYWHERE) & (ratio <= _EVERYWHERE) | ~_COMPARED).all(axis=1)
    return np.asarray(alike & alike[told >= _AS_WELL * told.max()].all())
