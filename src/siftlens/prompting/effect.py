"""What a prompt changes: a model's answers before and after, image by image, with pictures of what changed."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from siftlens.auditing.classifier import match_logits
from siftlens.auditing.margins import logits_of
from siftlens.core import InputError, NothingReadableError, PatchGrid
from siftlens.data import ImageSource, Jpeg, Unreadable, as_jpeg, decode
from siftlens.interrelation.forward import to_input
from siftlens.models import LoadedModel
from siftlens.prompting.maps import cue_patches, cue_rows
from siftlens.prompting.module import Prompted
from siftlens.prompting.patches import even, highest
from siftlens.prompting.policy import Policy
from siftlens.prompting.validation import FEW

PICTURES = 24  # images of which pictures are kept
_LONGEST, _QUALITY = 224, 88  # of a picture, px, and its JPEG quality; smaller ones are enlarged
_PAPER = 200  # grey that replaces what is not looked at

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Picture:
    """One image whose answer changed.

    Attributes:
        row: of the table.
        before: what the model sees, JPEG.
        after: the same, each patch fading into grey by how little it counts under the policy, JPEG.
    """

    row: int
    before: bytes
    after: bytes


@dataclass(frozen=True)
class PromptEffect:
    """Answers before and after.

    Attributes:
        table: a row per image: identity, label (its folder), before and after (answers), before_p and after_p (their
            probability; under a contrast, softmax of the contrasted scores), after_p_before (the probability that the
            answer after had before), changed, cues (those that it holds, of the ones suppressed), cue_share (of its
            patches); None and NaN without an audit's cues.
        pictures: of images whose answer changed, at most 24, of each kind of change alike: label, answer before, after.
        policy: what was done.
        info: model, counts, images set aside, whether labels match, in JSON values.
        grid: the patches.
    """

    table: pd.DataFrame
    pictures: tuple[Picture, ...] = field(repr=False)  # megabytes
    policy: Policy
    info: Mapping[str, Any] = field(repr=False)
    grid: PatchGrid

    @property
    def accuracy(self) -> tuple[float, float] | None:
        """Share of right answers before and after; None where the images' folders are not the model's classes."""
        if not self.info["labels_match"]:
            return None
        label = self.table["label"]
        return float((self.table["before"] == label).mean()), float((self.table["after"] == label).mean())

    @property
    def groups(self) -> pd.DataFrame | None:
        """Accuracy by class and by whether the image carries a suppressed cue, the worst before the prompt first.

        Columns label, carries (None without an audit's cues), images, before, after; None where the images' folders
        are not the model's classes.
        """
        if not self.info["labels_match"]:
            return None
        table = self.table
        right = pd.DataFrame(
            {
                "label": table["label"],
                "carries": table["cues"].map(bool, na_action="ignore").astype(object),
                "images": 1,
                "before": table["before"] == table["label"],
                "after": table["after"] == table["label"],
            }
        )
        by = right.groupby(["label", "carries"], dropna=False, as_index=False)
        groups = by.agg({"images": "sum", "before": "mean", "after": "mean"})
        return groups.sort_values(["before", "label"], ignore_index=True)

    @property
    def worst(self) -> tuple[float, float] | None:
        """Accuracy of the worst group before and after, of those with at least 8 images; None without labels or any."""
        groups = self.groups
        large = None if groups is None else groups[groups["images"] >= FEW]
        return None if large is None or large.empty else (float(large["before"].min()), float(large["after"].min()))


class _Selection:
    """Pictures of each kind alike, as they come: where there are too many, the last of the most frequent kind goes.

    Args:
        most: pictures to keep.
    """

    def __init__(self, most: int):
        self._most = most
        self._kinds: dict[Hashable, list[Picture]] = {}

    @property
    def chosen(self) -> tuple[Picture, ...]:
        """Those kept, in the order of their rows."""
        return tuple(sorted((one for kind in self._kinds.values() for one in kind), key=lambda picture: picture.row))

    def wants(self, kind: Hashable) -> bool:
        """Whether one more of a kind would be kept."""
        counts = [len(pictures) for pictures in self._kinds.values()]
        return sum(counts) < self._most or len(self._kinds.get(kind, ())) + 1 < max(counts)

    def add(self, kind: Hashable, picture: Picture) -> None:
        """Keep a picture."""
        self._kinds.setdefault(kind, []).append(picture)
        if sum(map(len, self._kinds.values())) > self._most:
            max(self._kinds.values(), key=len).pop()


def measure_effect(
    model: LoadedModel,
    better: Prompted,
    source: ImageSource,
    batch_size: int,
    progress: Callable[[str, int, int], None],
) -> PromptEffect:
    """Answer images with and without a prompt.

    Args:
        model: the classifier.
        better: the same under a policy.
        source: the images.
        batch_size: images per forward pass.
        progress: called with "images", what is done and what there is to do.

    Raises:
        InputError: the model has no class head.
        NothingReadableError: not one image can be read.
        ModelError: the model returns no finite logits.
    """
    rows: list[dict[str, Any]] = []
    pictures = _Selection(PICTURES)
    aside: list[list[str]] = []
    outputs = 0
    for refs, pixels in _batches(source, model, batch_size, aside):
        x = to_input(pixels, model.normalization, model.device, model.dtype)
        maps = better.maps(x)
        if not rows:
            better.planned(x).expect_class_head()
        before = logits_of(model.module, x)
        after = logits_of(partial(better.under, maps), x)
        outputs = before.shape[1]
        cues, shares = _cues(better, x, pixels)
        for place, ref in enumerate(refs):
            row = {"identity": ref.identity, "label": ref.group}
            for name, logits in (("before", before[place]), ("after", after[place])):
                answer = int(logits.argmax())
                row |= {name: answer, f"{name}_p": float(logits.softmax(dim=0)[answer])}
            row["after_p_before"] = float(before[place].softmax(dim=0)[row["after"]])
            row |= {"changed": row["before"] != row["after"], "cues": cues[place], "cue_share": shares[place]}
            kind = (ref.group, row["before"], row["after"])
            if row["changed"] and pictures.wants(kind):
                counts = patch_counts(better.policy, maps[place : place + 1])[0]
                pictures.add(kind, _picture(len(rows), pixels[place], counts, better.grid))
            rows.append(row)
        progress("images", len(rows) + len(aside), len(source))
    if not rows:
        raise NothingReadableError.of(len(source), list(map(": ".join, aside)))
    table = pd.DataFrame(rows)
    names, labels_match = _names(model, sorted(set(table["label"])), outputs)
    for name in ("before", "after"):
        table[name] = [names[answer] for answer in table[name]]
    info = {
        "model": model.describe(),
        "images": len(rows),
        "set_aside": aside,
        "labels_match": labels_match,
    }
    return PromptEffect(table, pictures.chosen, better.policy, info, better.grid)


def patch_counts(policy: Policy, maps: Float[Tensor, "image patch"]) -> Float[np.ndarray, "image patch"]:
    """How much each patch counts under a policy, in [0, 1], against the one that counts most: for pictures.

    A patch that is dropped or painted over counts 0, a biased one exp(beta (g - max g)) by the sum of all biases, and
    one that the cue-only view of a contrast shows, 1 / (1 + lambda).
    """
    strength = sum(part.strength for part in policy.bias)
    counts = torch.exp(strength * maps - (strength * maps).amax(dim=1, keepdim=True))
    spared = even(maps)[:, None]
    if policy.tokens is not None:
        counts = counts * torch.zeros_like(counts).scatter_(1, highest(maps, policy.tokens.keep), 1.0)
    if policy.pixels is not None:
        kept = torch.zeros_like(counts).scatter_(1, highest(maps, policy.pixels.keep), 1.0)
        counts = torch.where(spared, counts, counts * kept)
    if policy.contrast is not None:
        shown = torch.zeros_like(counts).scatter_(1, highest(-maps, policy.contrast.view), policy.contrast.strength)
        counts = torch.where(spared, counts, counts / (1 + shown))
    return np.asarray(counts.float().cpu().numpy())


def faded(pixels: Pixels, counts: Float[np.ndarray, " patch"], grid: PatchGrid) -> Pixels:
    """The image, each patch fading into grey by how little it counts."""
    weight = np.zeros(pixels.shape[:2], np.float32)
    shown = counts.reshape(grid.rows, grid.cols).repeat(grid.patch_height, 0).repeat(grid.patch_width, 1)
    weight[: grid.height, : grid.width] = shown
    mixed = weight[:, :, None] * pixels + (1 - weight[:, :, None]) * _PAPER
    return np.asarray(np.rint(mixed), np.uint8)


def _batches(
    source: ImageSource, model: LoadedModel, batch_size: int, aside: list[list[str]]
) -> Iterator[tuple[list[Any], list[Pixels]]]:
    """Images that can be read, batch by batch; the others are noted with the reason."""
    refs: list[Any] = []
    pixels: list[Pixels] = []
    for ref in source:
        try:
            pixels.append(decode(ref, model.preprocessing))
        except Unreadable as error:
            aside.append([ref.identity, str(error)])
            continue
        refs.append(ref)
        if len(refs) == batch_size:
            yield refs, pixels
            refs, pixels = [], []
    if refs:
        yield refs, pixels


def _cues(better: Prompted, x: Tensor, pixels: Sequence[Pixels]) -> tuple[list[str | None], list[float]]:
    """Names of the suppressed cues that each image holds, and the share of its patches that do."""
    audit, mixture = better.audit, better.policy.maps
    if audit is None:
        return [None] * len(pixels), [float("nan")] * len(pixels)
    rows = cue_rows(audit, mixture)
    there = cue_patches(pixels, better.grid, audit, rows, better.tokens(x))
    cues = [audit.cue(row) for row in rows]
    carried = there.mean(axis=2) >= np.array([cue.threshold for cue in cues])[:, None]
    names = [", ".join(cue.name for cue, has in zip(cues, image, strict=True) if has) for image in carried.T]
    return list(names), there.any(axis=0).mean(axis=1).tolist()


def _names(model: LoadedModel, labels: Sequence[str], outputs: int) -> tuple[list[str], bool]:
    """What each logit is called, and whether the images' folders are named so."""
    names = [str(answer) for answer in range(outputs)] if model.classes is None else list(model.classes)
    try:
        found = match_logits(model, labels, outputs)
    except InputError:
        return names, False
    if not all(labels):
        return names, False
    for answer, label in zip(found, labels, strict=True):
        names[answer] = label
    return names, True


def _picture(row: int, pixels: Pixels, counts: Float[np.ndarray, " patch"], grid: PatchGrid) -> Picture:
    return Picture(row, _jpeg(pixels), _jpeg(faded(pixels, counts, grid)))


def _jpeg(pixels: Pixels) -> bytes:
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest != _LONGEST:
        size = (max(1, image.width * _LONGEST // longest), max(1, image.height * _LONGEST // longest))
        smaller = longest > _LONGEST
        image = image.resize(size, Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST)
    return as_jpeg(np.asarray(image), (Jpeg(_LONGEST, _QUALITY),))
