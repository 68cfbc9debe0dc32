"""A labelled split as tuning needs it: pixels, classes, cues, and the groups that an audit infers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from siftlens.auditing import AuditResult
from siftlens.auditing.classifier import match_logits
from siftlens.auditing.margins import logits_of
from siftlens.auditing.sample import Labels, labels_of
from siftlens.core import InputError, NothingReadableError
from siftlens.data import ImageSource, Unreadable, decode
from siftlens.interrelation.forward import to_input
from siftlens.models import LoadedModel
from siftlens.prompting.context import prompt
from siftlens.prompting.maps import cue_patches, harmful_rows, kinds_of
from siftlens.prompting.plan import Plan, plan_of
from siftlens.prompting.policy import Policy

FEW = 8  # images of a group below which its accuracy says nothing
_LARGE = 0.6  # of the largest possible risk, from which an image goes against the cues: half takes in too many


@dataclass(frozen=True)
class Validation:
    """Labelled images, held in memory, and what an audit says of them.

    Attributes:
        model: the classifier.
        pixels: what it sees of each image.
        names: class of each image.
        logit: index of each image's right logit.
        cues: patches of each harmful cue.
        groups: 2 * class + 1 where the harmful cues speak against the label, else 2 * class.
        plan: of the model.
        batch_size: images per forward pass.
    """

    model: LoadedModel
    pixels: Sequence[UInt8[np.ndarray, "height width 3"]]
    names: Shaped[np.ndarray, " image"]
    logit: Int[np.ndarray, " image"]
    cues: Bool[np.ndarray, "cue image patch"]
    groups: Int[np.ndarray, " image"]
    plan: Plan
    batch_size: int

    @property
    def cued(self) -> Bool[np.ndarray, "image patch"]:
        """Patches of any harmful cue."""
        return np.asarray(self.cues.any(axis=0))

    def batches(self) -> Iterator[tuple[slice, Float[Tensor, "image 3 height width"]]]:
        """Places and inputs, batch by batch."""
        for start in range(0, len(self.pixels), self.batch_size):
            here = slice(start, start + self.batch_size)
            yield here, model_input(self.model, self.pixels[here])

    @torch.no_grad()
    def right(self, policy: Policy, maps: Float[Tensor, "image patch"]) -> Bool[np.ndarray, " image"]:
        """Which images are answered rightly under a policy."""
        answers = []
        for here, x in self.batches():
            with prompt(self.model.module, policy, maps[here]):
                answers.append(logits_of(self.model.module, x).argmax(dim=1).cpu())
        return np.asarray(torch.cat(answers).numpy() == self.logit)

    def only(self, images: Bool[np.ndarray, " image"] | Int[np.ndarray, " some"]) -> "Validation":
        """Some of the images, by a mask or by their places."""
        return replace(
            self,
            pixels=[self.pixels[image] for image in np.arange(len(self.pixels))[images]],
            names=self.names[images],
            logit=self.logit[images],
            cues=self.cues[:, images],
            groups=self.groups[images],
        )

    def joined(self, other: "Validation") -> "Validation":
        """These images, then others."""
        return replace(
            self,
            pixels=[*self.pixels, *other.pixels],
            names=np.concatenate([self.names, other.names]),
            logit=np.concatenate([self.logit, other.logit]),
            cues=np.concatenate([self.cues, other.cues], axis=1),
            groups=np.concatenate([self.groups, other.groups]),
        )

    def with_cues(self, audit: AuditResult, rows: Sequence[int]) -> "Validation":
        """The same images, and where the cues are in them."""
        grid = self.plan.layout.grid
        found = [
            cue_patches(self.pixels[here], grid, audit, rows, self._tokens(audit, rows, x))
            for here, x in self.batches()
        ]
        return replace(self, cues=np.concatenate(found, axis=1))

    @torch.no_grad()
    def _tokens(self, audit: AuditResult, rows: Sequence[int], x: Tensor) -> Float[Tensor, "image patch dim"] | None:
        """Tokens of the audit's layer, where a cue needs them."""
        if "token" not in kinds_of(audit, rows):
            return None
        with self.plan.access.read(audit.layer) as read:
            self.model.module(x)
        return read[0]

    def by_group(self, right: Bool[np.ndarray, " image"]) -> Float[np.ndarray, " group"]:
        """Accuracy of each group that has enough images."""
        large = np.flatnonzero(np.bincount(self.groups) >= FEW)
        return np.array([right[self.groups == group].mean() for group in large])

    @property
    def against(self) -> Bool[np.ndarray, " image"]:
        """Images of groups, large enough, whose label the cues speak against."""
        return np.asarray((self.groups % 2 == 1) & (np.bincount(self.groups)[self.groups] >= FEW))


def read_validation(
    model: LoadedModel, audit: AuditResult, source: ImageSource, labels: Labels, batch_size: int
) -> Validation:
    """Decode a labelled split and look for the audit's harmful cues in it; there must be one.

    Raises:
        InputError: labels are missing, or do not match the model's classes or the audit's; an audit of another grid.
        NothingReadableError: not one image can be read.
    """
    refs = list(source)
    named = labels_of(source, labels)
    rows = harmful_rows(audit)
    cued = set(audit.cues["label"].iloc[list(rows)])
    if model.classes and not cued & set(named) and all(name.isdecimal() for name in named):
        named = [model.classes[int(name)] if int(name) < len(model.classes) else name for name in named]
    pixels, names, aside = [], [], []
    for ref, name in zip(refs, named, strict=True):
        try:
            pixels.append(decode(ref, model.preprocessing))
            names.append(name)
        except Unreadable as error:
            aside.append(f"{ref.identity}: {error}")
    if not pixels:
        raise NothingReadableError.of(len(refs), aside)
    classes = tuple(sorted(set(names)))
    first = model_input(model, pixels[:1])
    logit = match_logits(model, classes, logits_of(model.module, first).shape[1])
    labels_index = np.array([classes.index(name) for name in names])
    plan = plan_of(model.module, (first,), {})
    if not cued & set(classes):
        raise InputError(
            f"the audit's harmful cues are of {', '.join(map(repr, sorted(cued)))}, but the labels are "
            f"{', '.join(map(repr, classes[:5]))}; name the classes as the audit does"
        )
    nowhere = np.zeros((0, len(pixels), plan.layout.grid.patches), bool)
    bare = Validation(model, pixels, np.array(names), logit[labels_index], nowhere, 2 * labels_index, plan, batch_size)
    found = bare.with_cues(audit, rows)
    return replace(found, groups=bare.groups + speaks_against(audit, rows, found.cues.mean(axis=2), names))


def speaks_against(
    audit: AuditResult, rows: Sequence[int], shares: Float[np.ndarray, "cue image"], names: Sequence[str]
) -> Bool[np.ndarray, " image"]:
    """Whether the cues speak for another class than each image's own.

    Summed over the cues' dependence: those of other classes that an image carries, and those of its own that it lacks;
    more than 0.6 of all there is counts.

    Args:
        audit: whose cues.
        rows: of the cues.
        shares: of each image's patches that hold each cue.
        names: class of each image.
    """
    dependence = audit.cues["dependence"].to_numpy()[list(rows)]
    carried = shares >= audit.cues["threshold"].to_numpy()[list(rows)][:, None]
    own = audit.cues["label"].to_numpy()[list(rows)][:, None] == np.array(names)
    return np.asarray(dependence @ (carried != own) > _LARGE * dependence.sum())


def model_input(
    model: LoadedModel, pixels: Sequence[UInt8[np.ndarray, "height width 3"]]
) -> Float[Tensor, "image 3 height width"]:
    """What a model takes, of what it sees."""
    return to_input(pixels, model.normalization, model.device, model.dtype)
