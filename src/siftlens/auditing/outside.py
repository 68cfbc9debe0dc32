"""Knowledge from outside that can confirm a cue as spurious: masks of the objects, or a second environment."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from PIL import ExifTags, Image

from siftlens.auditing.bench import Bench
from siftlens.auditing.candidates import Candidate
from siftlens.auditing.vocabulary import Vocabulary
from siftlens.core import InputError
from siftlens.data import ImageRef, Unreadable, open_images
from siftlens.patchmaps import mask_file, object_share

_MASKED = 64  # images that are looked at


def expect_masks(masks: Path, refs: Iterable[ImageRef]) -> None:
    """Refuse masks that do not fit their images, by their headers alone.

    Args:
        masks: folder of masks, as for `off_object`.
        refs: the images; sizes are compared where these are files.

    Raises:
        InputError: a mask is missing, no image, or of another size than its image.
    """
    for ref in refs:
        path = _mask(masks, ref)
        try:
            with Image.open(path) as mask:
                size = mask.size
        except (OSError, Image.DecompressionBombError) as error:
            raise InputError(f"the mask {path} cannot be read; make it anew") from error
        if isinstance(ref.source, Path):
            with Image.open(ref.source) as image:
                if size != image.size and not (size == image.size[::-1] and _is_shown_on_its_side(image)):
                    raise InputError(f"the mask {path} is {size} px, its image {image.size} px; expected one size")


def _is_shown_on_its_side(image: Image.Image) -> bool:
    """Whether the EXIF tag of a camera held upright says so: such an image is turned when it is read."""
    return image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)


def off_object(
    masks: Path | None,
    bench: Bench,
    images: Int[np.ndarray, " carrier"],
    there: Bool[np.ndarray, "image patch"],
) -> float | None:
    """Share of a cue's area that lies outside the objects; None without masks, or where no image has the cue.

    Args:
        masks: folder of masks, bright on the object, each named as its image is but for the ending.
        bench: with the images.
        images: those that carry the cue.
        there: where the cue is, in every image of the sample.

    Raises:
        InputError: a mask is missing or cannot be read.
    """
    if masks is None or not len(images):
        return None
    refs, size, grid = bench.reader.refs, bench.reader.model.preprocessing, bench.layout.grid
    outside = []
    for i in images[:_MASKED]:
        path = _mask(masks, refs[i])
        try:
            inside = object_share(path, size, grid)
        except Unreadable as error:
            raise InputError(f"the mask {path} cannot be read ({error}); make it anew") from error
        outside.append(1 - inside.ravel()[there[i]].mean())
    return float(np.mean(outside))


def lift_elsewhere(
    environment: Path | None,
    bench: Bench,
    vocabulary: Vocabulary,
    candidate: Candidate,
    names: tuple[str, ...],
) -> float | None:
    """Chance that an image of the cue's class has more of the cue than one of another class, in another environment.

    Raises:
        InputError: the environment lacks the class, or has no other.
    """
    if environment is None:
        return None
    refs = list(open_images(environment))
    elsewhere = replace(bench.reader, refs=refs)
    shares = []
    for batch in elsewhere.batches(np.arange(len(refs))):
        words = vocabulary.words(batch.pixels, bench.run(batch.x)[1])[candidate.kind]
        shares.append(candidate.patches(words).mean(axis=1))
    share, mine = np.concatenate(shares), np.array([ref.group == names[candidate.label] for ref in refs])
    if mine.all() or not mine.any():
        raise InputError(
            f"{environment} must hold images of {names[candidate.label]} and of another class, in folders so named"
        )
    higher = (share[mine][:, None] > share[~mine]).mean()
    return float(higher + (share[mine][:, None] == share[~mine]).mean() / 2)


def _mask(masks: Path, ref: ImageRef) -> Path:
    path = mask_file(masks, ref.identity)
    if path is None:
        expected = (masks / ref.identity).with_suffix(".png")
        raise InputError(f"expected a mask for {ref.identity} at {expected} or with another image suffix, found none")
    return path
