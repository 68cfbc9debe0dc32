"""Choosing patches by a map, and painting over the pixels of the others."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from siftlens.core import InputError, PatchGrid


def highest(maps: Float[Tensor, "image patch"], share: float) -> Int[Tensor, "image kept"]:
    """The patches of the highest map, in order; of equal ones, those that a lot names, always the same.

    Args:
        maps: higher = keep.
        share: of the patches, rounded to a whole number of them.

    Raises:
        InputError: the share is less than half a patch.
    """
    patches = maps.shape[1]
    count = round(share * patches)
    if count < 1:
        raise InputError(
            f"a share of {share:g} keeps none of {patches} patches; expected at least {1 / patches:.3g}, one patch"
        )
    lot = torch.randperm(patches, generator=torch.Generator().manual_seed(0)).to(maps.device)
    order = maps[:, lot].argsort(dim=1, descending=True, stable=True)
    return lot[order[:, :count]].sort(dim=1).values


def even(maps: Float[Tensor, "image patch"]) -> Bool[Tensor, " image"]:
    """Images whose map tells no patch from another, as of cues that they do not hold."""
    return maps.amax(dim=1) == maps.amin(dim=1)


def painted_over(
    images: Float[Tensor, "image channel height width"],
    kept: Int[Tensor, "image kept"],
    grid: PatchGrid,
    fill: str,
) -> Float[Tensor, "image channel height width"]:
    """The images with all other patches filled; what no patch covers stays.

    Args:
        images: as the model takes them.
        kept: patches that stay as they are.
        grid: the patches.
        fill: "blur", the means of the patches, interpolated; or "mean", the mean colour of the image.
    """
    inside = images[:, :, : grid.height, : grid.width]
    if fill == "mean":
        filling = inside.mean(dim=(2, 3), keepdim=True).expand_as(inside)
    else:
        means = F.avg_pool2d(inside, (grid.patch_height, grid.patch_width))
        filling = F.interpolate(means, size=inside.shape[2:], mode="bilinear", align_corners=False)
    stays = torch.zeros(len(images), grid.patches, dtype=torch.bool, device=images.device).scatter_(1, kept, value=True)
    stays = stays.view(-1, 1, grid.rows, grid.cols)
    stays = stays.repeat_interleave(grid.patch_height, 2).repeat_interleave(grid.patch_width, 3)
    painted = images.clone()
    painted[:, :, : grid.height, : grid.width] = torch.where(stays, inside, filling)
    return painted
