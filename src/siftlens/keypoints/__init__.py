"""SIFT keypoints of the pixels that the model sees: the only part that detects by OpenCV."""

from siftlens.keypoints.cache import KeypointCache
from siftlens.keypoints.corners import fast_corners, orb_corners
from siftlens.keypoints.luma import luma
from siftlens.keypoints.mapping import View, map_keypoints, map_positions
from siftlens.keypoints.points import Keypoints, steps_per_pixel
from siftlens.keypoints.sift import SiftSettings, detect, detect_with
from siftlens.keypoints.store import KeypointStore
from siftlens.keypoints.worker import become_worker

__all__ = [
    "KeypointCache",
    "KeypointStore",
    "Keypoints",
    "SiftSettings",
    "View",
    "become_worker",
    "detect",
    "detect_with",
    "fast_corners",
    "luma",
    "map_keypoints",
    "map_positions",
    "orb_corners",
    "steps_per_pixel",
]
