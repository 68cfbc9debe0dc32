"""`pretrain`: from a folder of images to an encoder."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from siftlens.core import InputError
from siftlens.data import RUN, discard_unfinished, expect_free, held, is_result, make_own
from siftlens.keypoints import KeypointStore
from siftlens.patchmaps import Quarantined, Shrinking
from siftlens.pretraining.batches import Batches, Guide
from siftlens.pretraining.build import build
from siftlens.pretraining.checkpoint import ENCODER, STATE
from siftlens.pretraining.diary import note_part
from siftlens.pretraining.guide import GradientGuide, KeypointGuide
from siftlens.pretraining.images import HeldImages, hold, in_order_of
from siftlens.pretraining.launch import launch
from siftlens.pretraining.loop import Finished, Pace, Run
from siftlens.pretraining.settings import PretrainSettings
from siftlens.pretraining.trouble import step_errors

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_FILES = (ENCODER, "log.csv", "knn.csv", "reconstructions.png", "run.json")
_PIXELS = "images.npy"  # of squares that several processes share, or that memory cannot hold


@dataclass(frozen=True)
class Pretrained:
    """A finished pre-training.

    Attributes:
        encoder: its weights, which load into timm and into `siftlens analyze`.
        images: that were trained on.
        aside: that were not, and why.
        finished: loss, k-NN and time.
    """

    encoder: Path
    images: int
    aside: tuple[Quarantined, ...]
    finished: Finished


def pretrain(
    images: Any,
    out: Path,
    settings: PretrainSettings | None = None,
    *,
    keypoints: Path | None = None,
    pace: Pace | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str | None = None,
    workers: int = 0,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> Pretrained:
    """Train a masked autoencoder on images, and write its encoder.

    Under torchrun, every process calls this, and they work as one; `out` is then a folder that all of them see.

    Args:
        images: a folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths; or a collection
            in memory.
        out: folder for encoder.safetensors, state.safetensors, log.csv, knn.csv, reconstructions.png and run.json.
        settings: what is computed.
        keypoints: the file that `siftlens keypoints` wrote; needed where the settings are guided by keypoints.
        pace: how it is carried out.
        resume: go on with the run in `out`, where there is one.
        device: "cpu", "cuda" or "auto".
        precision: "fp32" or "bf16"; by default bf16 where the hardware computes with it.
        workers: processes that decode beside this one.
        progress: called with a stage, images done and images to do.

    Raises:
        InputError: an argument, an image folder, a keypoint file or a setting is not what was expected.
        StudyError: the run to resume is damaged, or of other settings, images or keypoints.
        NothingReadableError: not one image can be used.
        SiftlensError: the loss is not finite, memory ran out, or a process is gone; the last checkpoint stays.
    """
    settings, pace = settings or PretrainSettings(), pace or Pace()
    if isinstance(images, str | PathLike) and _among(out, str(images)):
        raise InputError(f"{out} lies in {images}, where its pictures would be trained on; choose a folder elsewhere")
    if is_result(out):
        raise InputError(f"{out} holds a study, an audit or a prompt; choose another folder, or remove that one first")
    _expect_asked(out, resume=resume)
    if not (out / STATE).exists():
        expect_free(out, but=RUN, files=_FILES)
    store = None
    if settings.needs_keypoints:
        if keypoints is None:
            raise InputError(
                f"guidance by keypoints needs their file; make it (siftlens keypoints --size {settings.side}) and "
                "name it (--keypoints FILE)"
            )
        store = KeypointStore.load(keypoints)
    elif keypoints is not None:
        raise InputError(
            f"{keypoints} was named, but nothing is guided by keypoints; say what is (--policy keypoint-high with an "
            "--alpha above 0, --decode with --ranked, or --loss-temperature), or leave --keypoints out"
        )
    model, normalization = build(settings)
    fabric = launch(device, precision)
    parts = fabric.world_size * pace.accumulate
    if settings.batch_size % parts:
        raise InputError(
            f"a batch of {settings.batch_size} images cannot be shared equally by {parts} parts; "
            f"choose a multiple of {parts}"
        )
    with held(out) if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            _expect_asked(out, resume=resume)  # again: another run may have ended meanwhile
            discard_unfinished(out)
        with step_errors(out):
            squares = _squares(fabric, images, settings.side, out, workers, progress)
        batches = Batches(squares, guide_of(settings, store, squares), model.layout.grid, settings)
        run = Run(fabric, model, normalization, squares, batches, settings, out, pace, progress)
        if fabric.is_global_zero and run.first < batches.steps:
            about = {
                "settings": settings.describe(),
                "images": len(squares),
                "aside": {image.identity: image.reason for image in squares.aside},
            }
            how = {
                "device": str(fabric.device),
                "precision": str(fabric._precision.precision),
                "processes": fabric.world_size,
                "accumulate": pace.accumulate,
                "compile": pace.compile,
                "torch": torch.__version__,
            }
            make_own(out)
            note_part(out, about, run.first, how)
        finished = run.train()
        if fabric.is_global_zero:
            (out / _PIXELS).unlink(missing_ok=True)
    return Pretrained(out / ENCODER, len(squares), squares.aside, finished)


def _expect_asked(out: Path, *, resume: bool) -> None:
    """Refuse a run to go on with that nobody asked to go on with."""
    if (out / STATE).exists() and not resume:
        raise InputError(f"{out} holds a run already; go on with it (--resume), or choose another folder")


def _among(out: Path, images: str) -> bool:
    """Whether files in a folder would be among the images of a folder or a glob."""
    there, file = Path(images).resolve(), str((out / "reconstructions.png").resolve())
    globs = (str(there), str(there).replace("**/", ""))  # two stars also stand for no folder
    return out.resolve().is_relative_to(there) or any(fnmatchcase(file, glob) for glob in globs)


def _squares(
    fabric: "Fabric", images: Any, side: int, out: Path, workers: int, progress: Callable[[str, int, int], None]
) -> HeldImages:
    """The images; many processes decode them once, into a file that all of them read."""
    in_file = fabric.world_size > 1
    squares = None
    if fabric.is_global_zero:
        squares = hold(
            images, Shrinking(side, side), spill=out / _PIXELS, workers=workers, in_file=in_file, progress=progress
        )
        if not in_file:
            return squares
        if isinstance(squares.pixels, Tensor):
            squares = replace(squares, pixels=squares.pixels[:0].clone())  # which the others read from the file
    shared: HeldImages = fabric.broadcast(squares)
    if not isinstance(shared.pixels, Tensor):
        return shared
    pixels = np.load(out / _PIXELS, mmap_mode="c")[: len(shared)]
    return replace(shared, pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2))


def guide_of(settings: PretrainSettings, store: KeypointStore | None, squares: HeldImages) -> Guide | None:
    """What concentration is in a run; None where it has no say."""
    if not settings.guided:
        return None
    if store is None:
        return GradientGuide()
    return KeypointGuide(store, in_order_of(store, squares), other=settings.guide == "other")
