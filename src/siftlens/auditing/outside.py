"""Knowledge from outside that can confirm a cue as spurious: masks of the objects, or a second environment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from siftlens.auditing.bench import Bench
from siftlens.auditing.candidates import Candidate
from siftlens.auditing.vocabulary import Vocabulary
from siftlens.core import InputError, PatchGrid
from siftlens.data import Preprocessing, decode, open_images
from siftlens.data.sources import ImageRef

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_MASKED = 64  # images that are looked at


def off_object(
    masks: Path | None,
    bench: Bench,
    images: Int[np.ndarray, " carrier"],
    there: Bool[np.ndarray, "image patch"],
) -> float | None:
    """Share of a cue's area that lies outside the objects; None without masks, or where no image has the cue.

    Args:
        masks: folder of masks, white on the object, each named as its image is but for the ending.
        bench: with the images.
        images: those that carry the cue.
        there: where the cue is, in every image of the sample.

    Raises:
        InputError: a mask is missing, or of another size than its image.
    """
    if masks is None or not len(images):
        return None
    refs, size, grid = bench.reader.refs, bench.reader.model.preprocessing, bench.layout.grid
    outside = [1 - _object_share(masks, refs[i], size, grid)[there[i]].mean() for i in images[:_MASKED]]
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


def _object_share(masks: Path, ref: ImageRef, preprocessing: Preprocessing, grid: PatchGrid) -> np.ndarray:
    """Share of each patch that the object covers."""
    stem = masks / Path(ref.identity).with_suffix("")
    path = next((found for suffix in _SUFFIXES if (found := stem.with_name(stem.name + suffix)).is_file()), None)
    if path is None:
        raise InputError(f"expected a mask for {ref.identity} at {stem}.png, found none")
    if isinstance(ref.source, Path):
        with Image.open(path) as mask, Image.open(ref.source) as image:
            if mask.size != image.size:
                raise InputError(f"the mask {path} is {mask.size} px, its image {image.size} px; expected one size")
    pixels = decode(ImageRef(ref.identity, "", path), preprocessing)[: grid.height, : grid.width, 0]
    blocks = pixels.reshape(grid.rows, grid.patch_height, grid.cols, grid.patch_width) / 255
    return np.asarray(blocks.mean(axis=(1, 3))).ravel()
