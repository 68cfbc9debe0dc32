"""Work in other processes: in order, with bounded memory, surviving a process that dies."""

import gc
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from loky import ProcessPoolExecutor

from siftlens.core import SiftlensError, one_line
from siftlens.patchmaps.parcels import Parcel, Shelf, pack, unpack

Task = TypeVar("Task")
Done = TypeVar("Done")
_DEATHS = 8  # in a row: it is not the images
_WATCH = 1.0  # seconds


@dataclass(frozen=True)
class Crashed(Generic[Task]):
    """A task whose process died.

    Attributes:
        task: the task.
    """

    task: Task


def in_order(
    work: Callable[[Task], Done],
    tasks: Iterable[Task],
    *,
    workers: int,
    window: int,
    initializer: Callable[..., None],
    initargs: tuple[object, ...],
) -> Generator[Done | Crashed[Task]]:
    """Do tasks in worker processes, and hand on the results in the order of the tasks.

    When a process dies, the tasks that were under way are done again one by one, so that only the one to blame is lost.
    Closing the iterator kills the processes.

    Args:
        work: what to do; importable by name.
        tasks: taken only `window` ahead of the results, which bounds memory.
        workers: number of processes, at least 1.
        window: tasks under way or waiting for their turn.
        initializer: called once in every process.
        initargs: its arguments.

    Raises:
        SiftlensError: processes keep dying.
    """
    tasks = iter(tasks)
    deaths = 0
    pool = _Pool(work, workers, initializer, initargs)
    under_way: deque[tuple[Task, _Pending | None]] = deque()  # None: lost with a process, to be done again alone
    try:
        pool.open()
        while True:
            if all(pending is not None for _, pending in under_way):
                under_way.extend((task, pool.submit(task)) for task in islice(tasks, window - len(under_way)))
            if not under_way:
                return
            task, pending = under_way.popleft()
            try:
                parcel = (pool.submit(task) if pending is None else pending).result()
            except BrokenProcessPool as error:
                deaths += 1
                if deaths == _DEATHS:
                    raise SiftlensError(
                        f"{deaths} worker processes died one after the other; free some memory, or work without them "
                        "(workers=0)"
                    ) from error
                pool.restart(pending.future for _, pending in under_way if pending)
                if pending is None:
                    yield Crashed(task)
                else:
                    all_pending = [(task, pending), *under_way]
                    under_way = deque((task, None if _lost(pending) else pending) for task, pending in all_pending)
            else:
                deaths = 0
                try:
                    result = unpack(parcel)
                except FileNotFoundError:  # somebody cleaned shared memory up: a logout may
                    under_way.appendleft((task, None))
                    continue
                yield result
    finally:
        pool.kill()


class _Pending:
    """A task under way."""

    def __init__(self, future: "Future[Parcel]"):
        self.future = future
        self._done: SimpleQueue[object] = SimpleQueue()
        future.add_done_callback(self._done.put)

    def result(self) -> Parcel:
        """Wait for it; once only.

        A future's own wait takes its lock in Python code: Ctrl-C there could leave it locked, and whoever hands the
        result over, and so the end of all processes, would wait forever. A queue's is the interpreter's own.
        """
        self._done.get()
        return self.future.result()


def _lost(pending: _Pending | None) -> bool:
    """Whether the process died before the task was done; asked once the pool is dead."""
    return pending is None or isinstance(pending.future.exception(), BrokenProcessPool)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back, here for a moment and for good in the processes started meanwhile: this one ends them."""
    with _held_back(), _blocked_for_children():
        yield


@contextmanager
def _held_back() -> Iterator[None]:
    """Ctrl-C is heard at the end: blocking the signal alone would leave it to another thread, and its error to us."""
    elsewhere = threading.current_thread() is not threading.main_thread()  # Ctrl-C is never raised there
    if elsewhere or signal.getsignal(signal.SIGINT) is None:  # or is not Python's
        yield
        return
    heard: list[None] = []  # no event, whose lock another Ctrl-C could find taken
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(None))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _blocked_for_children() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it, Python up to 3.12 would unblock Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int, initializer: Callable[..., None], *initargs: object) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    initializer(*initargs)
    gc.freeze()  # loky may collect garbage once a second: what is loaded by now need not be gone through every time


def _end_with(parent: int) -> None:
    """End this process when the one that it works for is killed: it would wait for tasks forever."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def _do(work: Callable[[Task], object], task: Task, folder: Path | None) -> Parcel:
    return pack(work(task), folder)


class _Pool(Generic[Task, Done]):
    """Worker processes, there from `open` to `kill`, that can be had anew."""

    def __init__(
        self,
        work: Callable[[Task], Done],
        workers: int,
        initializer: Callable[..., None],
        initargs: tuple[object, ...],
    ):
        self._work = work
        begin = (os.getpid(), initializer, *initargs)
        self._new: Any = partial(ProcessPoolExecutor, workers, initializer=_begin, initargs=begin)
        self._executor: Any = None
        self._shelf = Shelf()

    def open(self) -> None:
        """Ready the processes. Ctrl-C meanwhile is raised here, and leaves something to `kill`."""
        with _without_interrupts():  # a lock half made would be complained about at the end
            self._executor = self._anew()
            self._shelf.open()

    def _anew(self) -> Any:
        try:
            return self._new()
        except OSError as error:
            raise SiftlensError(
                f"worker processes cannot be started ({one_line(error.strerror).lower()}): their locks lie in shared "
                "memory (/dev/shm on Linux); see that it can be written to and is not full, or work without them "
                "(workers=0)"
            ) from error

    def submit(self, task: Task) -> _Pending:
        with _without_interrupts():
            try:
                return _Pending(self._executor.submit(_do, self._work, task, self._shelf.folder))
            except BrokenProcessPool as error:  # it died since the last submission; said where results are awaited
                future: Future[Parcel] = Future()
                future.set_exception(error)
                return _Pending(future)

    def restart(self, under_way: Iterable["Future[Parcel]"]) -> None:
        """Kill the processes and start others; of what these had made, the results that wait for their turn stay."""
        self._executor.shutdown(wait=True, kill_workers=True)
        done = (future for future in under_way if future.exception() is None)
        self._shelf.keep({file for future in done for file in future.result().files})
        with _without_interrupts():
            self._executor = self._anew()

    def kill(self) -> None:
        try:
            if self._executor is not None:
                self._executor.shutdown(wait=True, kill_workers=True)
        finally:  # of a second Ctrl-C
            self._shelf.clear()
