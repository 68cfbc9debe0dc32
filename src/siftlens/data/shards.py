"""Images in tar files, as WebDataset keeps them: read where they lie, nothing is unpacked."""

import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import SEEK_END, BufferedReader, BytesIO
from pathlib import Path, PurePosixPath

from siftlens.core import InputError, one_line
from siftlens.data.parquet import Row
from siftlens.data.remote import Remote

_IMAGES = {"avif", "bmp", "gif", "jp2", "jpeg", "jpg", "pgm", "png", "ppm", "tga", "tif", "tiff", "webp"}
_CLASS = "cls"
_LONGEST_CLASS = 1024  # bytes; a sparse file of a terabyte takes none in an archive
_DOT = re.compile(r"\.(?!\d)")


@dataclass(frozen=True)
class Member:
    """A file within a tar file.

    Attributes:
        shard: the tar file.
        start: its first byte there.
        size: bytes.
    """

    shard: Path | Remote
    start: int
    size: int


def is_shard(path: Path | Remote) -> bool:
    """Whether a file is taken as a tar file; compressed ones cannot be read at a place within."""
    return path.suffix.lower() == ".tar"


Stored = Path | Remote | Member | Row


def opened(source: Stored) -> BufferedReader | BytesIO:
    """A file, wherever it is kept, to be read.

    Raises:
        OSError: it cannot be.
    """
    if isinstance(source, Path):
        return source.open("rb")
    if isinstance(source, Row):
        return BytesIO(source.read())
    if isinstance(source, Remote):
        return BytesIO(source.part(0, source.size))
    if isinstance(source.shard, Remote):
        return BytesIO(source.shard.part(source.start, source.size))
    with source.shard.open("rb") as file:
        file.seek(source.start)
        return BytesIO(file.read(source.size))


def stored_bytes(source: Stored) -> int:
    """How many bytes a file has, without reading it: 0 where that is not known, or it is gone."""
    if isinstance(source, Path):
        with suppress(OSError):
            return source.stat().st_size
    return getattr(source, "size", 0)


def images_in(shard: Path | Remote) -> Iterator[tuple[str, str, Member]]:
    """Name, class and place of every image in a tar file.

    As in WebDataset, a sample's files share their name up to the first dot; what follows it tells the image
    (`0001.jpg`) from its class (`0001.cls`) and from what is not asked for here (`0001.json`, `0001.mask.png`). A dot
    before a digit is part of the name, as in `photo 2020.01.05.jpg`. Without a `.cls`, the class is the first folder in
    the image's name, or "".

    Raises:
        InputError: it is no tar file, or cut off.
    """
    images: dict[PurePosixPath, tuple[str, Member]] = {}  # what is stored again takes the place of what was before
    classes: dict[str, str] = {}
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for found in archive:
                path = PurePosixPath(found.name)
                if not found.isreg() or path.name.startswith("."):  # the latter are hidden
                    continue
                key, *rest = _DOT.split(path.name, maxsplit=1)
                sample, ending = str(path.with_name(key)), "".join(rest)
                if ending.lower() in _IMAGES:
                    images[path] = sample, Member(shard, found.offset_data, found.size)
                elif ending == _CLASS:
                    classes[sample] = _text(archive, found)
            if archive.offset >= file.seek(0, SEEK_END):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"cannot read {shard} as a tar file ({one_line(error)}); fetch or write it again") from error
    for path, (sample, member) in images.items():
        folder = path.parts[0] if len(path.parts) > 1 else ""
        yield str(path), classes.get(sample, folder), member


def _text(archive: tarfile.TarFile, found: tarfile.TarInfo) -> str:
    file = archive.extractfile(found)
    assert file is not None  # of a regular file
    return file.read(_LONGEST_CLASS).decode("utf-8", "backslashreplace").strip()
