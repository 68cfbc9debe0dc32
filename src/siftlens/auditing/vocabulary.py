"""Vocabularies: three ways to describe a patch, and a codebook of visual words for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from siftlens.auditing.codebook import Codebook, fit
from siftlens.auditing.describe import colour_descriptions, sift_descriptions
from siftlens.core import PatchGrid

KINDS = ("sift", "colour", "token")
WORDS = 32
_AXES = {"sift": 32, "colour": 6, "token": 32}


@dataclass(frozen=True)
class Vocabulary:
    """Visual words of several kinds.

    Attributes:
        grid: the patches.
        codebooks: by kind.
    """

    grid: PatchGrid
    codebooks: dict[str, Codebook]

    def of(self, kinds: Sequence[str]) -> "Vocabulary":
        """The words of some kinds alone."""
        return Vocabulary(self.grid, {kind: self.codebooks[kind] for kind in kinds})

    def digest(self) -> str:
        """Of the words."""
        whole = blake2b(digest_size=16)
        for kind, codebook in sorted(self.codebooks.items()):
            whole.update(kind.encode())
            for part in (codebook.mean, codebook.axes, codebook.centres):
                whole.update(part.contiguous().numpy().tobytes())
        return whole.hexdigest()

    def words(
        self, images: Sequence[UInt8[np.ndarray, "height width 3"]], tokens: Float[Tensor, "image patch dim"] | None
    ) -> dict[str, Int[np.ndarray, "image patch"]]:
        """The word of every patch by kind, -1 for none; those of kind "token" only where tokens are given."""
        return {
            kind: codebook.words(described)
            for kind, codebook in self.codebooks.items()
            if (described := describe(kind, images, tokens, self.grid)) is not None
        }


def fit_vocabulary(
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    tokens: Float[Tensor, "image patch dim"],
    grid: PatchGrid,
    kinds: Sequence[str],
    seed: int,
) -> Vocabulary:
    """Fit a codebook of each kind; a kind that describes hardly a patch is left out."""
    codebooks = {}
    for kind in kinds:
        described = describe(kind, images, tokens, grid)
        assert described is not None
        if int((~described.isnan().any(dim=2)).sum()) >= 2 * WORDS:
            codebooks[kind] = fit(described, WORDS, axes=_AXES[kind], by_position=kind == "token", seed=seed)
    return Vocabulary(grid, codebooks)


def describe(
    kind: str,
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    tokens: Float[Tensor, "image patch dim"] | None,
    grid: PatchGrid,
) -> Float[Tensor, "image patch feature"] | None:
    """Descriptions of one kind; None for "token" without tokens."""
    if kind == "token":
        return None if tokens is None else tokens.float().cpu()
    return sift_descriptions(images, grid) if kind == "sift" else colour_descriptions(images, grid)
