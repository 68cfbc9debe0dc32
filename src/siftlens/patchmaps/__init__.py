"""Keypoints and a grid make maps: semantic concentration, its levels and its rivals."""

from typing import TYPE_CHECKING, Any

from siftlens.patchmaps.decoded import Shrinking, decode_images
from siftlens.patchmaps.masks import mask_file, object_share
from siftlens.patchmaps.measures import LEVELS, MEASURES, auroc, levels, patch_weights, standardize
from siftlens.patchmaps.pipeline import prepare_images
from siftlens.patchmaps.prepare import Prepared, PrepareSettings, Quarantined
from siftlens.patchmaps.rivals import RIVALS, rival_maps

if TYPE_CHECKING:
    from siftlens.patchmaps.tensor import concentration

__all__ = [
    "LEVELS",
    "MEASURES",
    "RIVALS",
    "PrepareSettings",
    "Prepared",
    "Quarantined",
    "Shrinking",
    "auroc",
    "concentration",
    "decode_images",
    "levels",
    "mask_file",
    "object_share",
    "patch_weights",
    "prepare_images",
    "rival_maps",
    "standardize",
]


def __getattr__(name: str) -> Any:
    # Worker processes import this package, and need not wait for torch.
    if name == "concentration":
        from siftlens.patchmaps.tensor import concentration

        return concentration
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
