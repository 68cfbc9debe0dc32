"""From an image of any size to the pixels that a model sees, and from those to the model's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siftlens.core import InputError, is_whole

RESIZES = ("shorter_side", "squash")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """The resize and centre crop that a model's authors evaluate it with.

    The image is resized to a box of the input's proportions whose shorter side is `resize_to`, and the input cut from
    its centre: the steps, and for square inputs the very pixels, of timm's evaluation transform.

    Args:
        height: model input, px.
        width: model input, px.
        resize: "shorter_side" keeps the proportions and covers the box; "squash" makes the image the box.
        resize_to: shorter side of the box, px; by default that of the input.
        interpolation: "bicubic", "bilinear", "nearest" or "lanczos"; antialiased.

    Raises:
        InputError: a value is not one of those, or the box is smaller than the input.
    """

    height: int
    width: int
    resize: str = "shorter_side"
    resize_to: int | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        shorter = min(self.height, self.width)
        if shorter < 1:
            raise InputError(f"a model's input must be at least 1 px wide and high, got {self.width}x{self.height}")
        if self.resize not in RESIZES:
            raise InputError(f"resize must be one of {', '.join(RESIZES)}, got {self.resize!r}")
        if self.interpolation not in _FILTERS:
            raise InputError(f"interpolation must be one of {', '.join(_FILTERS)}, got {self.interpolation!r}")
        if self.resize_to is None:
            object.__setattr__(self, "resize_to", shorter)
        elif self.resize_to < shorter:
            raise InputError(f"resize_to must be at least the input's shorter side, {shorter} px, got {self.resize_to}")

    def apply(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Resize and crop an RGB image."""
        size = self._resized(*image.size)
        if size != image.size:
            image = image.resize(size, _FILTERS[self.interpolation])
        # Half to even: where an odd number of pixels is cut off, the same side as torchvision's centre crop.
        left, top = round((image.width - self.width) / 2), round((image.height - self.height) / 2)
        return np.asarray(image.crop((left, top, left + self.width, top + self.height)))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) after resizing, px."""
        assert self.resize_to is not None
        shorter = min(self.height, self.width)
        box_width = self.width * self.resize_to // shorter
        box_height = self.height * self.resize_to // shorter
        if self.resize == "squash":
            return box_width, box_height
        if width * box_height <= height * box_width:
            return box_width, box_width * height // width
        return box_height * width // height, box_height


def input_size(size: Any) -> tuple[int, int]:
    """Height and width of a model's input, px, of one number for both, or of a pair.

    Raises:
        InputError: neither.
    """
    sides = (size, size) if is_whole(size, least=1) else size
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(is_whole(side, least=1) for side in sides):
        raise InputError(f"size must be a whole number of px, at least 1, or (height, width), got {size!r}")
    return int(sides[0]), int(sides[1])


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel of pixels in [0, 1].

    Args:
        mean: of red, green and blue.
        std: of red, green and blue.

    Raises:
        InputError: not three finite numbers each, or a standard deviation that is not positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(isfinite(value) for value in values):
                raise InputError(f"normalization needs a finite {name} for red, green and blue, got {values!r}")
        if min(self.std) <= 0:
            raise InputError(f"normalization needs positive standard deviations, got {self.std!r}")


NORMALIZATIONS = {
    "clip": Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
