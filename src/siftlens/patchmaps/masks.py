"""Object masks beside images: which patches show the object, to tell how far concentration marks it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from siftlens.core import PatchGrid
from siftlens.data import ImageRef, Preprocessing, decode

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def mask_file(folder: Path, identity: str) -> Path | None:
    """The mask of an image: its path below `folder`, with any suffix of an image; None where there is none.

    Args:
        folder: of masks.
        identity: the image's path below its own folder.
    """
    path = folder / identity
    return next((found for suffix in _SUFFIXES if (found := path.with_suffix(suffix)).is_file()), None)


def object_patches(path: Path, preprocessing: Preprocessing, grid: PatchGrid) -> Bool[np.ndarray, "rows cols"]:
    """Patches of which the object fills at least half, in what the model sees of the image.

    Args:
        path: of the mask, of its image's proportions: the object brighter than half of the brightest pixel.
        preprocessing: of the image.
        grid: the model's patches.

    Raises:
        Unreadable: the mask cannot be read.
    """
    pixels = decode(ImageRef(path.name, "", path), replace(preprocessing, interpolation="nearest")).max(axis=2)
    inside = pixels[: grid.height, : grid.width] > int(pixels.max()) // 2
    blocks = inside.reshape(grid.rows, grid.patch_height, grid.cols, grid.patch_width)
    return np.asarray(blocks.mean(axis=(1, 3)) >= 0.5)
