"""The whole analysis in one call."""

import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from loky import cpu_count
from torch import nn

from siftlens.core import InputError
from siftlens.data import RUN, discard_progress, expect_free, expect_same, held, open_images
from siftlens.engine import open_engine
from siftlens.interrelation.results import Result
from siftlens.interrelation.run import Progress, numbers_of, run
from siftlens.interrelation.settings import Measure, Settings
from siftlens.keypoints import KeypointCache
from siftlens.models import LoadedModel
from siftlens.models.given import AS_LOADED, Normalize, as_loaded
from siftlens.report import named_heads
from siftlens.study import storage
from siftlens.study.facade import Study

_FEW = 100  # images below which starting workers costs more than they save
_MOST_WORKERS = 16


def analyze(
    model: nn.Module | LoadedModel,
    images: str | PathLike[str] | Iterable[Any],
    *,
    normalize: Normalize = AS_LOADED,
    measure: Measure = "count",
    weighting: str = "attention",
    batch_size: int = 32,
    seed: int = 0,
    entropy: bool = False,
    exclude_outliers: bool = False,
    group_by: str | None = None,
    masks: str | PathLike[str] | None = None,
    limit: int | None = None,
    size: int | tuple[int, int] | None = None,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    cache: bool = True,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = lambda *_: None,
) -> Study:
    """Show how every layer's and head's attention flows between patches of different semantic concentration.

    Args:
        model: a vision transformer in evaluation mode, called as `model(x)`; or one from `siftlens.load_model`, which
            brings its own preprocessing.
        images: a folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths; or a collection
            of PIL images, uint8 pixels or float pixels in [0, 1], (height, width, 3) or (3, height, width). A model
            from `load_model` sees them through its own resize and crop, any other as they are: of one size, or resized
            and cropped to the first one's.
        normalize: what the model expects of pixels in [0, 1]: a name ("imagenet", "inception", "clip"), a (mean, std)
            pair, or None for a model that normalises by itself. Only a model from `load_model` has one of its own.
        measure: semantic concentration of a patch: "count", "response", "footprint", or a callable of (pixels, grid)
            that returns weights (rows, cols).
        weighting: "attention", or "value_norm" to weight each key by the norm of its value vector.
        batch_size: images per forward pass.
        seed: of the reference pool, the null maps and the bootstrap.
        entropy: also compute the entropy of every attention row.
        exclude_outliers: leave out patch tokens of outlier norm; runs the model twice.
        group_by: "folder" for a table per folder of images too.
        masks: folder of object masks, each named as its image is (with any image suffix) and of its proportions, bright
            where the object is. Tells how far concentration marks the object, and changes no other number.
        limit: at most so many images, spread evenly.
        size: px, or (height, width): input size of a model that did not come from `load_model`; needed for paths.
        engine: where to compute: "local", this machine; "ray", a Ray cluster, which gives the same numbers.
        address: of a running Ray cluster ("auto" for the one on this machine); None starts one on this machine's cores.
        workers: local: processes that decode and detect beside the model, 0 for none; ray: processes that run the
            model, while the cluster's cores decode and detect. None as fits.
        cache: keep keypoints on disk, so that a second run need not detect again.
        out: folder to write the study to while it is computed; without, the study is held in memory.
        resume: go on with an interrupted run in `out`.
        progress: called with a stage ("pool", "images", "gallery"), what is done and what there is to do.

    Returns:
        The study.

    Raises:
        CaptureError: the model's attention cannot be read, or not all of it.
        InputError: an argument, the images or the folder is not what was expected.
        ModelError: the model computes NaN or infinity.
        NothingReadableError: not one image can be read.

    Example:
        >>> study = siftlens.analyze(model, images, normalize="imagenet")
        >>> study.heads.query("statistic == 'semantic_pull'").nlargest(3, "effect")
    """
    if out is None and resume:
        raise InputError("resume=True goes on with a run in a folder; pass out=FOLDER")
    if masks is not None and not isinstance(images, str | PathLike):
        raise InputError("masks are found by the names of image files; pass images as a path too")
    source = open_images(images, limit=limit)
    loaded = as_loaded(model, source, normalize, size)
    settings = Settings(
        measure=measure,
        weighting=weighting,
        entropy=entropy,
        exclude_outliers=exclude_outliers,
        group_by=group_by,
        masks=None if masks is None else Path(masks),
        seed=seed,
        batch_size=batch_size,
        workers=_workers(len(source)) if workers is None and engine == "local" else workers,
    )

    def run_in(folder: Path) -> Result:
        with (
            open_engine(engine, workers=settings.workers, address=address, gpu=loaded.device.type == "cuda") as where,
            KeypointCache() if cache else nullcontext() as keypoints,
        ):
            result = run(
                loaded,
                source,
                settings,
                folder,
                engine=where,
                resume=resume,
                cache=keypoints,
                named=named_heads,
                progress=progress,
            )
        asked = {
            "source": str(images) if isinstance(images, str | PathLike) else "in memory",
            "limit": limit,
            "normalize": normalize if isinstance(normalize, str) else "own",
        }
        return replace(result, run=replace(result.run, settings=asked | result.run.settings))

    if out is None:
        with tempfile.TemporaryDirectory(prefix="siftlens-") as scratch:
            result = run_in(Path(scratch))
            with result.arrays as on_disk:
                return Study(replace(result, arrays=on_disk.load()))
    folder = Path(out)
    expect_free(folder, but=RUN if resume else None, files=storage.FILES)
    with held(folder):
        expect_free(folder, but=RUN if resume else None)  # again: another run may have ended meanwhile
        if storage.is_finished(folder):
            finished = _finished(folder, numbers_of(loaded, source, settings))
            discard_progress(folder)  # where it was stopped between saving and this
            return finished
        result = run_in(folder)
        storage.save(result, folder)
        discard_progress(folder)
    return Study(result)


def _finished(folder: Path, numbers: dict[str, Any]) -> Study:
    """The study in the folder, where it is the one that was asked for."""
    study = Study(storage.load(folder))
    expect_same(folder, {name: study.run.settings.get(name) for name in numbers}, numbers)
    return study


def _workers(images: int) -> int:
    if images < _FEW:
        return 0
    # As many as cores: where the model is what takes time, they wait for it.
    return int(min(_MOST_WORKERS, cpu_count()))
