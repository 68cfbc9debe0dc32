"""Semantic concentration of views, from the keypoints of the whole images; and the rivals it has to beat."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from siftlens.core import PatchGrid
from siftlens.keypoints import KeypointStore, map_positions, steps_per_pixel
from siftlens.pretraining.patches import patchify
from siftlens.pretraining.randomness import Purpose, uniform
from siftlens.pretraining.views import Boxes

GUIDES = ("keypoints", "other", "gradient")
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601


@dataclass(frozen=True)
class KeypointGuide:
    """Keypoints per patch of views, by mapping what was detected in the whole images.

    Args:
        store: keypoints.
        place: where each image stands in the store.
        other: take another image's keypoints, drawn anew for each view, through this view's box: a null.
    """

    store: KeypointStore
    place: Int64[np.ndarray, " image"]
    other: bool = False

    def __call__(
        self,
        images: Int64[Tensor, " batch"],
        keys: Int64[Tensor, " batch"],
        boxes: Boxes,
        _: Tensor,
        grid: PatchGrid,
    ) -> Float[Tensor, "batch patch"]:
        """Count the keypoints of each patch.

        Args:
            images: places in the data set.
            keys: of the views.
            boxes: of the views.
            grid: the patches of a view.
        """
        total = len(self.place)
        if self.other and total > 1:
            further = 1 + (uniform(keys, Purpose.OTHER, 1)[:, 0] * (total - 1)).long()
            images = (images + further) % total
        return torch.from_numpy(count_points(self.store, self.place[images.numpy()], boxes, grid))


def count_points(
    store: KeypointStore, images: Int64[np.ndarray, " batch"], boxes: Boxes, grid: PatchGrid
) -> Float[np.ndarray, "batch patch"]:
    """Keypoints in each patch of views of some images; those outside a view count nowhere."""
    point, owner = store.points_of(images)
    steps = np.float32(steps_per_pixel(store.side, store.side))
    left, top, width, height, flip = (
        column.numpy()[owner] for column in (boxes.left, boxes.top, boxes.width, boxes.height, boxes.flip)
    )
    x = map_positions(store.x[point] / steps, left, grid.width / width, grid.width, flip)
    y = map_positions(store.y[point] / steps, top, grid.height / height, grid.height, False)
    patch = grid.locate(x, y)
    inside = patch >= 0
    counts = np.bincount(owner[inside] * grid.patches + patch[inside], minlength=len(images) * grid.patches)
    return counts.astype(np.float32).reshape(len(images), grid.patches)


@dataclass(frozen=True)
class GradientGuide:
    """Mean squared gradient of the luma per patch, the rival that needs no keypoints."""

    def __call__(
        self,
        _images: Tensor,
        _keys: Tensor,
        _boxes: Boxes,
        views: UInt8[Tensor, "batch 3 height width"],
        grid: PatchGrid,
    ) -> Float[Tensor, "batch patch"]:
        """Measure the views themselves."""
        luma = (views * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=1)
        down, right = torch.gradient(luma, dim=(1, 2))
        return patchify((down.square() + right.square())[:, None], grid).mean(dim=2)
