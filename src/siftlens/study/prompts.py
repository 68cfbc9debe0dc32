"""A prompt tried on images, as a folder.

index.html            the page
predictions.parquet   a row per image: answers before and after
prompt.json, audit/   the prompt itself, for `siftlens.load_prompted`
"""

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from siftlens.auditing import AuditResult
from siftlens.core import expect_whole
from siftlens.data import expect_free, open_images, write_page
from siftlens.interrelation.files import write_table
from siftlens.models import LoadedModel
from siftlens.models.given import AS_LOADED, Normalize, as_loaded
from siftlens.prompting import Policy, prompted
from siftlens.prompting.effect import PromptEffect, measure_effect
from siftlens.prompting.module import AUDIT_FOLDER
from siftlens.report import render_prompt

PAGE, TABLE = "index.html", "predictions.parquet"


def try_prompt(
    model: nn.Module | LoadedModel,
    policy: Policy,
    images: str | PathLike[str] | Iterable[Any],
    *,
    audit: AuditResult | None = None,
    normalize: Normalize = AS_LOADED,
    out: str | PathLike[str] | None = None,
    limit: int | None = None,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 64,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> PromptEffect:
    """Show what a prompt changes: a classifier's answers before and after, image by image.

    Args:
        model: a classifier in evaluation mode, or one from `siftlens.load_model`.
        policy: what is done to it.
        images: a folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths; or a collection
            of images, as for `siftlens.analyze`.
        audit: of this model, where the policy's maps are made of its cues.
        normalize: what the model expects of pixels in [0, 1]; not needed for a loaded model.
        out: folder to write the page, the table and the prompt to; None writes nothing.
        limit: at most so many images, spread evenly.
        size: px, or (height, width), for paths and a model that did not come from `load_model`.
        batch_size: images per forward pass.
        progress: called with "images", what is done and what there is to do.

    Returns:
        The answers, with pictures of those that changed.

    Raises:
        CaptureError: the model cannot be prompted.
        InputError: an argument is not what was expected, a model without a class head, or the folder holds a prompt or
            an audit already.
        ModelError: the model returns no finite logits.
        NothingReadableError: not one image can be read.
    """
    batch_size = expect_whole("batch_size", batch_size, least=1)
    if out is not None:
        expect_free(Path(out), files=(PAGE, TABLE))
        expect_free(Path(out) / AUDIT_FOLDER)
    source = open_images(images, limit=limit)
    loaded = as_loaded(model, source, normalize, size)
    better = prompted(loaded, policy, audit=audit)
    effect = measure_effect(loaded, better, source, batch_size, progress)
    if out is not None:
        write_table(Path(out) / TABLE, effect.table)
        write_page(Path(out) / PAGE, render_prompt(effect))
        better.save(out, beside=(TABLE,))
    return effect
