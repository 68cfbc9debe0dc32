"""What an analysis or an audit asks of the place where it runs."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, runtime_checkable

from siftlens.data import ImageRef
from siftlens.keypoints import KeypointCache
from siftlens.patchmaps import Prepared, PrepareSettings, Quarantined

Item = TypeVar("Item")
Done = TypeVar("Done")
Work = Callable[[Sequence[Prepared | Quarantined]], Done]


@runtime_checkable
class Engine(Protocol):
    """Makes images ready, and does work on chunks of them.

    What it hands on comes in the order of the images and depends on nothing else: not on the number of processes, on
    which of them is done first, or on one that died and was replaced. Closing an iterator ends what is under way.
    Everything random in the work is drawn from an image's content or its place in the list, not from a process's state.
    """

    @property
    def name(self) -> str:
        """For the record."""
        ...

    def prepare(
        self,
        refs: Iterable[ImageRef],
        settings: PrepareSettings,
        cache: KeypointCache | None,
        take: Callable[[Prepared], Done],
    ) -> Generator[Done | Quarantined]:
        """Make images ready, as `siftlens.patchmaps.prepare_images` does.

        Args:
            refs: the images.
            settings: how they are made ready.
            cache: of keypoints; only this process writes to it.
            take: what is wanted of each image; the rest is left where it was made.
        """
        ...

    def work(
        self,
        refs: Iterable[ImageRef],
        settings: PrepareSettings,
        cache: KeypointCache | None,
        work: Work[Done],
        size: int,
    ) -> Generator[Done]:
        """Make images ready and do something with each chunk of them.

        Args:
            refs: the images.
            settings: how they are made ready.
            cache: of keypoints; only this process writes to it.
            work: what to do with a chunk; may be called in other processes, of which each has its own copy.
            size: images of a chunk, those set aside among them: chunks are the same wherever they are worked on.
        """
        ...

    def hire(self, work: Callable[[Item], Done]) -> AbstractContextManager[Callable[[Iterable[Item]], Iterator[Done]]]:
        """While inside, have processes that do one kind of work on whatever they are given.

        Args:
            work: what to do with an item; each process has its own copy, which no item may change.

        Returns:
            What works on items, as often as it is called, and hands on what came of each, in the order of the items.
        """
        ...
