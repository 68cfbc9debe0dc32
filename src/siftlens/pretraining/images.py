"""Images decoded once and held, in memory or in a file; or, where neither has room for them, decoded as needed."""

import math
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from siftlens.core import InputError
from siftlens.data import Preprocessing, disk_errors, make_own, open_images, reserve
from siftlens.keypoints import KeypointStore
from siftlens.patchmaps import Quarantined, decode_images
from siftlens.pretraining.detection import expect_some
from siftlens.pretraining.streamed import StreamedPixels

_SHARE = 0.4  # of the machine's memory, which images may take
_DISK = 0.9  # of what is free there: checkpoints need room, too


@dataclass(frozen=True)
class HeldImages:
    """Images of one size.

    Attributes:
        identities: their names.
        groups: their first folders, or "".
        contents: hashes of their pixels.
        pixels: the images, channels first.
        aside: what could not be used, and why.
    """

    identities: tuple[str, ...]
    groups: tuple[str, ...]
    contents: tuple[str, ...]
    pixels: UInt8[Tensor, "image 3 height width"] | StreamedPixels
    aside: tuple[Quarantined, ...] = ()

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def digest(self) -> str:
        """How many they are, and a hash of their pixels in order."""
        return f"{len(self)} images, {sha256(''.join(self.contents).encode()).hexdigest()[:16]}"


def hold(
    images: Any,
    preprocessing: Preprocessing,
    *,
    spill: Path,
    workers: int = 0,
    in_file: bool = False,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> HeldImages:
    """Decode images to one size.

    Args:
        images: a folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths; or a collection
            in memory.
        preprocessing: resize and crop.
        spill: the file that holds the pixels where they would take more than 40 % of the memory. Where they would take
            more than 90 % of that disk, too, images in files are decoded whenever they are asked for, which is warned
            of.
        workers: processes beside this one.
        in_file: hold no pixels in memory in any case.
        progress: called with a stage, images done and images to do.

    Raises:
        InputError: nothing is at `images`, or the disk is full.
        NothingReadableError: not one image can be used.
    """
    source = open_images(images)
    shape = (len(source), preprocessing.height, preprocessing.width, 3)
    array = _room(shape, spill, in_file=in_file, or_none=isinstance(images, str | os.PathLike))
    usable: list[bool] = []
    identities: list[str] = []
    groups: list[str] = []
    contents: list[str] = []
    aside: list[Quarantined] = []
    for done, image in enumerate(decode_images(source, preprocessing, workers=workers), start=1):
        progress("decoding", done, len(source))
        usable.append(not isinstance(image, Quarantined))
        if isinstance(image, Quarantined):
            aside.append(image)
            continue
        if array is not None:
            array[len(identities)] = image.pixels
        identities.append(image.identity)
        groups.append(image.group)
        contents.append(image.content)
    expect_some(len(identities), aside)
    pixels: Tensor | StreamedPixels
    if array is None:
        pixels = StreamedPixels(tuple(compress(source, usable)), tuple(contents), preprocessing)
    else:
        pixels = torch.from_numpy(array[: len(identities)]).permute(0, 3, 1, 2)
    return HeldImages(tuple(identities), tuple(groups), tuple(contents), pixels, tuple(aside))


def _room(
    shape: tuple[int, int, int, int], spill: Path, *, in_file: bool, or_none: bool
) -> UInt8[np.ndarray, "image height width 3"] | None:
    """Where pixels are held: in memory, in a file, or nowhere."""
    size = math.prod(shape)
    if not in_file and size <= _SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return np.empty(shape, np.uint8)
    make_own(spill.parent)
    with disk_errors(spill):
        spill.unlink(missing_ok=True)  # of a run that was killed: its room is free
        if or_none and size > _DISK * shutil.disk_usage(spill.parent).free:
            warnings.warn(
                f"{shape[0]} images need {size / 1e9:.1f} GB as squares, for which {spill.parent} has no room: each is "
                "decoded anew whenever it is needed; a folder on a larger disk, or smaller squares, would save that",
                stacklevel=3,
            )
            return None
        array = np.lib.format.open_memmap(spill, "w+", np.uint8, shape)
        reserve(spill, spill.stat().st_size)  # a mapped page for which there is no room kills the process
        return array


def in_order_of(store: KeypointStore, images: HeldImages) -> np.ndarray:
    """Where the keypoints of each image stand in a store.

    Raises:
        InputError: the store is of images of another size, or lacks an image, or its pixels were others.
    """
    side = images.pixels.shape[2]
    if store.side != side:
        raise InputError(
            f"the keypoints were detected on squares of {store.side} px, views are cut from {side} px; "
            f"detect them again: siftlens keypoints --size {side}"
        )
    place = {content: n for n, content in enumerate(store.contents)}  # a folder may have moved
    known = set(store.identities)
    found = [place.get(content, -1) for content in images.contents]
    lacking = [identity for identity, at in zip(images.identities, found, strict=True) if at < 0]
    if lacking:
        why = "has other pixels now" if lacking[0] in known else "is not in it"
        raise InputError(
            f"the keypoints are of other images: {len(lacking)} of {len(found)} do not fit, the first, {lacking[0]}, "
            f"{why}; run siftlens keypoints on these images"
        )
    return np.array(found)
