"""Knowledge from outside that can confirm a cue as spurious: masks of the objects, or a second environment."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Shaped
from PIL import ExifTags, Image

from siftlens.auditing.bench import Bench, Each
from siftlens.auditing.candidates import Candidate
from siftlens.auditing.vocabulary import Vocabulary
from siftlens.core import InputError
from siftlens.data import ImageRef, Preprocessing, Unreadable, decode, open_images
from siftlens.patchmaps import auroc, mask_file, object_share

_MASKED = 64  # images that are looked at
_FEWEST = 32  # images of a class, and of the others, that another environment must hold: a lift is then told to 0.15
_SEEN = 8  # images there that must have a cue


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


def expect_environment(environment: Path, names: Iterable[str], preprocessing: Preprocessing) -> tuple[ImageRef, ...]:
    """The images of another environment, refused where they could tell nothing.

    Args:
        environment: folder of images in a folder per class.
        names: of the classes that are tested.
        preprocessing: of the model.

    Raises:
        InputError: it holds too few images of a class or of the others, or one that cannot be read.
    """
    refs = tuple(open_images(environment))
    for ref in refs:
        try:
            decode(ref, preprocessing)
        except Unreadable as error:
            raise InputError(f"{environment}: {ref.identity} cannot be read ({error}); take it out") from error
    for name in names:
        mine = sum(ref.group == name for ref in refs)
        if min(mine, len(refs) - mine) < _FEWEST:
            raise InputError(
                f"{environment} holds {mine} images of {name} and {len(refs) - mine} of other classes, in folders so "
                f"named; expected at least {_FEWEST} of each, for fewer tell nothing of a cue"
            )
    return refs


@dataclass(frozen=True)
class Elsewhere:
    """What is in another environment.

    Attributes:
        labels: class of each image.
        words: of every patch, by kind.
    """

    labels: Shaped[np.ndarray, " image"]
    words: dict[str, Int[np.ndarray, "image patch"]]

    def lift(self, cue: Candidate, name: str) -> float | None:
        """Chance that an image of the cue's class has more of the cue than one of another class.

        Args:
            cue: the cue.
            name: of its class.

        Returns:
            That chance; None where hardly an image has the cue at all.
        """
        there = cue.patches(self.words[cue.kind])
        if cue.carried(there).sum() < _SEEN:
            return None
        return auroc(there.mean(axis=1), self.labels == name)


def look_elsewhere(each: Each, refs: Sequence[ImageRef], vocabulary: Vocabulary, batch_size: int) -> Elsewhere:
    """Look for the words in the images of another environment, a forward pass for each."""
    batches = (refs[start : start + batch_size] for start in range(0, len(refs), batch_size))
    found = list(each(partial(_words, refs=batch, vocabulary=vocabulary) for batch in batches))
    words = {kind: np.concatenate([of_batch[kind] for of_batch in found]) for kind in vocabulary.codebooks}
    return Elsewhere(np.array([ref.group for ref in refs]), words)


def _words(bench: Bench, refs: Sequence[ImageRef], vocabulary: Vocabulary) -> dict[str, Int[np.ndarray, "image patch"]]:
    (batch,) = replace(bench.reader, refs=refs).batches(np.arange(len(refs)))
    return vocabulary.words(batch.pixels, bench.run(batch.x)[1])


def _mask(masks: Path, ref: ImageRef) -> Path:
    path = mask_file(masks, ref.identity)
    if path is None:
        expected = (masks / ref.identity).with_suffix(".png")
        raise InputError(f"expected a mask for {ref.identity} at {expected} or with another image suffix, found none")
    return path
