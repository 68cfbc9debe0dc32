"""Two other detectors, which keypoints have to do better than: FAST (Rosten, 2006) and ORB (Rublee, 2011)."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from siftlens.keypoints.luma import enlarged

_ORB_SCALE = 1.2
_ORB_BORDER = 3  # px without corners, as FAST's; 31, the default, would leave only the middle of a small image


def fast_corners(brightness: UInt8[np.ndarray, "height width"]) -> Float[np.ndarray, "corner 2"]:
    """Positions (x, y) of FAST corners in the image frame, px."""
    image, times = enlarged(brightness)
    found = cv2.FastFeatureDetector.create().detect(image)
    return np.array([(x + 0.5, y + 0.5) for x, y in (corner.pt for corner in found)]).reshape(-1, 2) / times


def orb_corners(brightness: UInt8[np.ndarray, "height width"]) -> Float[np.ndarray, "corner 2"]:
    """Positions (x, y) of the 500 strongest ORB corners in the image frame, px."""
    image, times = enlarged(brightness)
    orb = cv2.ORB.create(scaleFactor=_ORB_SCALE, edgeThreshold=_ORB_BORDER)
    found = orb.detect(image)
    # A level has whole pixels, so its true scale differs from the nominal one, which OpenCV's positions are made with.
    scale = np.array([_ORB_SCALE**corner.octave for corner in found]).reshape(-1, 1)
    on_level = np.array([corner.pt for corner in found]).reshape(-1, 2) / scale + 0.5
    size = np.array(image.shape[::-1])
    return np.asarray(on_level * (size / np.rint(size / scale)) / times)
