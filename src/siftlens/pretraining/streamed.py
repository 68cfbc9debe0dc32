"""Images that are decoded whenever they are asked for: more than memory and disk can hold."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from loky import cpu_count
from torch import Tensor

from siftlens.core import InputError
from siftlens.data import ImageRef, Preprocessing, Unreadable, content_hash, decode


@dataclass(frozen=True)
class StreamedPixels:
    """Reads as a tensor of pixels, (image, 3, height, width), does: by a slice, or by places.

    Args:
        refs: images that were read once.
        contents: hashes of their pixels, then.
        preprocessing: resize and crop.
    """

    refs: tuple[ImageRef, ...]
    contents: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that this stands for."""
        return torch.Size((len(self.refs), 3, self.preprocessing.height, self.preprocessing.width))

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, places: slice | Int64[Tensor, " batch"]) -> UInt8[Tensor, "batch 3 height width"]:
        """Decode some images, in as many threads as there are cores.

        Raises:
            InputError: one cannot be read any more, or has other pixels.
        """
        wanted = range(len(self))[places] if isinstance(places, slice) else places.tolist()
        pixels = np.empty((len(wanted), self.preprocessing.height, self.preprocessing.width, 3), np.uint8)
        for image, decoded in zip(pixels, _threads().map(self._decoded, wanted), strict=True):
            image[:] = decoded
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def split(self, size: int) -> Iterator[UInt8[Tensor, "batch 3 height width"]]:
        """Go through all, so many at once."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def _decoded(self, place: int) -> UInt8[np.ndarray, "height width 3"]:
        ref = self.refs[place]
        try:
            pixels = decode(ref, self.preprocessing)
        except Unreadable as error:
            raise InputError(
                f"{ref.identity} was read before and cannot be read now ({error}); bring it back and run again"
            ) from error
        if content_hash(pixels) != self.contents[place]:
            raise InputError(
                f"{ref.identity} has other pixels than before; leave images as they are while they are used"
            )
        return pixels


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_count())
