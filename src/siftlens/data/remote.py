"""Files at an address: `s3://`, `gs://`, `hf://`, and whatever else fsspec opens."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from siftlens.core import InputError, one_line

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


class OutOfReachError(InputError):
    """The place of the images does not answer: all of them would be set aside, one by one."""


@dataclass(frozen=True)
class Remote:
    """A file at an address. Opens as a `Path` does.

    Attributes:
        address: with its protocol.
        size: bytes.
    """

    address: str
    size: int

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return PurePosixPath(self.address).name

    @property
    def suffix(self) -> str:
        """Of the name, with its dot."""
        return PurePosixPath(self.address).suffix

    def open(self, mode: str = "rb") -> Any:
        """The file, to be read here and there: one of the many kinds that fsspec has.

        Raises:
            OSError: it cannot be opened.
        """
        system, path = _system(self.address)
        return system.open(path, mode)

    def part(self, start: int, size: int) -> bytes:
        """Some of its bytes, in one request.

        Raises:
            OSError: it is gone, or not ours to read.
            OutOfReachError: its place does not answer.
        """
        with within_reach(self):
            system, path = _system(self.address)
            found = bytes(system.cat_file(path, start=start, end=start + size))
        if len(found) != size:
            raise OSError(f"asked for {size} bytes of {self}, got {len(found)}: its server sends files as a whole only")
        return found

    def above(self, names: int) -> "Remote":
        """The folder so many names up."""
        return Remote(self.address.rsplit("/", names)[0], 0)

    def is_there(self) -> bool:
        """Whether there is such a file or folder now.

        Raises:
            OutOfReachError: its place does not answer, or not to us.
        """
        with within_reach(self):
            system, path = _system(self.address)
            system.invalidate_cache()
            try:
                return bool(system.exists(path))
            except PermissionError as error:
                raise RuntimeError(one_line(error)) from error

    def __str__(self) -> str:
        return self.address


@contextmanager
def within_reach(file: object) -> Iterator[None]:
    """Tell a file that is gone from a place that does not answer.

    Raises:
        OutOfReachError: that.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # Each protocol has a family of its own.
        raise OutOfReachError(
            f"cannot read {file}: {type(error).__name__}: {one_line(error)}; check the network and your credentials, "
            "and run again"
        ) from error


def is_address(images: object) -> bool:
    """Whether this names a protocol, as `s3://` does."""
    return isinstance(images, str) and "://" in images


def find(address: str) -> tuple[list[Remote], str]:
    """Files at an address: a file, a glob, or everything below a folder that is not hidden.

    Args:
        address: with its protocol.

    Returns:
        The files, and the address that their names are relative to.

    Raises:
        InputError: nothing is there, or it cannot be reached; a package is missing for this protocol.
    """
    if "::" in address:
        raise InputError(
            f"cannot read {address}: an archive within an address is not opened; unpack it, or make it a tar"
        )
    with _reaching(address):
        system, path = _system(address)
        if any(sign in path for sign in "*?[") and not system.exists(path):
            found = system.glob(path, detail=True)
            base = re.split(r"[*?[]", path)[0].rpartition("/")[0]
        elif system.isfile(path):
            found, base = {path: system.info(path)}, path.rpartition("/")[0]
        else:
            found, base = system.find(path, detail=True), path
        base = base.rstrip("/")
        files = [
            Remote(system.unstrip_protocol(name), int(system.size(name) if info["size"] is None else info["size"]))
            for name, info in found.items()
            if (info["type"] == "file" or (info["type"] != "directory" and system.isfile(name)))  # a link to one
            and not any(part.startswith(".") for part in _below(name, base).split("/"))
        ]
        return files, system.unstrip_protocol(base)


def relative(file: Remote, base: str) -> PurePosixPath:
    """The name of a file below a base."""
    return PurePosixPath(_below(file.address, base))


def _below(name: str, base: str) -> str:
    return name.removeprefix(base).lstrip("/")


def _system(address: str) -> tuple[Any, str]:
    import fsspec  # not at import: every worker process would

    # Not `url_to_fs`, which takes `::` in a file's name for a chain of addresses.
    kind = fsspec.get_filesystem_class(address.partition("://")[0])
    return kind(**kind._get_kwargs_from_urls(address)), kind._strip_protocol(address)


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    protocol = address.partition("://")[0]
    try:
        yield
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        how = f"pip install 'siftlens[{extra}]'" if extra else one_line(error)
        raise InputError(f"{protocol}:// needs another package: {how}") from error
    except ValueError as error:  # a protocol that nobody knows
        raise InputError(f"cannot read {address}: {one_line(error)}") from error
    except Exception as error:  # Each protocol has a family of its own.
        raise InputError(
            f"cannot read {address}: {type(error).__name__}: {one_line(error)}; check the address, the network and "
            "your credentials"
        ) from error
