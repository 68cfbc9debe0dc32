"""Object masks beside images: how much of each patch shows the object."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from siftlens.core import PatchGrid
from siftlens.data import SUFFIXES, ImageRef, Preprocessing, decode


def mask_file(folder: Path, identity: str) -> Path | None:
    """The mask of an image: its path below `folder`, with any suffix of an image (its own the last), or None.

    Args:
        folder: of masks.
        identity: the image's path below its own folder.
    """
    path = folder / identity
    suffixes = [spelled for suffix in SUFFIXES for spelled in (suffix, suffix.upper())]
    named = [*(path.with_suffix(suffix) for suffix in suffixes if suffix != path.suffix), path]
    return next((found for found in named if _is_file(found)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long
        return False


def object_share(path: Path, preprocessing: Preprocessing, grid: PatchGrid) -> Float[np.ndarray, "rows cols"]:
    """Share of each patch that the object fills, in what the model sees of the image.

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
    return np.asarray(blocks.mean(axis=(1, 3)))


def object_patches(path: Path, preprocessing: Preprocessing, grid: PatchGrid) -> Bool[np.ndarray, "rows cols"]:
    """Patches of which the object fills at least half, as `object_share` tells it."""
    return np.asarray(object_share(path, preprocessing, grid) >= 0.5)
