"""Results of worker processes, their large arrays in shared memory: a pipe hands them on in pieces, copy by copy."""

import mmap
import os
import pickle
import shutil
import tempfile
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from loky.backend import resource_tracker

# Of Linux; elsewhere, and where it is full, the pipe takes everything. The folders made there are this user's alone.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_LARGE = 2**16  # bytes
_numbers = count()


@dataclass(frozen=True)
class Parcel:
    """A result on its way.

    Attributes:
        pickled: the result without its large arrays.
        files: these, in order.
    """

    pickled: bytes
    files: tuple[Path, ...]


class Shelf:
    """A folder in shared memory for arrays on their way; without shared memory, none.

    There from `open` on; gone with `clear`, or when this process has died, however it did.

    Attributes:
        folder: where it is.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None

    def open(self) -> None:
        """Make the folder, where there is room for one."""
        with suppress(OSError):
            self.folder = Path(tempfile.mkdtemp(prefix="siftlens-", dir=_SHARED_MEMORY))
            resource_tracker.register(str(self.folder), "folder")

    def keep(self, files: AbstractSet[Path]) -> None:
        """Take away everything else: what processes that died were writing."""
        if self.folder is not None:
            for file in set(self.folder.glob("*")) - files:
                file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Take the folder away, and what nobody asked for."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            resource_tracker.unregister(str(self.folder), "folder")
            self.folder = None


def pack(result: object, folder: Path | None) -> Parcel:
    """Put a result's large arrays into files of a shelf; in the pipe where there is none, or no room on it."""
    files: list[Path] = []

    def put(buffer: pickle.PickleBuffer) -> bool:
        """Whether the array stays in the pickle."""
        array = buffer.raw()
        if folder is None or array.nbytes < _LARGE:
            return True
        path = folder / f"{os.getpid()}-{next(_numbers)}"
        try:
            path.write_bytes(array)
        except OSError:
            path.unlink(missing_ok=True)
            return True
        files.append(path)
        return False

    return Parcel(pickle.dumps(result, protocol=5, buffer_callback=put), tuple(files))


def unpack(parcel: Parcel) -> Any:
    """The result; its large arrays are read where they lie, and their memory is free once they are."""
    # From our own worker process.
    return pickle.loads(parcel.pickled, buffers=[_mapped(path) for path in parcel.files])  # noqa: S301


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        whole = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    path.unlink()
    return whole
