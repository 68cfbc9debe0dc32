"""`tune_prompt`: which policy helps the images that a model's shortcut misleads, on a small labelled split."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor, nn

from siftlens.attention import read_attention
from siftlens.auditing import AuditResult
from siftlens.auditing.sample import Labels
from siftlens.core import InputError, expect_whole, is_real
from siftlens.data import open_images
from siftlens.models import LoadedModel
from siftlens.models.given import AS_LOADED, Normalize, as_loaded
from siftlens.prompting.counterparts import counterparts
from siftlens.prompting.maps import expect_same_model, harmful_rows, mixed_maps
from siftlens.prompting.policy import Bias, Contrast, Mixture, PixelMask, Policy, TokenChoice
from siftlens.prompting.validation import Validation, read_validation

AVERAGES = ("groups", "images")
_CLEAR = 0.01  # p of the sign test below which a gain is believed
_STRENGTHS = (2.0, 5.0, 20.0)  # 20: the cue's patches are as good as gone
_LAMBDAS = (0.25, 0.5, 1.0)
_VIEWS = (0.25, 0.5, 0.75)
_KEEPS = (0.75, 0.5, 0.25)


def tune_prompt(
    model: nn.Module | LoadedModel,
    audit: AuditResult,
    validation: str | PathLike[str] | Iterable[Any],
    labels: Labels = None,
    *,
    normalize: Normalize = AS_LOADED,
    max_loss: float = 0.0,
    average: Literal["groups", "images"] = "groups",
    size: int | tuple[int, int] | None = None,
    batch_size: int = 64,
) -> Policy:
    """Choose a policy by the accuracy of the worst group, on images that neither trained nor audited the model.

    No group labels are needed: an image's group is its class, and whether the audit's harmful cues speak for or against
    that class in it. The average that is kept counts all groups alike, counterparts among them, and leaves groups of
    fewer than 8 images out: in a split that is as biased as the training images, the shortcut is right for most of
    them, and undoing it looks like a loss. So the share of right answers on such a split may well fall, and so will
    that of a deployment in which the shortcut goes on holding. For such a one, ask for `average="images"`, which keeps
    the share of right answers as well.

    Few images go against the cues where the split is as biased as the training images. So up to 64 images of each class
    get a counterpart: the same image with a cue exchanged for what another image has at those places, and the label
    kept, provided that the model is no better on images that really go against that cue. A policy is chosen on images
    and counterparts. It must clearly gain where the cues speak against the label (sign test, p < 0.01), and mend more
    answers than it spoils among the images that really are so.

    Tried are attention biases on all layers, either half, and the heads that look at the cue most; token choice, pixel
    masking, and logit contrast; the best bias with the best contrast. Each on all harmful cues, on the strongest alone,
    and, but for parts of the model and masking, on all cues, keypoints and centre together.

    `Policy.identity()` comes back where the audit found no harmful cue, where no group that goes against the cues has 8
    images, or where no policy helps the worst group and keeps the average accuracy.

    Args:
        model: the audited classifier.
        audit: of it.
        validation: a folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths; or a
            collection of images, as for `siftlens.audit`.
        labels: class of each image, named as in the audit, or the number of the model's output; None for the first
            folder of its path.
        normalize: what the model expects of pixels in [0, 1]; not needed for a loaded model.
        max_loss: by how much the average accuracy may fall, in [0, 1].
        average: what must not fall further: "groups", the average over groups alike; "images", that and the plain
            average over the images of the split as they are.
        size: px, or (height, width), for paths and a model that did not come from `load_model`.
        batch_size: images per forward pass.

    Returns:
        The policy, for `siftlens.prompted(model, policy, audit=audit)`.

    Raises:
        CaptureError: the model cannot be prompted.
        InputError: labels that do not match, an audit of another model or grid, a `max_loss` out of range.
        NothingReadableError: not one image can be read.
    """
    if average not in AVERAGES:
        raise InputError(f"average must be one of {', '.join(AVERAGES)}, got {average!r}")
    if not isinstance(audit, AuditResult):
        raise InputError(f"audit must be what siftlens.audit or load_audit returned, got {type(audit).__name__}")
    if not is_real(max_loss) or not 0 <= max_loss <= 1:
        raise InputError(f"max_loss must lie in [0, 1], got {max_loss!r}")
    batch_size = expect_whole("batch_size", batch_size, least=1)
    source = open_images(validation)
    loaded = as_loaded(model, source, normalize, size)
    expect_same_model(audit, loaded.weights_hash)
    rows = harmful_rows(audit)
    if not rows:
        return Policy.identity()
    real = read_validation(loaded, audit, source, labels, batch_size)
    if not real.against.any():
        return Policy.identity()
    split = real.joined(counterparts(real, audit, rows))
    made = np.arange(len(split.pixels)) >= len(real.pixels)
    plain = _tried(split, Policy.identity(), torch.zeros(split.cued.shape))
    best = plain
    # Those that go against the cues bound the worst group: once that lies below the best one, so does what follows.
    for few, maps in sorted(_Search(split, audit, rows).on_few(), key=lambda found: -found[0].worst):
        if few.worst <= plain.worst or few.worst < best.worst:
            break
        if not _clear_gain(plain.right[split.against], few.right, made[split.against]):
            continue
        trial = _tried(split, few.policy, maps)
        kept = trial.average >= plain.average - max_loss
        if average == "images":
            kept &= bool(trial.right[~made].mean() >= plain.right[~made].mean() - max_loss)
        if kept and trial.worst > plain.worst and (trial.worst, trial.average) > (best.worst, best.average):
            best = trial
    return best.policy


@dataclass(frozen=True)
class _Trial:
    policy: Policy
    right: Bool[np.ndarray, " image"]
    groups: Float[np.ndarray, " group"]

    @property
    def worst(self) -> float:
        """Accuracy of the worst group."""
        return float(self.groups.min())

    @property
    def average(self) -> float:
        """Accuracy with all groups counted alike."""
        return float(self.groups.mean())


def _tried(split: Validation, policy: Policy, maps: Float[Tensor, "image patch"]) -> _Trial:
    right = split.right(policy, maps)
    return _Trial(policy, right, split.by_group(right))


_OnFew = tuple[_Trial, Tensor]  # a policy on the images that go against the cues, and its maps for all


class _Search:
    """The policies that are tried, each on the images that go against the cues: they are few."""

    def __init__(self, split: Validation, audit: AuditResult, rows: tuple[int, ...]):
        self._split, self._few = split, split.only(split.against)
        strongest = int(audit.cues["dependence"].to_numpy()[list(rows)].argmax())
        # All cues, and the strongest alone: with all of them, part of the object may go.
        cued = {rows: split.cued, rows[strongest : strongest + 1]: split.cues[strongest]}
        self._cued = {Mixture(cues=1.0, rows=some): patches for some, patches in cued.items()}
        self._whole = Mixture(cues=1.0, keypoints=0.25, centre=0.25, rows=rows)
        self._maps = {mixture: -torch.from_numpy(patches).float() for mixture, patches in self._cued.items()}
        rest = mixed_maps(split.pixels, audit.vocabulary.grid, Mixture(keypoints=0.5, centre=0.5))
        self._maps[self._whole] = (0.5 * rest - torch.from_numpy(split.cued).float()) / 1.5

    def on_few(self) -> Iterator[_OnFew]:
        """Each kind of policy, then the best bias with the best contrast on the same maps."""
        for maps in self._maps:
            biases = [self._try(Policy(bias=bias, maps=maps)) for bias in self._biases(maps)]
            contrasts = [
                self._try(Policy(contrast=Contrast(strength, view), maps=maps))
                for strength, view in itertools.product(_LAMBDAS, _VIEWS)
            ]
            yield from biases
            yield from contrasts
            bias, contrast = (max(kind, key=lambda found: found[0].worst)[0].policy for kind in (biases, contrasts))
            yield self._try(replace(contrast, bias=bias.bias))
            for keep in _KEEPS:
                yield self._try(Policy(tokens=TokenChoice(keep), maps=maps))
                if maps in self._cued:
                    yield self._try(Policy(pixels=PixelMask(keep, "mean"), maps=maps))

    def _try(self, policy: Policy) -> _OnFew:
        maps = self._maps[policy.maps]
        return _tried(self._few, policy, maps[torch.from_numpy(self._split.against)]), maps

    def _biases(self, maps: Mixture) -> Iterator[tuple[Bias, ...]]:
        depth = len(self._split.plan.heads)
        halves = [part for part in (range(depth // 2), range(depth // 2, depth)) if part]
        drawn = self._drawn_heads(self._cued[maps]) if maps in self._cued else []
        for strength in _STRENGTHS:
            yield (Bias(strength),)
            if drawn:
                for layers in halves:
                    yield (Bias(strength, layers=tuple(layers)),)
                yield tuple(Bias(strength, layers=(layer,), heads=heads) for layer, heads in enumerate(drawn))

    @torch.no_grad()
    def _drawn_heads(self, cued: Bool[np.ndarray, "image patch"]) -> list[tuple[int, ...]]:
        """In each layer, the half of the heads that look at a cue's patches most."""
        split = self._split
        totals = [torch.zeros(heads) for heads in split.plan.heads]
        for here, x in split.batches():
            channels = torch.from_numpy(cued[here]).float().to(x.device)[:, :, None]
            with read_attention(split.model.module, channels, grid=split.plan.layout) as reading:
                split.model.module(x)
            for layer, read in enumerate(reading.layers):
                totals[layer] += read.values.sum(dim=(0, 2, 3)).cpu()
        return [tuple(total.topk(max(1, len(total) // 2)).indices.tolist()) for total in totals]


def _clear_gain(
    before: Bool[np.ndarray, " image"], after: Bool[np.ndarray, " image"], made: Bool[np.ndarray, " image"]
) -> bool:
    """Whether more answers are mended than spoilt: among those that were not made, and beyond chance among all."""
    mended, spoilt = after & ~before, before & ~after
    if mended[~made].sum() <= spoilt[~made].sum():
        return False
    counts = int(mended.sum()), int(spoilt.sum())
    return bool(stats.binomtest(counts[0], sum(counts), alternative="greater").pvalue < _CLEAR)
