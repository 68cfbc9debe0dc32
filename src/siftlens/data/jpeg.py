"""Pixels as JPEG, for pages and tables that hold their own pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@dataclass(frozen=True)
class Jpeg:
    """How a picture is encoded.

    Attributes:
        side: the longer one at most, px; larger pictures are scaled down.
        quality: of Pillow's scale, up to 95.
        full_colour: keep colour at every pixel, not at every second one either way.
    """

    side: int
    quality: int
    full_colour: bool = False


def as_jpeg(pixels: UInt8[np.ndarray, "height width 3"], encodings: Sequence[Jpeg], most: int | None = None) -> bytes:
    """A picture as JPEG.

    Args:
        pixels: the picture.
        encodings: to try, the best first.
        most: bytes, of which the first encoding that takes no more is taken, or else the last; None for any number.
    """
    for encoding in encodings:
        picture, held = Image.fromarray(pixels), io.BytesIO()
        picture.thumbnail((encoding.side, encoding.side))
        picture.save(held, "JPEG", quality=encoding.quality, subsampling=0 if encoding.full_colour else 2)
        if most is None or held.tell() <= most:
            break
    return held.getvalue()
