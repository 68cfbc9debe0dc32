"""What happens to the margin when a cue is taken away, replaced, or put where it was not.

Each effect compares two versions of an image that are alike but for the cue.

removal: a blob of the cue goes, or a blob of as many neutral patches: at most a quarter of the image, and half of the
neutral ones. Neutral are those whose words do not go with the class, for others may be the object, next to which
nothing would matter; where there are none, any others. The rest of the cue goes with both: of a scene, what is left
would stand in for the blob.
swap: the cue is replaced by what an image without the cue has at the same places, or by what one of the class with the
cue has there, which is cue again. The image without is of the class, too, unless hardly any is: one of another class
brings its object along, and what that does would be taken for the cue's.
transplant: a blob of the cue, or of as many neutral patches of the same donor, is put into an image of another class.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from siftlens.auditing.bench import Bench
from siftlens.auditing.margins import logits_of, margins
from siftlens.auditing.reader import SampleReader
from siftlens.auditing.tokens import TokenAccess
from siftlens.core import PatchGrid
from siftlens.interrelation.randomness import stream

MOST = 256  # images on which a cue is tested, at most
COST = 8  # forward passes for each of them, at most
_DONORS = 4  # images of the class without the cue, from which on no others are donors
_CONTROLS = 2  # for each operator
_PARTNERS = 16  # images that a partner is chosen among
_STEPS = 16  # sequences are cut to so many lengths, so that images share a batch


@dataclass(frozen=True)
class Effects:
    """Effects on single images, in units of the margin; positive where the cue speaks for its class.

    Attributes:
        images: places of the images of the class that carry the cue and leave room for a control, those tested.
        room: share of those that carry it which leave that room; 0 where none carries it.
        removal: margin without as many neutral patches, minus margin without the cue's.
        swap: margin with the cue of another image, minus margin with patches from an image that does not carry it; NaN
            where no other image has the cue at the same places.
        receiving: places of images of other classes, without the cue.
        transplant: margin with patches of the cue from a donor, minus margin with as many neutral patches of the donor.
        passes: forward passes that it took, each as a share of one of whole images.
    """

    images: Int[np.ndarray, " image"]
    room: float
    removal: Float[np.ndarray, " image"]
    swap: Float[np.ndarray, " image"]
    receiving: Int[np.ndarray, " other"]
    transplant: Float[np.ndarray, " other"]
    passes: float


def measure_cue(
    bench: Bench,
    there: Bool[np.ndarray, "image patch"],
    neutral: Bool[np.ndarray, "image patch"],
    carrying: Int[np.ndarray, " carrier"],
    donors: Int[np.ndarray, " donor"],
    receiving: Int[np.ndarray, " other"],
    logit: int,
    most: int,
    seed: int,
) -> Effects:
    """Measure what a cue does.

    Args:
        bench: with the images and the model.
        there: where the cue is, in every image of the sample.
        neutral: patches that may stand for it in a control.
        carrying: images of the class that carry the cue.
        donors: images that do not carry it, of `donors_of`.
        receiving: images of other classes that do not carry it.
        logit: index of the class among the model's logits.
        most: images that it may be tested on, and half as many that it may be put into.
        seed: of the blobs and donors.
    """
    reader = bench.reader
    tests = _Tests(reader, bench.access, bench.layout.grid, there, neutral, logit, seed)
    fit = np.array([tests.cut(image) is not None for image in carrying.tolist()], bool)
    images, room = carrying[fit][:most], float(fit.mean()) if len(fit) else 0.0
    removal = np.zeros(len(images))
    for part in tests.parts(images):
        removal[part] = tests.removed(images[part])
    swap = np.full(len(images), np.nan)
    if len(donors) and len(images) > 1:
        for start in range(0, len(images), reader.batch_size):
            here = slice(start, start + reader.batch_size)
            swap[here] = tests.swapped(images[here], images, donors)
    receiving = receiving[: most // 2] if len(images) else receiving[:0]
    transplant = np.zeros(len(receiving))
    sources = tests.drawn("source", receiving, images) if len(receiving) else receiving
    for start in range(0, len(receiving), reader.batch_size):
        here = slice(start, start + reader.batch_size)
        transplant[here] = tests.transplanted(receiving[here], sources[here])
    return Effects(images, room, removal, swap, receiving, transplant, tests.passes)


def donors_of(
    shares: Float[np.ndarray, " image"], lacking: Bool[np.ndarray, " image"], mine: Bool[np.ndarray, " image"]
) -> Bool[np.ndarray, " image"]:
    """Images that a cue is swapped against: of the class, with no more of it than is usual in the others.

    Args:
        shares: of each image's patches that hold the cue.
        lacking: images that may be asked and do not carry the cue.
        mine: images of the cue's class.
    """
    others = lacking & ~mine
    if not others.any():
        return lacking
    of_class = lacking & mine & (shares <= np.median(shares[others]))
    return of_class if of_class.sum() >= _DONORS else lacking


@dataclass(frozen=True)
class _Cut:
    """What is done to one image.

    Attributes:
        gone: patches that removal takes away from both versions.
        part: a blob of the cue.
        others: blobs of as many neutral patches, one for each control.
    """

    gone: Bool[np.ndarray, " patch"]
    part: Bool[np.ndarray, " patch"]
    others: tuple[Bool[np.ndarray, " patch"], ...]


@dataclass
class _Tests:
    reader: SampleReader
    access: TokenAccess
    grid: PatchGrid
    there: Bool[np.ndarray, "image patch"]
    neutral: Bool[np.ndarray, "image patch"]
    logit: int
    seed: int
    passes: float = 0.0

    def cut(self, image: int) -> _Cut | None:
        """Which patches go; None where the cue leaves no room for a control."""
        cue, patches, random = self.there[image], self.grid.patches, self._random("blobs", image)
        # A few neutral patches go with the cue, so that images share a length.
        spare = -int(cue.sum()) % max(1, patches // _STEPS)
        left = self.neutral[image] & ~cue
        if int(left.sum()) < spare + 2:
            left = ~cue  # stricter: the object may be among them
        if int(left.sum()) < spare:
            return None
        extra = self._blob(left, spare, random)
        left &= ~extra
        size = min(int(cue.sum()), int(left.sum()) // 2, max(1, patches // 4))
        if size == 0:
            return None
        part = self._blob(cue, size, random)
        others = tuple(self._blob(left, size, random) for _ in range(_CONTROLS))
        return _Cut(extra | (cue & ~part), part, others)

    def parts(self, images: Int[np.ndarray, " image"]) -> Iterator[Int[np.ndarray, " image"]]:
        """Places in `images` of batches that share a length."""
        cuts = [self._cut(image) for image in images.tolist()]
        lengths = np.array([(cut.gone | cut.part).sum() for cut in cuts])
        for length in np.unique(lengths):
            here = np.flatnonzero(lengths == length)
            for start in range(0, len(here), self.reader.batch_size):
                yield here[start : start + self.reader.batch_size]

    def drawn(
        self, purpose: str, images: Int[np.ndarray, " image"], among: Int[np.ndarray, " other"]
    ) -> Int[np.ndarray, " image"]:
        """One of `among` for each image, by lot."""
        return np.array(
            [among[self._random(purpose, image).integers(len(among))] for image in images.tolist()], np.int64
        )

    def removed(self, images: Int[np.ndarray, " image"]) -> Float[np.ndarray, " image"]:
        """Margin without other patches, minus margin without the cue; images that share a length."""
        x, cuts = self._input(images), [self._cut(image) for image in images.tolist()]
        cue = self._margins(x, np.stack([cut.gone | cut.part for cut in cuts]), None)
        controls = [
            self._margins(x, np.stack([cut.gone | cut.others[draw] for cut in cuts]), None) for draw in range(_CONTROLS)
        ]
        return (torch.stack(controls).mean(dim=0) - cue).numpy()

    def swapped(
        self,
        images: Int[np.ndarray, " image"],
        carrying: Int[np.ndarray, " carrier"],
        donors: Int[np.ndarray, " donor"],
    ) -> Float[np.ndarray, " image"]:
        """Margin with another image's cue, minus margin with patches of an image without it."""
        x, effects = self._input(images), []
        for draw in range(_CONTROLS):
            alike = np.array([self._partner(image, carrying, draw) for image in images.tolist()])
            places = self.there[images] & self.there[alike]
            without = self.drawn(f"donor {draw}", images, donors)
            cue, other = (self._margins(x, places, self.access.embed(self._input(given))) for given in (alike, without))
            effects.append(torch.where(torch.from_numpy(places.any(axis=1)), cue - other, torch.nan))
        return torch.stack(effects).nanmean(dim=0).numpy()

    def _partner(self, image: int, carrying: Int[np.ndarray, " carrier"], draw: int) -> int:
        """Of a few other images with the cue, drawn by lot, the one that has it most in the same places."""
        drawn = self._random(f"partner {draw}", image).choice(carrying, min(_PARTNERS, len(carrying)), replace=False)
        others = drawn[drawn != image]
        return int(others[(self.there[others] & self.there[image]).sum(axis=1).argmax()])

    def transplanted(
        self, images: Int[np.ndarray, " image"], sources: Int[np.ndarray, " image"]
    ) -> Float[np.ndarray, " image"]:
        """Margin with a part of the sources' cue put in, minus margin with as many of their other patches put in."""
        x, given = self._input(images), self.access.embed(self._input(sources))
        cuts = [self._cut(source) for source in sources.tolist()]
        cue, other = (
            self._margins(x, np.stack(put), given) for put in zip(*((c.part, c.others[0]) for c in cuts), strict=True)
        )
        return (cue - other).numpy()

    def _cut(self, image: int) -> _Cut:
        cut = self.cut(image)
        assert cut is not None
        return cut

    def _blob(
        self, region: Bool[np.ndarray, " patch"], size: int, random: np.random.Generator
    ) -> Bool[np.ndarray, " patch"]:
        """A patch of a region drawn by lot, and those of the region nearest to it."""
        blob, inside = np.zeros_like(region), np.flatnonzero(region)
        if size:
            centres = self.grid.centres()[inside]
            distance = np.linalg.norm(centres - centres[random.integers(len(inside))], axis=1)
            blob[inside[np.lexsort((random.random(len(inside)), distance))[:size]]] = True
        return blob

    def _margins(
        self, x: Tensor, changed: Bool[np.ndarray, "image patch"], given: Tensor | None
    ) -> Float[Tensor, " image"]:
        """Margins with patches removed, or taken from what is given."""
        patches = torch.from_numpy(changed)
        if given is None:
            kept = (~patches).nonzero()[:, 1].view(len(x), -1)
            change = self.access.keeping(kept)
            self.passes += len(x) * kept.shape[1] / self.grid.patches
        else:
            change = self.access.changed(self.access.replacing(patches, given))
            self.passes += len(x)
        with change:
            logits = logits_of(self.reader.model.module, x)
        return margins(logits, torch.full((len(x),), self.logit, device=logits.device)).cpu()

    def _input(self, images: Int[np.ndarray, " image"]) -> Tensor:
        (batch,) = self.reader.batches(images)
        return batch.x

    def _random(self, purpose: str, image: int) -> np.random.Generator:
        return stream(self.seed, f"audit {purpose}", str(image))
