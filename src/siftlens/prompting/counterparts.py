"""Counterparts: images in which a cue has changed sides and the label has not, so that the shortcut is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, UInt8

from siftlens.auditing import AuditResult
from siftlens.core import PatchGrid
from siftlens.interrelation.randomness import stream
from siftlens.prompting.validation import Validation

MOST = 64  # of a class
Pixels = UInt8[np.ndarray, "height width 3"]


def counterparts(split: Validation, audit: AuditResult, rows: Sequence[int]) -> Validation:
    """Counterparts of images that the cues do not speak against: of those, a biased split has plenty.

    A cue of the image's own class is replaced by what an image without it has at the same places, one of another class
    is put in from an image that carries it. Each image gets one such change, of the cue with the largest dependence
    that allows one: the others may well be of the object.

    Args:
        split: labelled images and their cues.
        audit: whose cues.
        rows: of the cues, as in `split.cues`.

    Returns:
        At most 64 images of each class, all in groups that go against the cues.
    """
    cues = audit.cues.iloc[list(rows)]
    exchange = _Exchange(
        split,
        carried=split.cues.mean(axis=2) >= cues["threshold"].to_numpy()[:, None],
        own=cues["label"].to_numpy()[:, None] == split.names,
        order=np.argsort(-cues["dependence"].to_numpy(), kind="stable"),
        grid=audit.vocabulary.grid,
    )
    images, pixels = [], []
    for group in np.unique(split.groups[split.groups % 2 == 0]):
        random = stream(0, "counterparts", str(group))
        made = 0
        for image in random.permutation(np.flatnonzero(split.groups == group)).tolist():
            changed = exchange.of(image, random)
            if changed is not None and made < MOST:
                made += 1
                images.append(image)
                pixels.append(changed)
    whose = np.array(images, np.int64)
    bare = replace(split.only(whose), pixels=pixels, groups=split.groups[whose] + 1)
    return bare.with_cues(audit, rows) if images else bare


@dataclass(frozen=True)
class _Exchange:
    """What is needed to give an image its counterpart.

    Attributes:
        split: the images.
        carried: whether each image carries each cue.
        own: whether each cue is of the image's own class.
        order: of the cues, the strongest first.
        grid: the model's patches.
    """

    split: Validation
    carried: Bool[np.ndarray, "cue image"]
    own: Bool[np.ndarray, "cue image"]
    order: Int[np.ndarray, " cue"]
    grid: PatchGrid

    def of(self, image: int, random: np.random.Generator) -> Pixels | None:
        """The counterpart of an image; None where there is no donor for any."""
        for cue in self.order[(self.carried == self.own)[self.order, image]].tolist():
            there, own = self.split.cues[cue], self.own[cue]
            if own[image]:
                lacking = ~self.carried[cue] & ~(there & there[image]).any(axis=1)
                donors = np.flatnonzero(lacking & own) if (lacking & own).any() else np.flatnonzero(lacking)
            else:
                donors = np.flatnonzero(self.carried[cue] & own)
            if len(donors):
                donor = int(random.choice(donors))
                return self._pasted(image, donor, there[image if own[image] else donor])
        return None

    def _pasted(self, image: int, donor: int, places: Bool[np.ndarray, " patch"]) -> Pixels:
        """The image with a donor's patches at some places."""
        grid = self.grid
        inside = places.reshape(grid.rows, grid.cols).repeat(grid.patch_height, axis=0).repeat(grid.patch_width, axis=1)
        return np.where(inside[:, :, None], self.split.pixels[donor], self.split.pixels[image])
