"""Maps to prompt with, from pixels alone or with an audit's cues: a number per patch, higher = keep."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from siftlens.auditing import AuditResult
from siftlens.auditing.tables import HARMFUL
from siftlens.core import InputError, PatchGrid
from siftlens.keypoints import detect
from siftlens.patchmaps import patch_weights, rival_maps
from siftlens.prompting.policy import Mixture

Pixels = UInt8[np.ndarray, "height width 3"]


def mixed_maps(
    images: Sequence[Pixels],
    grid: PatchGrid,
    mixture: Mixture,
    audit: AuditResult | None = None,
    tokens: Float[Tensor, "image patch dim"] | None = None,
) -> Float[Tensor, "image patch"]:
    """Maps of a mixture: the weighted mean of its parts.

    keypoints: log(1 + keypoints in the patch), over its largest value in the image; centre: a Gaussian of a quarter of
    the image's sides; gradient: root mean square gradient of the luma, over its largest value in the image; cues: -1 on
    the patches of the cues, 0 elsewhere, so that an image without them is left as it is by a bias.

    Args:
        images: the pixels that the model sees.
        grid: the model's patches.
        mixture: what to mix.
        audit: whose cues, where the mixture has any.
        tokens: of the audit's layer, where a cue is made of them.

    Returns:
        float32, on the CPU.

    Raises:
        InputError: cues without an audit, of another grid, or none that do harm.
    """
    total = torch.zeros(len(images), grid.patches)
    weights = mixture.weights
    for row, pixels in zip(total, images, strict=True):
        if weights["keypoints"]:
            count = patch_weights(detect(pixels), grid)
            row += weights["keypoints"] * _of_largest(np.log1p(count))
        if weights["gradient"] or weights["centre"]:
            gradient, centre, *_ = rival_maps(pixels, grid)
            row += weights["gradient"] * _of_largest(np.sqrt(gradient))
            row += weights["centre"] * torch.from_numpy(centre).flatten()
    if weights["cues"]:
        if audit is None:
            raise InputError("the policy's maps are made of an audit's cues; pass audit=")
        found = cue_patches(images, grid, audit, cue_rows(audit, mixture), tokens).any(axis=0)
        total -= weights["cues"] * torch.from_numpy(found).float()
    return total / sum(weights.values())


def cue_patches(
    images: Sequence[Pixels],
    grid: PatchGrid,
    audit: AuditResult,
    rows: Sequence[int],
    tokens: Float[Tensor, "image patch dim"] | None = None,
) -> Bool[np.ndarray, "cue image patch"]:
    """Patches that hold each of some cues.

    Args:
        images: the pixels that the model sees.
        grid: the model's patches.
        audit: whose cues.
        rows: of the cues.
        tokens: of the audit's layer, where a cue is made of them.

    Raises:
        InputError: an audit of another grid, or no tokens where they are needed.
    """
    audit.expect_grid(grid)
    kinds = kinds_of(audit, rows)
    if "token" in kinds and tokens is None:
        raise InputError("a cue is made of the model's tokens; pass them, or leave its row out of Mixture.rows")
    words = audit.vocabulary.of(kinds).words(images, tokens)
    return np.stack([np.isin(words[cue.kind], cue.words) for cue in (audit.cue(row) for row in rows)])


def kinds_of(audit: AuditResult, rows: Sequence[int]) -> list[str]:
    """Of which kinds of words these cues are made."""
    return sorted({audit.cue(row).kind for row in rows})


def cue_rows(audit: AuditResult, mixture: Mixture) -> tuple[int, ...]:
    """Rows of the cues that a mixture takes: those it names, or those that do harm.

    Raises:
        InputError: a row that is not there, or no harmful cue.
    """
    count = len(audit.cues)
    if mixture.rows is not None:
        wrong = [row for row in mixture.rows if row >= count]
        if wrong:
            raise InputError(f"expected rows of the {count} cues in Mixture.rows, got {', '.join(map(str, wrong))}")
        return tuple(mixture.rows)
    harmful = harmful_rows(audit)
    if not harmful:
        raise InputError(
            f"none of the audit's {count} cues does harm, so there is nothing to suppress; use Policy.identity(), or "
            "name cues in Mixture.rows"
        )
    return harmful


def harmful_rows(audit: AuditResult) -> tuple[int, ...]:
    """Rows of the cues that make errors."""
    if audit.cues.empty:
        return ()
    return tuple(np.flatnonzero(audit.cues["verdict"].isin(HARMFUL)).tolist())


def expect_same_model(audit: AuditResult, weights_hash: str) -> None:
    """Refuse an audit of another model: what its cues do there says nothing of this one.

    Args:
        audit: any.
        weights_hash: of the model that is to be prompted.

    Raises:
        InputError: it is of other weights.
    """
    theirs = audit.info["model"]["weights_hash"]
    if theirs != weights_hash:
        raise InputError(
            f"the audit is of a model with other weights ({theirs[:8]}, these are {weights_hash[:8]}); audit this one"
        )


def _of_largest(values: Float[np.ndarray, "rows cols"]) -> Float[Tensor, " patch"]:
    """Values over the largest of them; 0 where all are."""
    return torch.from_numpy(values / max(float(values.max()), 1e-12)).float().flatten()
