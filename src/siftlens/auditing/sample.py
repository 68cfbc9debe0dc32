"""The images of an audit: labelled, freed of what cannot be used, and parted in two halves that share no picture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from scipy.spatial import cKDTree

from siftlens.auditing.properties import properties_of, spread_of
from siftlens.core import InputError, NothingReadableError
from siftlens.data import ImageRef, ImageSource, Preprocessing, Unreadable, content_hash, decode_with_size
from siftlens.interrelation.randomness import digest

Labels = Iterable[Any] | None  # the class of each image: a name or a number, of any library
FEW = 16  # images of a class in either half, below which nothing is claimed about it
_THUMBNAIL = 8  # px
_ALIKE = 6.0  # mean absolute difference of thumbnails, of 255, below which images are near-duplicates


@dataclass(frozen=True)
class Sample:
    """Images that can be audited.

    Attributes:
        refs: the images.
        names: of the classes.
        labels: index of each image's class.
        discover: whether an image is there to find cues, not to test them.
        properties: brightness, contrast and so on, in the order of `PROPERTIES`.
        spreads: of those that can be changed, over the tiles of each image.
        set_aside: (identity, reason) of images that are not among them.
        digest: of what the images show and their labels, in order.
    """

    refs: tuple[ImageRef, ...]
    names: tuple[str, ...]
    labels: Int[np.ndarray, " image"]
    discover: Bool[np.ndarray, " image"]
    properties: Float[np.ndarray, "image property"]
    spreads: Float[np.ndarray, "image changeable value"]
    set_aside: tuple[tuple[str, str], ...]
    digest: str


def take_sample(source: ImageSource, labels: Labels, preprocessing: Preprocessing, seed: int) -> Sample:
    """Read all images once, and part them.

    Args:
        source: the images.
        labels: of each; None for the first folder of its path.
        preprocessing: of the model.
        seed: of the parting.

    Raises:
        InputError: labels are missing or of another number, there is one class only, or too few images of every class.
        NothingReadableError: not one image can be read.
    """
    named = labels_of(source, labels)
    refs, kept, thumbnails, properties, spreads, contents, set_aside = [], [], [], [], [], [], []
    for ref, name in zip(source, named, strict=True):
        try:
            pixels, size = decode_with_size(ref, preprocessing)
        except Unreadable as error:
            set_aside.append((ref.identity, str(error)))
            continue
        refs.append(ref)
        kept.append(name)
        small = Image.fromarray(pixels).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
        thumbnails.append(np.asarray(small, np.float32).ravel())
        properties.append(properties_of(pixels, size))
        spreads.append(spread_of(pixels))
        contents.append(content_hash(pixels))
    if not refs:
        raise NothingReadableError.of(len(named), list(map(": ".join, set_aside)))
    both = _under_two_labels(contents, kept)
    set_aside += [(refs[i].identity, "the same image stands under another label too") for i in both]
    use = np.array([i for i in range(len(refs)) if i not in both])
    names = tuple(sorted({kept[i] for i in use}))
    if len(names) < 2:
        raise InputError(f"expected images of at least two classes, got {', '.join(names) or 'none'}; add another")
    classes = np.array([names.index(kept[i]) for i in use])
    groups = _near_duplicates(np.stack(thumbnails)[use])
    discover = _part(groups, classes, [contents[i] for i in use], seed)
    sample = Sample(
        tuple(refs[i] for i in use),
        names,
        classes,
        discover,
        np.stack(properties)[use],
        np.stack(spreads)[use],
        tuple(set_aside),
        blake2b(repr([(contents[i], kept[i]) for i in use]).encode(), digest_size=16).hexdigest(),
    )
    if len(enough(sample)) == 0:
        raise InputError(
            f"expected a class with at least {2 * FEW} different images, the largest of {len(names)} has "
            f"{np.bincount(classes).max()}; add images"
        )
    return sample


def enough(sample: Sample) -> Int[np.ndarray, " class"]:
    """Classes of which both halves hold enough images to say anything."""
    per_half = [
        np.bincount(sample.labels[half], minlength=len(sample.names)) for half in (sample.discover, ~sample.discover)
    ]
    return np.flatnonzero(np.minimum(*per_half) >= FEW)


def labels_of(source: ImageSource, labels: Labels) -> list[str]:
    """The class of each image: as given, or the first folder of its path.

    Raises:
        InputError: labels are missing, or of another number.
    """
    if labels is not None:
        given = labels.tolist() if hasattr(labels, "tolist") else labels  # NumPy's, pandas' and PyTorch's
        if isinstance(given, str | Mapping | set | frozenset) or not isinstance(given, Iterable):
            raise InputError(f"expected a list with the class of each image as labels, got {labels!r}")
        named = [str(label.item() if hasattr(label, "item") else label) for label in given]
        if len(named) != len(source) or not all(named):
            raise InputError(f"expected a label for each of {len(source)} images, got {sum(map(bool, named))}")
        return named
    named = [ref.group for ref in source]
    missing = [ref.identity for ref in source if not ref.group]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(named)} images have no label: they lie in no folder, the first is {missing[0]}; "
            "put every image into a folder named after its class (in Python, or pass labels=)"
        )
    return named


def _under_two_labels(contents: Sequence[str], names: Sequence[str]) -> set[int]:
    seen: dict[str, set[str]] = {}
    for content, name in zip(contents, names, strict=True):
        seen.setdefault(content, set()).add(name)
    return {i for i, content in enumerate(contents) if len(seen[content]) > 1}


def _near_duplicates(thumbnails: Float[np.ndarray, "image value"]) -> Int[np.ndarray, " image"]:
    """A number for each image that near-duplicates share: the least place among those it is linked to."""
    group = np.arange(len(thumbnails))
    limit = _ALIKE * thumbnails.shape[1]
    for first, second in sorted(cKDTree(thumbnails).query_pairs(limit, p=1)):
        a, b = group[first], group[second]
        if a != b:
            group[group == max(a, b)] = min(a, b)
    return group


def _part(
    groups: Int[np.ndarray, " image"], classes: Int[np.ndarray, " image"], contents: Sequence[str], seed: int
) -> Bool[np.ndarray, " image"]:
    """Half of each class, near-duplicates together; by content, so that the order of images does not matter."""
    discover = np.zeros(len(groups), bool)
    for label in np.unique(classes):
        here = [np.flatnonzero(groups == group).tolist() for group in np.unique(groups[classes == label])]
        here = [members for members in here if classes[members[0]] == label]
        here.sort(key=lambda members: min(digest(seed, "half", contents[i]) for i in members))
        taken, half = 0, (classes == label).sum() / 2
        for members in here:
            if taken < half:
                discover[members] = True
                taken += len(members)
    return discover
