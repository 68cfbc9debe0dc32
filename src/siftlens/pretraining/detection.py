"""Keypoints of a folder of images, detected once and written to one file."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from siftlens.core import InputError, NothingReadableError, PatchGrid
from siftlens.data import held, open_images
from siftlens.engine import Engine, LocalEngine
from siftlens.keypoints import KeypointCache, Keypoints, KeypointStore, SiftSettings
from siftlens.patchmaps import Prepared, PrepareSettings, Quarantined, Shrinking


def detect_images(
    images: Any,
    out: Path,
    *,
    side: int,
    settings: SiftSettings | None = None,
    engine: Engine | None = None,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> tuple[KeypointStore, list[Quarantined]]:
    """Detect the keypoints of images as squares, and write them to a file.

    What was found is kept in the folder `OUT.partial` meanwhile, by content of the pixels: the same call goes on after
    an interruption, also when images came or went.

    Args:
        images: a folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths; or a collection
            in memory.
        out: the file to write.
        side: width and height of the squares, px; that of the pre-training's `source`.
        settings: of the detector; by default its own.
        engine: where; None for this process.
        progress: called with a stage, what is done and what there is to do.

    Returns:
        The keypoints, and the images set aside.

    Raises:
        InputError: the file exists, another run is at it, or nothing is at `images`.
        NothingReadableError: not one image can be used.
    """
    settings = settings or SiftSettings()
    source = open_images(images)
    as_one_patch = PrepareSettings(Shrinking(side, side), PatchGrid(1, 1, side, side), sift=settings, rivals=False)
    aside: list[Quarantined] = []
    partial = out.with_name(f"{out.name}.partial")

    def found(cache: KeypointCache) -> Iterator[tuple[str, str, Keypoints]]:
        detected = (engine or LocalEngine(0)).prepare(source, as_one_patch, cache, _keypoints_of)
        for done, image in enumerate(detected, start=1):
            progress("images", done, len(source))
            if isinstance(image, Quarantined):
                aside.append(image)
            else:
                yield image
        expect_some(len(source) - len(aside), aside)

    with held(partial):
        if out.exists():
            raise InputError(f"{out} exists; delete it to detect anew, or choose another file")
        try:
            with KeypointCache(partial / "keypoints.sqlite") as cache:
                store = KeypointStore.gather(found(cache), side, settings)
        except NothingReadableError:
            shutil.rmtree(partial, ignore_errors=True)  # there is nothing to go on from
            raise
        store.save(out)
        shutil.rmtree(partial, ignore_errors=True)
    return store, aside


def _keypoints_of(image: Prepared) -> tuple[str, str, Keypoints]:
    return image.identity, image.content, image.keypoints


def expect_some(usable: int, aside: list[Quarantined]) -> None:
    """Refuse to go on without a single image.

    Raises:
        NothingReadableError: names the first images' reasons.
    """
    if not usable:
        raise NothingReadableError.of(len(aside), [f"{image.identity}: {image.reason}" for image in aside], "used")
