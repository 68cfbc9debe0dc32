"""The hidden folder from which an interrupted run goes on: whose it is, and whether it may."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from siftlens.core import InputError
from siftlens.data.atomic import discard_unfinished, disk_errors
from siftlens.data.records import PROGRESS, STATE

_HASHED = {"names": "images of other names", "file_sizes": "images whose files had other sizes"}


def has_progress(folder: Path) -> bool:
    """Whether an interrupted run can go on in a folder of results."""
    return (folder / PROGRESS / STATE).exists()


def discard_progress(folder: Path) -> None:
    """Remove what an interrupted run would go on from, and files that a killed one left half written."""
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)
    discard_unfinished(folder)


def _locked(folder: Path) -> FileLock:
    """Hold a folder of results until the lock is released or this process ends, however it ends."""
    lock = FileLock(folder / PROGRESS / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"another run is writing to {folder}; wait for it to end, or choose another folder") from error
    return lock


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder of results while inside; where nothing was begun, nothing is left.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    place = folder / PROGRESS
    with disk_errors(place):
        made = not folder.exists()
        place.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
    try:
        yield
    finally:
        if not has_progress(folder):
            shutil.rmtree(place, ignore_errors=True)
        lock.release()  # nobody else may have begun in what is removed
        if made:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def expect_asked(folder: Path, *, resume: bool) -> None:
    """Refuse a folder with an interrupted run that nobody asked to go on with.

    Raises:
        InputError: it is one.
    """
    if has_progress(folder) and not resume:
        raise InputError(
            f"{folder} holds an interrupted run; add --resume (resume=True) to go on with it, or choose another folder"
        )


def expect_same(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a run was begun with.

    Args:
        folder: of the results.
        begun: the settings that were recorded.
        now: those of this run (JSON values).

    Raises:
        InputError: they differ.
    """
    now = json.loads(json.dumps(now))
    for name in {**now, **begun}:
        if now.get(name) != begun.get(name):
            was = _HASHED.get(name, f"{name} {begun.get(name)!r}, now it is {now.get(name)!r}")
            raise InputError(f"{folder} was begun with {was}; resume with the same, or choose another folder")
