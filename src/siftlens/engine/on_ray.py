"""A Ray cluster: tasks decode and detect on its cores, actors work on what they made, and it streams between them.

Tasks and actors rather than Ray Data, which is built of them: images are asked for as they are needed, however many
there are, and one that kills its process costs that image, where Ray Data would try its block again without end.
"""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as once
from importlib.machinery import PathFinder
from itertools import islice
from pathlib import Path
from pickle import PicklingError
from typing import Any, Generic

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from siftlens.core import InputError, SiftlensError
from siftlens.data import ImageRef
from siftlens.engine.protocol import Done, Item, Work
from siftlens.keypoints import KeypointCache, Keypoints, become_worker
from siftlens.patchmaps import Prepared, PrepareSettings, Quarantined, prepare_images
from siftlens.patchmaps.prepare import measured, prepare

_CHUNK = 32  # images of a task, where there is no work that says
_AHEAD = 2  # chunks under way per process
_RETRIES = 1  # by Ray where a process died; then the chunk is taken for the cause

Found = list[tuple[Prepared | Quarantined, bool]]  # an image, and whether its keypoints are to be remembered
Fresh = list[tuple[str, Keypoints]]  # content and keypoints


class RayEngine:
    """The engine on the cluster that this process is connected to.

    Args:
        workers: processes that do the work; None for one per GPU, or one per two cores.
        gpu: each of them needs a GPU.

    Raises:
        InputError: the cluster has too few GPUs.
    """

    name = "ray"

    def __init__(self, workers: int | None, *, gpu: bool):
        there = ray.cluster_resources()
        self._cores, gpus = max(1, int(there.get("CPU", 1))), int(there.get("GPU", 0))
        if gpu and gpus < (workers or 1):
            raise InputError(
                f"the cluster has {gpus} GPUs, and {workers or 1} are needed; lower --workers, or use the CPU"
            )
        self._workers = workers or (gpus if gpu else max(1, self._cores // 2))
        self._gpus = 1 if gpu else 0

    def prepare(
        self,
        refs: Iterable[ImageRef],
        settings: PrepareSettings,
        cache: KeypointCache | None,
        take: Callable[[Prepared], Done],
    ) -> Generator[Done | Quarantined]:
        """See `Engine.prepare`."""
        submit = _task(_take, _put(settings), cache, _put(take))
        for taken, fresh in _in_order(_chunks(refs, _CHUNK), _AHEAD * self._cores, submit, _images):
            _remember(fresh, settings, cache)
            yield from taken

    def work(
        self,
        refs: Iterable[ImageRef],
        settings: PrepareSettings,
        cache: KeypointCache | None,
        work: Work[Done],
        size: int,
    ) -> Generator[Done]:
        """See `Engine.work`."""
        make_ready = _task(_prepare, _put(settings), cache)
        with self._actors(_OnFound(work)) as actors:

            def submit(chunk: Sequence[ImageRef], alone: bool) -> ObjectRef:
                return actors.submit(make_ready(chunk, alone))

            window = _AHEAD * (self._cores + self._workers)
            for done, fresh in _in_order(_chunks(refs, size), window, submit, _images):
                _remember(fresh, settings, cache)
                yield done

    @contextmanager
    def hire(self, work: Callable[[Item], Done]) -> Iterator[Callable[[Iterable[Item]], Iterator[Done]]]:
        """See `Engine.hire`."""
        with self._actors(work) as actors:

            def each(items: Iterable[Item]) -> Iterator[Done]:
                return _in_order(
                    iter(items),
                    _AHEAD * self._workers,
                    lambda item, _: actors.submit(item),
                    lambda _: "a piece of work",
                )

            yield each

    @contextmanager
    def _actors(self, work: Callable[[Any], object]) -> Iterator["_Actors"]:
        # Without a core of their own: tasks give way by waiting for their turn, actors by having nothing to do.
        threads = max(1, self._cores // self._workers)
        kind = ray.remote(_Worker).options(
            num_cpus=0,
            num_gpus=self._gpus,
            max_restarts=-1,
            max_task_retries=_RETRIES,
            scheduling_strategy="SPREAD",
        )
        put = _put(work)
        actors = [kind.remote(threads) for _ in range(self._workers)]
        try:
            yield _Actors(actors, put)
        finally:
            for actor in actors:
                ray.kill(actor)


class _Actors:
    """The processes that work, of which the next item goes to the one with the least to do."""

    def __init__(self, actors: Sequence[Any], work: ObjectRef):
        self._work = [work]  # in a list, so that Ray hands on the reference and not a copy with each item
        self._queues: list[tuple[Any, list[ObjectRef]]] = [(actor, []) for actor in actors]

    def submit(self, item: object) -> ObjectRef:
        for _, queue in self._queues:
            if queue:
                queue[:] = ray.wait(queue, num_returns=len(queue), timeout=0, fetch_local=False)[1]
        actor, queue = min(self._queues, key=lambda pair: len(pair[1]))
        result = actor.do.remote(self._work, item)
        queue.append(result)
        return result


class _Worker(Generic[Item, Done]):
    """A process that works, with its own copy of the work, which it fetches again when it was replaced."""

    def __init__(self, threads: int):
        self._threads = threads
        self._work: Callable[[Item], Done] | None = None
        become_worker()

    def do(self, work: list[ObjectRef], item: Item) -> Done:
        if self._work is None:
            self._work = ray.get(work[0])
            if torch := sys.modules.get("torch"):  # brought by the work
                torch.set_num_threads(self._threads)
        return self._work(item)


@dataclass(frozen=True)
class _OnFound(Generic[Done]):
    """Work on images that a task made ready; hands on their keypoints too."""

    work: Work[Done]

    def __call__(self, found: Found) -> tuple[Done, Fresh]:
        return self.work([image for image, _ in found]), _fresh(found)


def _task(
    function: Callable[..., Any], settings: ObjectRef, cache: KeypointCache | None, *more: ObjectRef
) -> Callable[[Sequence[ImageRef], bool], ObjectRef]:
    """How a chunk is submitted to be made ready: as a task, whose process Ray replaces when it dies."""
    task = ray.remote(function).options(num_cpus=1, max_retries=_RETRIES)
    path = cache.path if cache else None
    return lambda chunk, alone: task.remote([ref.fetched() for ref in chunk], settings, path, alone, *more)


def _take(
    refs: Sequence[ImageRef],
    settings: PrepareSettings,
    cache: Path | None,
    alone: bool,
    take: Callable[[Prepared], Done],
) -> tuple[list[Done | Quarantined], Fresh]:
    found = _prepare(refs, settings, cache, alone)
    return [image if isinstance(image, Quarantined) else take(image) for image, _ in found], _fresh(found)


def _prepare(refs: Sequence[ImageRef], settings: PrepareSettings, cache: Path | None, alone: bool) -> Found:
    """Make a chunk ready.

    Args:
        refs: the images.
        settings: how.
        cache: of keypoints, which is read where this machine sees it.
        alone: in a process beside this one, so that an image which kills it is found and costs no other.
    """
    become_worker()
    if alone:
        images = prepare_images(refs, settings, workers=1, cache=None)
        return [(image, cache is not None) for image in images]
    known = _opened(cache) if cache else None
    measure, found = settings.measure, []
    for ref in refs:
        image, fresh = prepare(ref, settings, known)
        if isinstance(image, Prepared) and not isinstance(measure, str):
            image = measured(image, settings.grid, measure)
        found.append((image, fresh and cache is not None))
    return found


@once
def _opened(cache: Path) -> KeypointCache:
    return KeypointCache(cache, read_only=True)


def _fresh(found: Found) -> Fresh:
    return [(image.content, image.keypoints) for image, fresh in found if fresh and isinstance(image, Prepared)]


def _remember(fresh: Fresh, settings: PrepareSettings, cache: KeypointCache | None) -> None:
    if cache is not None:
        for content, keypoints in fresh:
            cache.put(content, settings.sift, keypoints)


def _chunks(refs: Iterable[ImageRef], size: int) -> Iterator[list[ImageRef]]:
    refs = iter(refs)
    while chunk := list(islice(refs, size)):
        yield chunk


def _images(chunk: Sequence[ImageRef]) -> str:
    return f"the images from {chunk[0].identity} on"


def _in_order(
    items: Iterator[Item], window: int, submit: Callable[[Item, bool], ObjectRef], named: Callable[[Item], str]
) -> Generator[Any]:
    """Submit items, a bounded number ahead, and hand on their results in the order of the items.

    What still fails when Ray has tried again is submitted once more, alone.

    Raises:
        SiftlensError: it failed even so; or what the work itself raised.
    """
    under_way: deque[tuple[Item, ObjectRef]] = deque()
    try:
        while True:
            under_way.extend((item, submit(item, False)) for item in islice(items, window - len(under_way)))
            if not under_way:
                return
            item, result = under_way[0]
            try:
                done = _result(result)
            except RayError:
                try:
                    done = _result(submit(item, True))
                except RayError as error:
                    first = next(iter(str(error).splitlines()), type(error).__name__)
                    raise SiftlensError(
                        f"the cluster lost {named(item)}, again and again ({first}); free some memory there, or lower "
                        "--batch-size"
                    ) from error
            under_way.popleft()
            yield done
    finally:
        for _, result in under_way:
            ray.cancel(result, force=False)


def _result(result: ObjectRef) -> Any:
    """What a task returned, or raises what it raised, as if it had been called here."""
    try:
        return ray.get(result)
    except RayTaskError as error:
        cause: Any = error
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        raise cause from None


def _put(value: object) -> ObjectRef:
    """Something for every process of the cluster, with the user's own code where the cluster cannot import it.

    Raises:
        InputError: it cannot be pickled.
    """
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) and name != "__main__" and not _importable(name.partition(".")[0]):
            ray.cloudpickle.register_pickle_by_value(module)
    try:
        return ray.put(value)
    except (TypeError, PicklingError) as error:
        cause = error.__cause__ or error  # Ray tells at length what it looked into
        raise InputError(
            f"the model, or the collection of images, cannot be copied to other processes ({cause}); load the model by "
            "its spec, put the images in a list or in files, or use --engine local (engine='local')"
        ) from error


@once
def _importable(name: str) -> bool:
    return PathFinder.find_spec(name) is not None
