"""This machine: processes that decode and detect beside this one, which does the work."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice

from siftlens.data import ImageRef
from siftlens.engine.protocol import Done, Item, Work
from siftlens.keypoints import KeypointCache
from siftlens.patchmaps import Prepared, PrepareSettings, Quarantined, prepare_images


class LocalEngine:
    """The engine that needs nothing else.

    Args:
        workers: processes beside this one; 0 works in this one.
    """

    name = "local"

    def __init__(self, workers: int):
        self.workers = workers

    def prepare(
        self,
        refs: Iterable[ImageRef],
        settings: PrepareSettings,
        cache: KeypointCache | None,
        take: Callable[[Prepared], Done],
    ) -> Generator[Done | Quarantined]:
        """See `Engine.prepare`."""
        with closing(prepare_images(refs, settings, workers=self.workers, cache=cache)) as prepared:
            for image in prepared:
                yield image if isinstance(image, Quarantined) else take(image)

    def work(
        self,
        refs: Iterable[ImageRef],
        settings: PrepareSettings,
        cache: KeypointCache | None,
        work: Work[Done],
        size: int,
    ) -> Generator[Done]:
        """See `Engine.work`."""
        with closing(prepare_images(refs, settings, workers=self.workers, cache=cache)) as prepared:
            while chunk := list(islice(prepared, size)):
                yield work(chunk)

    @contextmanager
    def hire(self, work: Callable[[Item], Done]) -> Iterator[Callable[[Iterable[Item]], Iterator[Done]]]:
        """See `Engine.hire`; this process is the only one."""
        yield lambda items: map(work, items)
