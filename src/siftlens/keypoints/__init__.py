"""SIFT keypoints of the pixels that the model sees: the only part that uses OpenCV."""

from siftlens.keypoints.cache import KeypointCache
from siftlens.keypoints.corners import fast_corners, orb_corners
from siftlens.keypoints.luma import luma, use_one_thread
from siftlens.keypoints.mapping import View, map_keypoints, map_positions, within
from siftlens.keypoints.points import Keypoints
from siftlens.keypoints.sift import SiftSettings, detect, detect_with

__all__ = [
    "KeypointCache",
    "Keypoints",
    "SiftSettings",
    "View",
    "detect",
    "detect_with",
    "fast_corners",
    "luma",
    "map_keypoints",
    "map_positions",
    "orb_corners",
    "use_one_thread",
    "within",
]
