"""What detectors look at: brightness, at a size that they can work with."""

from math import ceil

import cv2
import numpy as np
from jaxtyping import UInt8

DETECTABLE = 64  # px; below this short side, too few octaves are left


def luma(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    """Brightness of RGB pixels (Rec. 601)."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def enlarged(brightness: UInt8[np.ndarray, "height width"]) -> tuple[UInt8[np.ndarray, "tall wide"], int]:
    """The image with a short side of at least 64 px, and how many times larger it is; a whole number."""
    times = ceil(DETECTABLE / min(brightness.shape))
    if times == 1:
        return brightness, 1
    return np.asarray(cv2.resize(brightness, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)), times
