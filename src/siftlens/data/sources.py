"""Images in a fixed order that can be gone through again: what every other part asks for."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from siftlens.core import InputError, is_whole
from siftlens.data.pixels import as_pixels, content_hash
from siftlens.data.shards import Stored, stored_bytes


@dataclass(frozen=True)
class Item:
    """An image that its collection hands out by index.

    Pickled alone where the collection holds its images, and with the collection where that makes or reads them.

    Attributes:
        collection: the images, by index.
        index: this one's place.
    """

    collection: Any
    index: int

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """Fetch the image.

        Raises:
            InputError: it is not an image.
        """
        return _pixels(self.collection[self.index], self.index)

    def __reduce__(self) -> tuple[type["Item"], tuple[Any, int]]:
        if isinstance(self.collection, list | tuple) or hasattr(self.collection, "__array__"):
            return Item, ({self.index: self.pixels()}, self.index)
        return Item, (self.collection, self.index)


@dataclass(frozen=True)
class ImageRef:
    """One image that has not been decoded yet.

    Attributes:
        identity: the path below the folder, with slashes; the hash of the pixels where there is no path.
        group: the first folder of that path, or "".
        source: the file, its place in a tar or Parquet file, the pixels, or where to fetch them.
    """

    identity: str
    group: str
    source: Stored | UInt8[np.ndarray, "height width 3"] | Item

    @property
    def stored_bytes(self) -> int:
        """Bytes of the file, without reading it; 0 for pixels in memory, whose hash is their identity."""
        return 0 if isinstance(self.source, Item | np.ndarray) else stored_bytes(self.source)

    def fetched(self) -> "ImageRef":
        """The same with the pixels themselves in place of a collection: fit for another process."""
        return replace(self, source=self.source.pixels()) if isinstance(self.source, Item) else self


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order, which can be gone through any number of times."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ImageRef]: ...


class MemorySource:
    """Images that the caller holds or makes; those without an index are kept by whoever keeps their reference.

    Args:
        images: PIL images or arrays; can be gone through more than once.
        limit: at most so many, spread evenly.

    Raises:
        InputError: the images can be gone through only once, or there are none.
    """

    def __init__(self, images: Any, limit: int | None = None):
        kind = type(images).__qualname__
        if isinstance(images, Mapping) or not (hasattr(images, "__iter__") or hasattr(images, "__getitem__")):
            raise InputError(f"expected a path or a list of images, got {kind}; put the images in a list")
        if hasattr(images, "__next__"):
            raise InputError(
                f"expected images that can be gone through twice, got {kind}, which is used up after one pass; "
                "put them in a list, or give a path"
            )
        if hasattr(images, "__array__") and _is_one_image(tuple(images.shape)):
            raise InputError(
                f"expected a list of images, got one array of shape {tuple(images.shape)}; put it in a list, or give "
                "grey images as (image, height, width, 1)"
            )
        self._images = images
        self._indexed = hasattr(images, "__getitem__") and hasattr(images, "__len__")
        total = len(images) if hasattr(images, "__len__") else sum(1 for _ in images)
        if not total:
            raise InputError(f"expected at least one image, got an empty {kind}")
        self._chosen = spread(total, limit)
        self._refs: dict[int, ImageRef] = {}  # of indexed images, as far as was gone: they hold no pixels

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[ImageRef]:
        if self._indexed:
            for index in self._chosen:
                if index not in self._refs:
                    item = Item(self._images, index)
                    self._refs[index] = ImageRef(content_hash(item.pixels()), "", item)
                yield self._refs[index]
            return
        chosen = set(self._chosen)
        for index, image in enumerate(self._images):
            if index in chosen:
                pixels = _pixels(image, index)
                yield ImageRef(content_hash(pixels), "", pixels)


def chosen(source: ImageSource, identities: Collection[str]) -> Iterator[ImageRef]:
    """Images of these identities in the source's order, each once."""
    left = set(identities)
    for ref in source:
        if ref.identity in left:
            left.remove(ref.identity)
            yield ref
            if not left:
                return


def spread(total: int, limit: int | None) -> Sequence[int]:
    """Indices of at most `limit` of `total` things, spread evenly: class folders are in order, the first is one class.

    Raises:
        InputError: the limit is not positive.
    """
    if limit is not None and not is_whole(limit, least=1):
        raise InputError(f"limit must be a whole number, at least 1, or None, got {limit!r}")
    if limit is None or limit >= total:
        return range(total)
    return [place * total // limit for place in range(limit)]


def _is_one_image(shape: tuple[int, ...]) -> bool:
    """Whether an array of such a shape is, or could be, one image and not a stack of them."""
    return len(shape) < 3 or (len(shape) == 3 and not {shape[0], shape[2]}.isdisjoint((1, 3, 4)))


def _pixels(image: Any, index: int) -> UInt8[np.ndarray, "height width 3"]:
    try:
        return as_pixels(image)
    except InputError as error:
        raise InputError(f"image {index}: {error}") from error
