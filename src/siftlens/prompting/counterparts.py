"""Counterparts: images in which a cue has changed sides and the label has not, so that the shortcut is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from scipy import stats

from siftlens.auditing import AuditResult
from siftlens.core import PatchGrid
from siftlens.interrelation.randomness import stream
from siftlens.prompting.policy import Policy
from siftlens.prompting.validation import FEW, Validation

MOST = 64  # of a class
_UNLIKE = 0.05  # p below which counterparts are not what they stand for
Pixels = UInt8[np.ndarray, "height width 3"]


def counterparts(split: Validation, audit: AuditResult, rows: Sequence[int]) -> Validation:
    """Counterparts of images that the cues do not speak against: of those, a biased split has plenty.

    A cue of the image's own class is replaced by what an image without it has at the same places, one of another class
    is put in from an image that carries it. Each image gets one such change, of the cue with the largest dependence
    that allows one: the others may well be of the object.

    Where the cue is the object, or an exchange goes over it, the model fails on counterparts and not on images that
    really lack the cue, or carry another class's. A cue is therefore exchanged only where there are 8 such images or
    more, and the model is no better on them than on the counterparts (Fisher's exact test, p < 0.05).

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
    images, exchanged, pixels = [], [], []
    for group in np.unique(split.groups[split.groups % 2 == 0]):
        random, count = stream(0, "counterparts", str(group)), 0
        for image in random.permutation(np.flatnonzero(split.groups == group)).tolist():
            found = exchange.of(image, random) if count < MOST else None
            if found is not None:
                count += 1
                images.append(image)
                exchanged.append(found[0])
                pixels.append(found[1])
    whose = np.array(images, np.int64)
    bare = replace(split.only(whose), pixels=pixels, groups=split.groups[whose] + 1)
    if not images:
        return bare
    made = bare.with_cues(audit, rows)
    return made.only(exchange.believed(whose, np.array(exchanged), _plain(made)))


def _plain(split: Validation) -> Bool[np.ndarray, " image"]:
    """Which images are answered rightly without a prompt."""
    return split.right(Policy.identity(), torch.zeros(split.cued.shape))


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

    def of(self, image: int, random: np.random.Generator) -> tuple[int, Pixels] | None:
        """The cue that is exchanged in an image and what comes of it; None where there is no donor for any."""
        for cue in self.order[(self.carried == self.own)[self.order, image]].tolist():
            there, own = self.split.cues[cue], self.own[cue]
            if own[image]:
                lacking = ~self.carried[cue] & ~(there & there[image]).any(axis=1)
                donors = np.flatnonzero(lacking & own) if (lacking & own).any() else np.flatnonzero(lacking)
            else:
                donors = np.flatnonzero(self.carried[cue] & own)
            if len(donors):
                donor = int(random.choice(donors))
                return cue, self._pasted(image, donor, there[image if own[image] else donor])
        return None

    def believed(
        self,
        whose: Int[np.ndarray, " made"],
        exchanged: Int[np.ndarray, " made"],
        made: Bool[np.ndarray, " made"],
    ) -> Bool[np.ndarray, " made"]:
        """Which counterparts are of cues whose counterparts are answered as well as what they stand for.

        Args:
            whose: image of each counterpart.
            exchanged: cue that was exchanged in it.
            made: whether it is answered rightly.
        """
        real, believed = _plain(self.split), np.ones(len(whose), bool)
        for cue in np.unique(exchanged):
            of_cue, against = exchanged == cue, self.carried[cue] != self.own[cue]
            for taken in (True, False):  # away from images of its class, or put into others
                known = real[against & (self.own[cue] == taken)]
                shown = made[of_cue & (self.own[cue, whose] == taken)]
                if len(shown) and (len(known) < FEW or _better(known, shown)):
                    believed &= ~of_cue
        return believed

    def _pasted(self, image: int, donor: int, places: Bool[np.ndarray, " patch"]) -> Pixels:
        """The image with a donor's patches at some places."""
        grid = self.grid
        inside = places.reshape(grid.rows, grid.cols).repeat(grid.patch_height, axis=0).repeat(grid.patch_width, axis=1)
        return np.where(inside[:, :, None], self.split.pixels[donor], self.split.pixels[image])


def _better(first: Bool[np.ndarray, " image"], second: Bool[np.ndarray, " other"]) -> bool:
    """Whether the first are answered rightly more often, beyond chance."""
    table = [[first.sum(), (~first).sum()], [second.sum(), (~second).sum()]]
    return bool(stats.fisher_exact(table, alternative="greater").pvalue < _UNLIKE)
