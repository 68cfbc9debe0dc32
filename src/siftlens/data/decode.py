"""One image, decoded to the pixels that the model sees, or the reason why not."""

import os
import re
import stat
import threading
import warnings
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from siftlens.core import InputError, one_line
from siftlens.data.parquet import Row
from siftlens.data.pixels import to_rgb
from siftlens.data.preprocessing import Preprocessing
from siftlens.data.remote import OutOfReachError, Remote
from siftlens.data.shards import Member, Stored, opened
from siftlens.data.sources import ImageRef, Item

# Without EPS and PDF, which Pillow hands to another program.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
SUFFIXES = (  # of files that are looked for by name; images in folders are told by their content
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pbm"),
    ".tga",
)
MIN_SIDE = 8  # px; less is an icon or a tracking pixel, enlarged to a blur
MAX_ASPECT = 32  # of which a centre crop shows less than 4 %


class Unreadable(Exception):  # noqa: N818 (a verdict about one file, not a failure of ours)
    """An image cannot be used; the message is the reason, in one line."""


def decode(ref: ImageRef, preprocessing: Preprocessing) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels that the model sees of one image.

    The first frame of an animation; turned as EXIF says; 16 bits scaled to 8; transparency on white.

    Args:
        ref: the image.
        preprocessing: resize and crop.

    Raises:
        Unreadable: the file is missing, damaged, empty, no image, or its size makes no sense.
        InputError: not the file is missing, but all that the images lie in: the folder, the tar or Parquet file; an
            address does not answer.
    """
    return decode_with_size(ref, preprocessing)[0]


def decode_with_size(
    ref: ImageRef, preprocessing: Preprocessing
) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[int, int]]:
    """As `decode`, and the width and height of the image as it is shown, before resizing, px."""
    if isinstance(ref.source, Stored):
        try:
            return _decode_file(ref.source, preprocessing)
        except Unreadable as error:
            cause = error.__cause__
            if isinstance(cause, FileNotFoundError | PermissionError) or (isinstance(cause, OSError) and cause.errno):
                _expect_place(ref)
            raise
    pixels = ref.source.pixels() if isinstance(ref.source, Item) else ref.source
    image = Image.fromarray(pixels)
    _check_size(*image.size)
    return preprocessing.apply(image), image.size


def _decode_file(
    source: Stored, preprocessing: Preprocessing
) -> tuple[UInt8[np.ndarray, "height width 3"], tuple[int, int]]:
    try:
        _check_file(source)
        with _PILLOW_QUIET, opened(source) as file:
            image = Image.open(file, formats=FORMATS)
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise _bomb()
            _check_size(*image.size)
            turned = to_rgb(ImageOps.exif_transpose(image))
            return preprocessing.apply(turned), turned.size
    except (Unreadable, OutOfReachError):
        raise
    except InputError as error:
        raise Unreadable(str(error)) from error
    except UnidentifiedImageError:
        raise Unreadable(f"not an image of a kind that is read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise _bomb() from None
    except MemoryError:
        raise Unreadable("too large for the memory that is left") from None
    except OSError as error:
        raise Unreadable(os.strerror(error.errno).lower() if error.errno else one_line(error)) from error
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead them into.
        raise Unreadable(f"damaged: {type(error).__name__}: {one_line(error)}") from error


def expect_folder(folder: Path, of: str) -> None:
    """Tell files that are gone from a share that is: a share that is unmounted may leave an empty folder behind.

    Args:
        folder: that held files before.
        of: whose, in words.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    reason = ""
    try:
        with os.scandir(folder) as entries:
            reason = "" if next(entries, None) else "it is empty now"
    except OSError as error:
        reason = _said(error)
    _refuse(f"the folder of the {of}, {folder},", reason)


def _expect_place(ref: ImageRef) -> None:
    """Tell a file that is gone from a place that is: all of its images would be set aside, one by one."""
    source, names = ref.source, len(PurePosixPath(ref.identity).parts)
    if isinstance(source, Path):
        folders = source.parents
        expect_folder(folders[min(names, len(folders)) - 1], "images")
    elif isinstance(source, Remote):
        folder = source.above(names)
        _refuse(f"the folder of the images, {folder},", "" if folder.is_there() else "it is not there")
    elif isinstance(source, Member | Row):
        held_in, reason = source.shard if isinstance(source, Member) else source.file, ""
        try:
            if isinstance(held_in, Path):
                held_in.open("rb").close()
            elif not held_in.is_there():
                reason = "it is not there"
        except OSError as error:
            reason = _said(error)
        _refuse(f"the file of the images, {held_in},", reason)


def _said(error: OSError) -> str:
    return one_line(error.strerror).lower()


def _refuse(what: str, reason: str) -> None:
    if reason:
        raise InputError(
            f"{what} cannot be read any more ({reason}); see that it is there again (a share: that it is mounted), and "
            "run again"
        )


def _check_file(source: Stored) -> None:
    if isinstance(source, Path):
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a file")
        size = status.st_size
    else:
        size = len(source.read()) if isinstance(source, Row) else source.size
    if not size:
        raise Unreadable("empty file (0 bytes)")


def _bomb() -> Unreadable:
    return Unreadable(f"more than {Image.MAX_IMAGE_PIXELS} pixels: a decompression bomb, or to be scaled down first")


class _PillowQuiet:
    """Pillow's warnings are not shown while any thread decodes: which are shown is the whole process's affair.

    One filter comes and goes. `warnings.catch_warnings` would put back all filters as they were, those of other threads
    with them, and `warnings.filterwarnings` has every warning that was shown once shown again.
    """

    _FILTER = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters().insert(0, self._FILTER)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                with suppress(ValueError):  # another thread has put back its own
                    self._filters().remove(self._FILTER)

    @staticmethod
    def _filters() -> list[Any]:
        return cast("list[Any]", warnings.filters)


_PILLOW_QUIET = _PillowQuiet()


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise Unreadable(f"{width}x{height} px: too small, expected at least {MIN_SIDE} px on the shorter side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Unreadable(f"{width}x{height} px: too elongated, expected at most {MAX_ASPECT}:1")
