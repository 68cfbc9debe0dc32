"""Decoding images without looking for keypoints: what training holds."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siftlens.core import InputError
from siftlens.data import ImageRef, Preprocessing, Unreadable, content_hash, decode
from siftlens.keypoints import become_worker
from siftlens.patchmaps.prepare import Quarantined
from siftlens.patchmaps.workers import Crashed, in_order

_WINDOW = 16  # images under way per worker


@dataclass(frozen=True)
class Shrinking(Preprocessing):
    """A resize and centre crop to a square that refuses to enlarge: blur would be learned as if it were the world."""

    def apply(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Resize and crop an RGB image.

        Raises:
            InputError: the image is smaller than the square.
        """
        if min(image.size) < self.height:
            raise InputError(
                f"{image.width}x{image.height} px: smaller than the squares of {self.height} px that views are cut "
                "from; choose smaller squares (pretrain --source, keypoints --size)"
            )
        return super().apply(image)


@dataclass(frozen=True)
class Decoded:
    """One image, decoded.

    Attributes:
        identity: its name.
        group: its first folder, or "".
        content: hash of the pixels.
        pixels: after preprocessing.
    """

    identity: str
    group: str
    content: str
    pixels: UInt8[np.ndarray, "height width 3"]


def decode_images(
    refs: Iterable[ImageRef], preprocessing: Preprocessing, *, workers: int
) -> Generator[Decoded | Quarantined]:
    """Decode images in order; what cannot be used comes with its reason instead.

    Args:
        refs: the images.
        preprocessing: resize and crop.
        workers: processes beside this one; 0 works in this one.

    Raises:
        SiftlensError: worker processes keep dying.
    """
    tasks = ((ref.fetched(), preprocessing) for ref in refs)
    if not workers:
        yield from map(_decode, tasks)
        return
    done = in_order(_decode, tasks, workers=workers, window=_WINDOW * workers, initializer=become_worker, initargs=())
    for image in done:
        yield Quarantined(image.task[0].identity, "its process died") if isinstance(image, Crashed) else image


def _decode(task: tuple[ImageRef, Preprocessing]) -> Decoded | Quarantined:
    ref, preprocessing = task
    try:
        pixels = decode(ref, preprocessing)
    except Unreadable as error:
        return Quarantined(ref.identity, str(error))
    return Decoded(ref.identity, ref.group, content_hash(pixels), pixels)
