"""The audit in one call, and a finished audit to look at, save and load."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from siftlens.auditing import AuditResult, AuditSettings, Run, storage
from siftlens.auditing.sample import Labels
from siftlens.auditing.vocabulary import KINDS
from siftlens.core import InputError
from siftlens.data import (
    AUDIT,
    discard_progress,
    expect_asked,
    expect_free,
    expect_same,
    held,
    open_images,
    write_page,
)
from siftlens.engine import open_engine
from siftlens.models import LoadedModel
from siftlens.models.given import AS_LOADED, Normalize, as_loaded
from siftlens.report import render_audit

PAGE = "index.html"


class Audit(AuditResult):
    """A finished audit: tables, and cues that can be looked for in other images.

    Attributes:
        cues: a row per cue, the strongest claims first.
        images: a row per image: identity, label, predicted, half ("discover" or "confirm"), margin, cue_share (of the
            patches, the largest harmful cue), risk (of being misled by harmful cues, in shares of the median margin).
        properties: a row per class and property of whole images: association and what explains it.
        info: settings, model, versions, counts, forward passes, in JSON values.
    """

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the audit: the page index.html and the files beside it, as docs/reference/files.md lists them.

        Raises:
            InputError: the folder holds an audit already, or cannot be written.
        """
        expect_free(Path(folder), files=(PAGE, *storage.FILES))
        write_page(Path(folder) / PAGE, render_audit(self))
        storage.save(self, Path(folder))


def audit(
    model: nn.Module | LoadedModel,
    images: str | PathLike[str] | Iterable[Any],
    labels: Labels = None,
    *,
    normalize: Normalize = AS_LOADED,
    masks: str | PathLike[str] | None = None,
    environment: str | PathLike[str] | None = None,
    probe: bool = False,
    vocabularies: Sequence[str] = KINDS,
    layer: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    limit: int | None = None,
    size: int | tuple[int, int] | None = None,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Audit:
    """Find what a classifier leans on besides the object, and test each claim by intervention.

    Use images that the model was not trained on: on its training images it is right for reasons of its own.

    Args:
        model: a classifier with attention, in evaluation mode, called as `model(x)`; or one from `siftlens.load_model`.
        images: a folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths; or a collection
            of images, as for `siftlens.analyze`.
        labels: class of each image; None for the first folder of its path.
        normalize: what the model expects of pixels in [0, 1], as for `siftlens.analyze`.
        masks: folder of object masks, each named as its image is (with any image suffix) and of its size, bright where
            the object is: lets a cue be confirmed as spurious.
        environment: folder of labelled images from elsewhere, where the cue may not go with the class: likewise.
        probe: fit a linear classifier on what the model returns, for a model without a head.
        vocabularies: which visual words to make cues of: "sift", "colour", "token".
        layer: after which block tokens become words; None for the last of the first quarter.
        batch_size: images per forward pass.
        seed: of the halves, the words and the controls.
        limit: at most so many images, spread evenly; not with labels.
        size: px, or (height, width): input size of a model that did not come from `load_model`; needed for paths.
        engine: where to compute: "local", in this process; "ray", on a Ray cluster, which gives the same numbers.
        address: of a running Ray cluster ("auto" for the one on this machine); None starts one on this machine's cores.
        workers: ray: processes that run the model; None as fits.
        out: folder to write the audit to, and meanwhile what each step found; without, it is held in memory.
        resume: go on with an interrupted audit in `out`.
        progress: called with a stage ("images", "cues"), what is done and what there is to do.

    Returns:
        The audit.

    Raises:
        CaptureError: the model's attention cannot be read, or its tokens not be dropped.
        InputError: an argument, a label or a mask is not what was expected; too few images or classes.
        ModelError: the model returns no finite logits.
        NothingReadableError: not one image can be read.

    Example:
        >>> audit = siftlens.audit(model, images, labels, normalize="imagenet")
        >>> audit.cues[["cue", "verdict", "dependence", "p"]]
        >>> audit.save("out/audit")
    """
    if out is None and resume:
        raise InputError("resume=True goes on with an audit in a folder; pass out=FOLDER")
    if engine == "local" and workers is not None:
        raise InputError(
            "an audit on this machine runs in one process; leave out --workers (workers=None), or add --engine ray "
            "(engine='ray')"
        )
    if labels is not None and limit is not None:
        raise InputError("limit leaves images out, so that labels would not fit; pass fewer images and their labels")
    settings = AuditSettings(
        vocabularies=tuple(vocabularies),
        layer=layer,
        probe=probe,
        masks=None if masks is None else Path(masks),
        environment=None if environment is None else Path(environment),
        batch_size=batch_size,
        seed=seed,
    )
    started, begun = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    source = open_images(images, limit=limit)
    loaded = as_loaded(model, source, normalize, size)
    folder = None if out is None else Path(out)
    if folder is not None:
        expect_free(folder, but=AUDIT if resume else None, files=(PAGE, *storage.FILES))
    with nullcontext() if folder is None else held(folder):
        if folder is not None:
            expect_asked(folder, resume=resume)
            expect_free(folder, but=AUDIT if resume else None)  # again: another run may have ended meanwhile
        run = Run(loaded, source, labels, settings, progress, folder)
        if folder is not None and storage.is_finished(folder):
            finished = load_audit(folder)
            expect_same(folder, finished.info.get("numbers", {}), run.numbers)
            discard_progress(folder)  # where it was stopped between saving and this
            return finished
        with open_engine(engine, workers=workers, address=address, gpu=loaded.device.type == "cuda") as where:
            result = run.go(where)
        asked = {
            "source": str(images) if isinstance(images, str | PathLike) else "in memory",
            "labels": "folders" if labels is None else "given",
            "limit": limit,
            "normalize": normalize if isinstance(normalize, str) else "own",
            "engine": engine,
        }
        info = dict(result.info) | {
            "settings": asked | result.info["settings"],
            "started": started,
            "seconds": round(time.perf_counter() - begun, 1),
        }
        found = _public(result, info=info)
        if folder is not None:
            found.save(folder)
            discard_progress(folder)
    return found


def load_audit(folder: str | PathLike[str]) -> Audit:
    """Read an audit that `Audit.save` or `siftlens audit` wrote.

    Raises:
        StudyError: missing, incomplete, damaged, or written by a newer version.
    """
    return _public(storage.load(Path(folder)))


def _public(result: AuditResult, **changed: Any) -> Audit:
    return Audit(**{field.name: getattr(result, field.name) for field in fields(result)} | changed)
