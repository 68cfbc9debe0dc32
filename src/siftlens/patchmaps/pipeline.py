"""All images, made ready beside the model."""

import signal
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from siftlens.core import InputError
from siftlens.data import ImageRef
from siftlens.keypoints import KeypointCache, become_worker
from siftlens.patchmaps.prepare import Prepared, PrepareSettings, Quarantined, measured, prepare
from siftlens.patchmaps.workers import Crashed, in_order

_WINDOW_BYTES = 64 * 2**20  # of pixels waiting for the model
_WINDOW = 64  # images: two batches


def prepare_images(
    refs: Iterable[ImageRef], settings: PrepareSettings, *, workers: int, cache: KeypointCache | None
) -> Generator[Prepared | Quarantined]:
    """Make images ready, in order; what cannot be used comes with its reason instead.

    The results do not depend on the number of workers, nor on what the cache knew. Close the iterator (or exhaust it)
    to end the processes. In memory are at most 64 images, and at most about 64 MB of pixels.

    Args:
        refs: the images.
        settings: how.
        workers: processes beside this one; 0 works in this one.
        cache: of keypoints; None detects anew.

    Raises:
        InputError: a callable measure does not return one finite number per patch.
        SiftlensError: worker processes keep dying.
    """
    if workers < 0:
        raise InputError(f"workers must not be negative, got {workers}")
    measure = settings.measure
    if not isinstance(measure, str):
        settings = replace(settings, measure="count")  # the user's own code runs here, where it can see its own state
    if workers:
        made = _beside(refs, settings, workers, cache.path if cache else None)
    else:
        made = (prepare(ref, settings, cache) for ref in refs)
    try:
        for image, fresh in made:
            if isinstance(image, Quarantined):
                yield image
                continue
            if cache and fresh:
                cache.put(image.content, settings.sift, image.keypoints)
            yield image if isinstance(measure, str) else measured(image, settings.grid, measure)
    finally:
        made.close()
        if cache:
            cache.flush()


def _beside(
    refs: Iterable[ImageRef], settings: PrepareSettings, workers: int, cache: Path | None
) -> Generator[tuple[Prepared | Quarantined, bool]]:
    pixels = settings.preprocessing.height * settings.preprocessing.width * 3
    window = max(2 * workers, min(_WINDOW, _WINDOW_BYTES // pixels))
    fetched = (ref.fetched() for ref in refs)
    for done in in_order(
        _work, fetched, workers=workers, window=window, initializer=_begin, initargs=(settings, cache)
    ):
        if isinstance(done, Crashed):
            reason = "the process that read it died (out of memory, or a fault in the decoder)"
            yield Quarantined(done.task.identity, reason), False
        else:
            yield done


@dataclass
class _Worker:
    """What a worker process keeps between images."""

    settings: PrepareSettings
    cache: KeypointCache | None


_worker: _Worker


def _begin(settings: PrepareSettings, cache: Path | None) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems where `in_order` cannot hold Ctrl-C back
    become_worker()
    _worker = _Worker(settings, KeypointCache(cache, read_only=True) if cache else None)


def _work(ref: ImageRef) -> tuple[Prepared | Quarantined, bool]:
    return prepare(ref, _worker.settings, _worker.cache)
