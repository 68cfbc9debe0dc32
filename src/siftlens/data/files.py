"""Image files: a folder with everything below it, a glob, a text file of paths, or tar and Parquet files of images."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from siftlens.core import InputError, one_line
from siftlens.data.parquet import is_parquet, rows_in
from siftlens.data.records import is_own
from siftlens.data.remote import Remote, find, is_address, relative
from siftlens.data.shards import images_in, is_shard
from siftlens.data.sources import ImageRef, ImageSource, MemorySource, spread

_KINDS = "a folder, a glob such as 'photos/*.jpg', a tar or Parquet file, or a text file with one path per line"


class FileSource:
    """Files, sorted by name; a tar or Parquet file stands for the images in it.

    Args:
        files: each with its name below what was asked for.
        limit: at most so many, spread evenly.

    Raises:
        InputError: a tar or Parquet file cannot be read.
    """

    def __init__(self, files: Iterable[tuple[Path | Remote, PurePath]], limit: int | None = None):
        files = list(files)
        shards = {name.with_suffix("") for file, name in files if is_shard(file)}
        refs = sorted(
            (
                ref
                for file, name in files
                if not (is_parquet(file) and name.with_suffix("") in shards)  # what img2dataset says of the shard
                for ref in _refs(file, name)
            ),
            key=lambda ref: ref.identity,
        )
        self._refs = [refs[index] for index in spread(len(refs), limit)]

    def __len__(self) -> int:
        return len(self._refs)

    def __iter__(self) -> Iterator[ImageRef]:
        return iter(self._refs)


def open_images(images: Any, *, limit: int | None = None) -> ImageSource:
    """Images to go through, any number of times. Nothing is decoded yet.

    Args:
        images: a folder (every file below it, except hidden ones and what siftlens wrote), a glob, a tar or Parquet
            file, each of these at an address too (`s3://...`); a text file with one path per line (relative to it); or
            a collection of PIL images, of arrays of uint8, or of floats in [0, 1].
        limit: at most so many images, spread evenly.

    Returns:
        Files are named by their path below the folder, and grouped by the first folder of that; so are images in tar
        files, below the tar file, where WebDataset's `.cls` tells no other group. Rows of a Parquet file are named by
        their number below it, and grouped by their label. Images in memory are named by the hash of their pixels.

    Raises:
        InputError: nothing is there, or it is of another kind, or can be gone through only once.
    """
    if is_address(images):
        files, below = find(images)
        return _some(FileSource(((file, relative(file, below)) for file in files), limit), images)
    if not isinstance(images, str | os.PathLike):
        return MemorySource(images, limit)
    path = Path(images).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a name too long
        raise InputError(f"no images at {path}: {one_line(error.strerror).lower()}; expected {_KINDS}") from error
    if is_folder:
        paths, base = _below(path), path
    elif is_file and (is_shard(path) or is_parquet(path)):
        paths, base = [path], path.parent
    elif is_file:
        paths = _listed(path)
        base = Path(os.path.commonpath([p.parent for p in paths])) if paths else path
    elif glob.has_magic(str(path)):
        base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        matches = base.glob(str(path.relative_to(base)))
        paths = list(dict.fromkeys(_whole(found) for found in matches if not found.is_dir()))
        base = base if all(found.is_relative_to(base) for found in paths) else Path(os.path.commonpath(paths)).parent
        if not paths:
            raise InputError(f"no images at {path}: no file matches; expected {_KINDS}")
    else:
        raise InputError(f"no images at {path}: nothing is there; expected {_KINDS}")
    return _some(FileSource(((found, found.relative_to(base)) for found in paths), limit), path)


def _some(source: FileSource, place: object) -> FileSource:
    if not len(source):
        raise InputError(f"no images at {place}: it holds no files; expected {_KINDS}")
    return source


def _below(folder: Path) -> list[Path]:
    """Every file below a folder that is not hidden, nor a result of siftlens' own; links are followed, once."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for name, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = Path(name).stat()
        if (status.st_dev, status.st_ino) in seen or (Path(name) != folder and is_own(Path(name))):
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(child for child in folders if not child.startswith("."))
        found += (Path(name, file) for file in files if not file.startswith("."))
    return found


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read the folder {error.filename}: {error.strerror}; check its permissions") from error


def _listed(path: Path) -> list[Path]:
    """The paths in a text file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as a list of images; expected {_KINDS}") from error
    if "\0" in text:
        raise InputError(f"cannot read {path} as a list of images; expected {_KINDS}")
    lines = (line.strip() for line in text.split("\n"))  # not at the rarer signs, which a name may hold
    return list(dict.fromkeys(_whole(path.parent.absolute() / line) for line in lines if line))


def _whole(path: Path) -> Path:
    """A path in one spelling: the same file is listed once, and its name holds no dots."""
    if ".." not in path.parts and path.root != "//":
        return path
    flat = Path("/", *Path(os.path.normpath(path)).parts[1:]) if path.root == "//" else Path(os.path.normpath(path))
    try:
        return flat if flat.parent.samefile(path.parent) else path.parent.resolve() / path.name
    except (OSError, RuntimeError):  # nothing is there, or a link leads to itself
        return flat


def _refs(file: Path | Remote, name: PurePath) -> Iterator[ImageRef]:
    """The image that a file is, or those in it."""
    held = images_in if is_shard(file) else rows_in if is_parquet(file) else None
    if held is not None and not _is_special(file):
        for within, group, place in held(file):
            yield ImageRef(_identity(f"{name.as_posix()}/{within}"), _identity(group), place)
        return
    identity = _identity(name.as_posix())
    yield ImageRef(identity, identity.split("/")[0] if len(name.parts) > 1 else "", file)


def _is_special(file: Path | Remote) -> bool:
    """Whether it is a pipe, a device or the like: reading it might never end."""
    try:
        return isinstance(file, Path) and file.exists() and not file.is_file()
    except OSError:  # a name too long, which opening it tells
        return False


def _identity(name: str) -> str:
    """Names need not be UTF-8; what is written to tables must be."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
