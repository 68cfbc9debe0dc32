"""Semantic concentration as a tensor; a file of its own because worker processes start without torch."""

import torch
from jaxtyping import Float
from torch import Tensor

from siftlens.core import PatchGrid
from siftlens.keypoints import Keypoints
from siftlens.patchmaps.measures import patch_weights


def concentration(keypoints: Keypoints, grid: PatchGrid, measure: str = "count") -> Float[Tensor, "rows cols"]:
    """Semantic concentration of every patch of an image.

    Args:
        keypoints: from `siftlens.detect`, on the pixels that the model sees.
        grid: the model's patches; must fit the image.
        measure: "count", keypoints in the patch; "response", the sum of their responses; "footprint", each keypoint
            spreads unit mass over the patches as a Gaussian of sigma = size / 2.

    Returns:
        float32, on the CPU.

    Raises:
        InputError: another measure, or a grid of another image size.
    """
    grid.expect_covers(keypoints.height, keypoints.width)
    return torch.from_numpy(patch_weights(keypoints, grid, measure))
