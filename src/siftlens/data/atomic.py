"""Files that are there whole or not at all, and disks that say what is wrong with them."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from siftlens.core import InputError

_UNFINISHED = ".*.tmp"  # what a killed process leaves of a file
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Say in one line what is wrong where something cannot be written.

    Args:
        place: the file or folder that is written.

    Raises:
        InputError: the disk is full or read-only, or the place is not what it should be.
    """
    try:
        str(place).encode()
        yield
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {place}: its name is not UTF-8; choose another folder") from error
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number in _FULL:
            advice = "the disk is full; free some space or choose another folder"
        elif number in _FORBIDDEN:
            advice = "writing is not permitted; choose a folder that you can write to"
        elif number in (errno.ENOTDIR, errno.EEXIST):
            advice = "a file stands where a folder is needed; choose another folder"
        elif number is None:
            # Not from the system: a library's own complaint about what it was given.
            raise
        else:
            advice = f"{os.strerror(number)}; choose another folder"
        raise InputError(f"cannot write {place}: {advice}") from error


def _errno(error: OSError | SafetensorError) -> int | None:
    """Which error of the system it is; safetensors tells in words only. None for a library's own complaint."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when all went well.

    Args:
        path: the file to make or replace; its folder is made where it is missing.

    Yields:
        An empty file beside it.

    Raises:
        InputError: the disk is full or read-only.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _keep_name(path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


def _keep_name(path: Path) -> None:
    """Have a file's name on the disk, too, in case the power goes; not every file system and system can."""
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def discard_unfinished(folder: Path) -> None:
    """Remove the files of a folder that a killed process left half written."""
    for path in folder.glob(_UNFINISHED):
        path.unlink(missing_ok=True)


def reserve(path: Path, size: int) -> None:
    """Have a file's bytes set aside on the disk, where a failure in the middle of writing would be worse than an error.

    Args:
        path: an existing file; what it holds stays.
        size: bytes.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def write_page(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all; bytes of file names that are none are written out.

    Raises:
        InputError: the disk is full or read-only.
    """
    with atomic_path(path) as target:
        target.write_text(text, encoding="utf-8", errors="backslashreplace")


def _umask() -> int:
    """The mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
