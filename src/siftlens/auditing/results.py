"""A finished audit: tables, and cues that can be looked for in other images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from PIL import Image
from torch import nn

from siftlens.attention import find_layout
from siftlens.auditing.tokens import TokenAccess
from siftlens.auditing.vocabulary import Vocabulary
from siftlens.core import InputError, PatchGrid
from siftlens.data import Normalization, Preprocessing, as_pixels
from siftlens.interrelation.forward import to_input
from siftlens.models import LoadedModel


@dataclass(frozen=True)
class Cue:
    """A set of visual words that goes with a class.

    Attributes:
        name: its class, kind and rank, such as "sea 1 (colour)".
        label: its class.
        kind: of its words: "sift", "colour" or "token".
        words: their numbers in the vocabulary of that kind.
        threshold: share of the patches from which an image counts as carrying it.
        verdict: one of `siftlens.auditing.verdicts.VERDICTS`.
        audit: where it comes from.
    """

    name: str
    label: str
    kind: str
    words: tuple[int, ...]
    threshold: float
    verdict: str
    audit: "AuditResult" = field(repr=False, compare=False)

    def patches(self, pixels: Any, model: nn.Module | LoadedModel | None = None) -> Bool[np.ndarray, "rows cols"]:
        """Where the cue is in an image.

        Args:
            pixels: the image, of the model's input size; of another size, it is resized and cropped.
            model: the audited model; needed for words of kind "token".

        Raises:
            InputError: no image; the model is missing, or has another grid than the audited one.
        """
        image = as_pixels(pixels)
        preprocessing = self.audit.preprocessing
        if image.shape[:2] != (preprocessing.height, preprocessing.width):
            image = preprocessing.apply(Image.fromarray(image))
        tokens = None
        if self.kind == "token":
            if model is None:
                raise InputError(f"the cue {self.name} is made of the model's tokens; pass model=")
            module = model.module if isinstance(model, LoadedModel) else model
            parameter = next(module.parameters())
            x = to_input([image], self.audit.normalization, parameter.device, parameter.dtype)
            layout = find_layout(module, x)
            self.audit.expect_grid(layout.grid)
            access = TokenAccess(module, layout, x)
            with access.read(self.audit.layer) as read, torch.no_grad():
                module(x)
            tokens = read[0]
        vocabulary = self.audit.vocabulary.of([self.kind])
        words = vocabulary.words([image], tokens)[self.kind]
        return np.isin(words, self.words).reshape(vocabulary.grid.rows, vocabulary.grid.cols)


@dataclass(frozen=True, eq=False)
class AuditResult:
    """What an audit found.

    Attributes:
        cues: a row per cue, the strongest claims first.
        images: a row per image: identity, label, predicted, half ("discover" or "confirm"), margin, cue_share (of the
            patches, the largest harmful cue), risk (of being misled by harmful cues, in shares of the median margin).
        properties: a row per class and property of whole images: association and what explains it.
        shown: a row per picture of a cue, as `siftlens.auditing.gallery.Gallery` has it.
        pictures: a row per picture: image (row of `images`), jpeg.
        info: settings, model, versions, counts, forward passes, in JSON values.
        vocabulary: codebooks of the visual words.
        layer: whose tokens the words of kind "token" are made of.
        preprocessing: of the images.
        normalization: of the model's input.
    """

    cues: pd.DataFrame
    images: pd.DataFrame
    properties: pd.DataFrame
    shown: pd.DataFrame
    pictures: pd.DataFrame
    info: Mapping[str, Any]
    vocabulary: Vocabulary
    layer: int
    preprocessing: Preprocessing
    normalization: Normalization | None

    def cue(self, row: int) -> Cue:
        """The cue in a row of the table.

        Raises:
            InputError: there is no such row.
        """
        if not 0 <= row < len(self.cues):
            raise InputError(f"expected a row of the {len(self.cues)} cues, got {row}")
        found = self.cues.iloc[row]
        words = tuple(int(word) for word in found["words"])
        return Cue(
            found["cue"], found["label"], found["kind"], words, float(found["threshold"]), found["verdict"], self
        )

    def expect_grid(self, grid: PatchGrid) -> None:
        """Refuse to look for the cues on other patches than they were found on.

        Raises:
            InputError: the grid is another one.
        """
        own = self.vocabulary.grid
        if own != grid:
            raise InputError(
                f"the audit's cues are of {own.rows}x{own.cols} patches of {own.patch_height}x{own.patch_width} px, "
                f"the model has {grid.rows}x{grid.cols} of {grid.patch_height}x{grid.patch_width} px; audit this model "
                "at this input size"
            )

    def __iter__(self) -> Iterator[Cue]:
        return (self.cue(row) for row in range(len(self.cues)))
