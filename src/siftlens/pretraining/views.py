"""Random resized crops and flips, each a function of an image's key alone."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from siftlens.pretraining.randomness import Purpose, uniform

_ATTEMPTS = 10  # as torchvision's RandomResizedCrop; after those, the whole square
_RATIO = 4 / 3  # greatest ratio of sides, either way


@dataclass(frozen=True)
class Boxes:
    """Where views lie in their images.

    Attributes:
        left: edge, px of the image.
        top: edge.
        width: of the box.
        height: of the box.
        flip: mirrored left to right.
    """

    left: Int64[Tensor, " batch"]
    top: Int64[Tensor, " batch"]
    width: Int64[Tensor, " batch"]
    height: Int64[Tensor, " batch"]
    flip: Bool[Tensor, " batch"]


def draw_boxes(keys: Int64[Tensor, " batch"], side: int, smallest: float) -> Boxes:
    """Draw a box and a flip for each key: area uniform, the ratio of the sides log-uniform in [3/4, 4/3].

    Args:
        keys: from `image_keys`.
        side: of the square images, px.
        smallest: least area of a box over the image's.
    """
    draws = uniform(keys, Purpose.CROP, 2 * _ATTEMPTS + 3)
    area = side**2 * (smallest + (1 - smallest) * draws[:, :_ATTEMPTS])
    ratio = _RATIO ** (2 * draws[:, _ATTEMPTS : 2 * _ATTEMPTS] - 1)
    width, height = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (width <= side) & (height <= side) & (width > 0) & (height > 0)
    first = fits.long().argmax(dim=1, keepdim=True)
    some = fits.any(dim=1)
    width, height = (torch.where(some, sides.gather(1, first)[:, 0], side) for sides in (width, height))
    right, down, mirror = draws[:, -3:].unbind(1)
    return Boxes((right * (side - width + 1)).long(), (down * (side - height + 1)).long(), width, height, mirror < 0.5)


def cut(images: UInt8[Tensor, "batch 3 side side"], boxes: Boxes, size: int) -> UInt8[Tensor, "batch 3 size size"]:
    """Cut the boxes out, resize them (bilinear, antialiased) and mirror them."""
    views = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    columns = (boxes.left, boxes.top, boxes.width, boxes.height, boxes.flip)
    # One by one: uint8 has fast kernels for this, which resize 128 px some three times faster than a batched product.
    for view, image, left, top, width, height, flip in zip(
        views, images, *(column.tolist() for column in columns), strict=True
    ):
        box = image[None, :, top : top + height, left : left + width]
        resized = F.interpolate(box, (size, size), mode="bilinear", antialias=True)[0]
        view.copy_(resized.flip(2) if flip else resized)
    return views


def normalised(
    pixels: UInt8[Tensor, "batch 3 height width"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Tensor, "batch 3 height width"]:
    """Pixels as the model's numbers."""
    middle, spread = (torch.tensor(values, device=pixels.device).view(3, 1, 1) * 255 for values in (mean, std))
    return pixels.float().sub_(middle).div_(spread)  # in place: on a CPU, new memory costs more than the arithmetic
