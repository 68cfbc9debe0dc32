"""What a patch looks like: its keypoint, its colours, the model's own token."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from siftlens.core import PatchGrid
from siftlens.keypoints import detect

Pixels = UInt8[np.ndarray, "height width 3"]


def sift_descriptions(images: Sequence[Pixels], grid: PatchGrid) -> Float[Tensor, "image patch 128"]:
    """RootSIFT of the strongest keypoint in each patch; NaN where there is none."""
    described = np.full((len(images), grid.patches, 128), np.nan, np.float32)
    for row, pixels in zip(described, images, strict=True):
        points = detect(pixels, descriptors=True)
        assert points.descriptors is not None
        patch = grid.locate(points.x, points.y)
        order = np.argsort(points.response, kind="stable")  # of several, the last one written stays
        order = order[patch[order] >= 0]
        row[patch[order]] = points.descriptors[order]
    return torch.from_numpy(described)


def colour_descriptions(images: Sequence[Pixels], grid: PatchGrid) -> Float[Tensor, "image patch 6"]:
    """Mean and standard deviation of brightness, red against green, and yellow against blue, each in [0, 1]."""
    pixels = torch.from_numpy(np.stack(images))[:, : grid.height, : grid.width].float() / 255
    red, green, blue = pixels.unbind(dim=-1)
    opponent = torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=-1)
    patches = opponent.unflatten(1, (grid.rows, -1)).unflatten(3, (grid.cols, -1)).permute(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(len(images), grid.patches, -1, 3)
    return torch.cat([patches.mean(dim=2), patches.std(dim=2)], dim=2)
