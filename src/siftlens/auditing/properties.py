"""Properties of a whole image, which no patch carries."""

import numpy as np
from jaxtyping import Float, UInt8

from siftlens.keypoints import luma

PROPERTIES = ("brightness", "contrast", "redness", "yellowness", "sharpness", "size", "aspect")


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
