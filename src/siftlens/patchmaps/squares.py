"""Decoding images to squares of one size: what pre-training holds, and what keypoints are detected on."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siftlens.core import InputError
from siftlens.data import ImageRef, Preprocessing, Unreadable, content_hash, decode
from siftlens.keypoints import use_one_thread
from siftlens.patchmaps.prepare import Quarantined
from siftlens.patchmaps.workers import Crashed, in_order

_WINDOW = 16  # images under way per worker


@dataclass(frozen=True)
class Shrinking(Preprocessing):
    """A resize and centre crop that refuses to enlarge: blur would be learned as if it were the world."""

    def apply(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Resize and crop an RGB image.

        Raises:
            InputError: the image is smaller than the square.
        """
        if min(image.size) < self.height:
            raise InputError(
                f"{image.width}x{image.height} px: smaller than the squares of {self.height} px that views are cut "
                "from; choose a smaller size"
            )
        return super().apply(image)


@dataclass(frozen=True)
class Square:
    """One image, decoded.

    Attributes:
        identity: its name.
        group: its first folder, or "".
        content: hash of the pixels.
        pixels: as the square.
    """

    identity: str
    group: str
    content: str
    pixels: UInt8[np.ndarray, "side side 3"]


def decode_squares(refs: Iterable[ImageRef], side: int, *, workers: int) -> Generator[Square | Quarantined]:
    """Decode images in order; what cannot be used comes with its reason instead.

    Args:
        refs: the images.
        side: width and height, px.
        workers: processes beside this one; 0 works in this one.

    Raises:
        SiftlensError: worker processes keep dying.
    """
    tasks = ((ref.fetched(), side) for ref in refs)
    if not workers:
        yield from map(_decode, tasks)
        return
    done = in_order(_decode, tasks, workers=workers, window=_WINDOW * workers, initializer=use_one_thread, initargs=())
    for square in done:
        yield Quarantined(square.task[0].identity, "its process died") if isinstance(square, Crashed) else square


def _decode(task: tuple[ImageRef, int]) -> Square | Quarantined:
    ref, side = task
    try:
        pixels = decode(ref, Shrinking(side, side))
    except Unreadable as error:
        return Quarantined(ref.identity, str(error))
    return Square(ref.identity, ref.group, content_hash(pixels), pixels)
