"""SIFT keypoints (Lowe, 2004) by OpenCV."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from siftlens.core import InputError, is_real, keep_whole
from siftlens.data import as_pixels
from siftlens.keypoints.luma import enlarged, luma
from siftlens.keypoints.points import Keypoints, pack, unpack


@dataclass(frozen=True)
class SiftSettings:
    """Settings of SIFT, in OpenCV's terms and with its defaults.

    Args:
        n_octave_layers: layers per octave of the scale pyramid.
        contrast_threshold: least contrast, which OpenCV divides by the layers; more leaves fewer keypoints.
        edge_threshold: greatest ratio of principal curvatures; less leaves fewer keypoints.
        sigma: blur at the bottom of the pyramid, px.

    Raises:
        InputError: a value is out of range.
    """

    n_octave_layers: int = 3
    contrast_threshold: float = 0.04
    edge_threshold: float = 10.0
    sigma: float = 1.6

    def __post_init__(self) -> None:
        keep_whole(self, "n_octave_layers", least=1)
        if not (is_real(self.contrast_threshold) and self.contrast_threshold >= 0):
            raise InputError(f"contrast_threshold must be a number, not negative, got {self.contrast_threshold!r}")
        for name in ("edge_threshold", "sigma"):
            if not (is_real(value := getattr(self, name)) and value > 0):
                raise InputError(f"{name} must be a positive number, got {value!r}")


def detect(
    pixels: Any,
    *,
    descriptors: bool = False,
    n_octave_layers: int = 3,
    contrast_threshold: float = 0.04,
    edge_threshold: float = 10.0,
    sigma: float = 1.6,
) -> Keypoints:
    """SIFT keypoints of one image, on its luma.

    A keypoint of several orientations is reported once. An image with a short side under 64 px is enlarged for the
    detector and its keypoints are mapped back. Numbers are rounded to what the cache stores: positions to 1/32 px,
    sizes and responses to 11 bits, angles to 1/256 turn.

    Args:
        pixels: a PIL image, or uint8 or floats in [0, 1], NumPy or torch, grey or colour, channels first or last.
        descriptors: also describe each keypoint by RootSIFT (Arandjelovic and Zisserman, 2012).
        n_octave_layers: see `SiftSettings`; so are the others.
        contrast_threshold: least contrast.
        edge_threshold: greatest ratio of principal curvatures.
        sigma: blur at the bottom of the pyramid, px.

    Raises:
        InputError: not an image, or a setting is out of range.
    """
    settings = SiftSettings(n_octave_layers, contrast_threshold, edge_threshold, sigma)
    image, times = enlarged(luma(as_pixels(pixels)))
    sift = cv2.SIFT.create(
        nOctaveLayers=settings.n_octave_layers,
        contrastThreshold=settings.contrast_threshold,
        edgeThreshold=settings.edge_threshold,
        sigma=settings.sigma,
        enable_precise_upscale=True,  # without it, keypoints sit 0.25 px too far right and down
    )
    if descriptors:
        found, described = sift.detectAndCompute(image, None)
    else:
        found, described = sift.detect(image, None), None
    table = np.array(
        [(*point.pt, point.size, point.response, point.angle, point.octave) for point in found], np.float64
    ).reshape(-1, 6)
    # OpenCV repeats a keypoint for each orientation; all else is equal.
    once = np.sort(np.unique(table[:, [0, 1, 2, 5]], axis=0, return_index=True)[1])
    x, y, size, response, angle, octave = table[once].T
    exact = Keypoints(
        x=(x + 0.5) / times,  # OpenCV's pixel centres are whole numbers
        y=(y + 0.5) / times,
        size=size / times,
        response=response,
        angle=angle,
        octave=(octave.astype(np.int64) & 0xFF).astype(np.uint8).astype(np.int8),  # lowest byte; above it, the layer
        descriptors=None,
        height=image.shape[0] // times,
        width=image.shape[1] // times,
    )
    rounded = unpack(pack(exact))
    return replace(rounded, descriptors=_root_sift(described, once)) if descriptors else rounded


def detect_with(settings: SiftSettings, pixels: Any) -> Keypoints:
    """`detect` with the settings as one."""
    return detect(pixels, **asdict(settings))


def _root_sift(described: np.ndarray | None, once: np.ndarray) -> Float[np.ndarray, "point 128"]:
    """Square root of the descriptor scaled to a sum of 1, so that Euclidean distance is Hellinger's."""
    if described is None:
        return np.zeros((0, 128), np.float32)
    kept = described[once].astype(np.float32)
    sums = np.maximum(kept.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(np.sqrt(kept / sums))
