"""One image, made ready: decoded, searched for keypoints, weighed patch by patch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from siftlens.core import InputError, PatchGrid
from siftlens.data import ImageRef, Preprocessing, Unreadable, content_hash, decode, expect_folder
from siftlens.keypoints import KeypointCache, Keypoints, SiftSettings, detect_with
from siftlens.patchmaps.masks import mask_file, object_patches
from siftlens.patchmaps.measures import MEASURES, patch_weights
from siftlens.patchmaps.rivals import rival_maps

Measure = Callable[[UInt8[np.ndarray, "height width 3"], PatchGrid], Float[np.ndarray, "rows cols"]]


@dataclass(frozen=True)
class PrepareSettings:
    """How images are made ready.

    Args:
        preprocessing: from files to the pixels that the model sees.
        grid: the model's patches.
        measure: "count", "response", "footprint", or a callable (pixels, grid) -> weight per patch.
        sift: of the detector.
        rivals: also compute the rival maps.
        masks: folder of object masks, named as the images are.

    Raises:
        InputError: another measure, or a grid that does not fit the pixels.
    """

    preprocessing: Preprocessing
    grid: PatchGrid
    measure: str | Measure = "count"
    sift: SiftSettings = field(default_factory=SiftSettings)
    rivals: bool = True
    masks: Path | None = None

    def __post_init__(self) -> None:
        if not callable(self.measure) and self.measure not in MEASURES:
            raise InputError(f"measure must be one of {', '.join(MEASURES)}, or a callable, got {self.measure!r}")
        self.grid.expect_covers(self.preprocessing.height, self.preprocessing.width)


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the model and for the statistics.

    Attributes:
        identity: its name.
        group: its group, or "".
        content: hash of the pixels that the model sees.
        pixels: these.
        keypoints: of these.
        count: number of keypoints per patch.
        weights: the measure per patch.
        rivals: rival maps in the order of `RIVALS`; none of them where they were not asked for.
        mask: patches that show the object; None without a mask that can be read.
    """

    identity: str
    group: str
    content: str
    pixels: UInt8[np.ndarray, "height width 3"]
    keypoints: Keypoints
    count: Float[np.ndarray, "rows cols"]
    weights: Float[np.ndarray, "rows cols"]
    rivals: Float[np.ndarray, "rival rows cols"]
    mask: Bool[np.ndarray, "rows cols"] | None


@dataclass(frozen=True)
class Quarantined:
    """One image that was set aside.

    Attributes:
        identity: its name.
        reason: in one line.
    """

    identity: str
    reason: str


def prepare(
    ref: ImageRef, settings: PrepareSettings, cache: KeypointCache | None
) -> tuple[Prepared | Quarantined, bool]:
    """Make one image ready; a callable measure is left to `measured`.

    Returns:
        The image, and whether its keypoints were detected anew.
    """
    try:
        pixels = decode(ref, settings.preprocessing)
    except Unreadable as error:
        return Quarantined(ref.identity, str(error)), False
    content = content_hash(pixels)
    known = cache.get(content, settings.sift) if cache else None
    keypoints = detect_with(settings.sift, pixels) if known is None else known
    grid = settings.grid
    count = patch_weights(keypoints, grid, "count")
    weights = patch_weights(keypoints, grid, settings.measure) if isinstance(settings.measure, str) else count
    rivals = rival_maps(pixels, grid) if settings.rivals else np.zeros((0, grid.rows, grid.cols), np.float32)
    mask = _mask(ref.identity, settings)
    return Prepared(ref.identity, ref.group, content, pixels, keypoints, count, weights, rivals, mask), known is None


def _mask(identity: str, settings: PrepareSettings) -> Bool[np.ndarray, "rows cols"] | None:
    if settings.masks is None:
        return None
    path = mask_file(settings.masks, identity)
    if path is None:
        expect_folder(settings.masks, "masks")
        return None
    try:
        return object_patches(path, settings.preprocessing, settings.grid)
    except Unreadable:
        return None


def measured(image: Prepared, grid: PatchGrid, measure: Measure) -> Prepared:
    """The image with weights by a measure of the user's own.

    Raises:
        InputError: it did not return one finite number per patch.
    """
    weights = np.asarray(measure(image.pixels, grid))
    expected = (grid.rows, grid.cols)
    if weights.shape != expected:
        raise InputError(
            f"the measure must return weights of shape {expected}, got {weights.shape} for {image.identity}"
        )
    if weights.dtype.kind not in "biuf" or not np.isfinite(weights).all():
        came = "NaN or infinity" if weights.dtype.kind == "f" else weights.dtype
        raise InputError(f"the measure must return finite numbers, got {came} for {image.identity}")
    return replace(image, weights=weights.astype(np.float32))
