"""One pass over the images: from files to a finished analysis, in memory that does not grow with their number."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import xarray as xr

from siftlens import __version__
from siftlens.core import InputError, TokenLayout
from siftlens.data import PROGRESS, ImageSource
from siftlens.engine import Engine, LocalEngine
from siftlens.interrelation.clock import Clock
from siftlens.interrelation.files import write_arrays, write_images
from siftlens.interrelation.forward import model_layout
from siftlens.interrelation.gallery import gallery_images
from siftlens.interrelation.gallery_budget import Head, heads_by_importance
from siftlens.interrelation.gallery_choice import choose_images, prepared_again
from siftlens.interrelation.main_pass import MainPass
from siftlens.interrelation.parts import ChunkReader
from siftlens.interrelation.provenance import hardware, versions
from siftlens.interrelation.reference import reference_pool
from siftlens.interrelation.results import Result, RunInfo
from siftlens.interrelation.settings import MAX_GROUPS, Settings
from siftlens.interrelation.spool import Spool
from siftlens.keypoints import KeypointCache
from siftlens.models import LoadedModel
from siftlens.patchmaps import PrepareSettings, mask_file

COMMIT_SECONDS = 10.0  # work that a crash may cost; a commit of 12 x 12 heads writes 40 MB
_IMAGE_COLUMNS = pa.schema(
    [
        ("identity", pa.string()),
        ("content", pa.string()),
        ("group", pa.string()),
        ("keypoints", pa.int32()),
        ("covered", pa.float32()),
        ("outlier_tokens", pa.int32()),
        ("mask_auroc", pa.float32()),
    ]
)

Progress = Callable[[str, int, int], None]
Named = Callable[[pd.DataFrame, pd.DataFrame], Sequence[Head]]


def run(
    model: LoadedModel,
    source: ImageSource,
    settings: Settings,
    folder: Path,
    *,
    engine: Engine | None = None,
    resume: bool = False,
    cache: KeypointCache | None = None,
    named: Named = lambda *_: (),
    progress: Progress = lambda *_: None,
    commit_seconds: float = COMMIT_SECONDS,
) -> Result:
    """Analyse a model on images.

    What grows with the images goes to `folder`: at the end arrays.nc and images.parquet, from which the result is
    read, and meanwhile a folder `.progress`, from which an interrupted analysis can go on. Whoever has saved the
    result removes that by `discard_progress`.

    Args:
        model: the model with its preprocessing.
        source: the images; gone through twice.
        settings: what to compute.
        folder: for the files.
        engine: where to compute; None for this machine, with `settings.workers` processes.
        resume: go on from the last commit in `folder`.
        cache: of keypoints; None detects anew.
        named: which heads the findings of such tables (of heads, of layers) call out, to keep their attention whole.
        progress: called with a stage ("pool", "images", "gallery"), what is done and what there is to do.
        commit_seconds: time between commits.

    Raises:
        CaptureError: attention that cannot be read.
        InputError: the folder cannot be written or holds another run; no memory left; too many groups.
        ModelError: the model computes NaN or infinity.
        NothingReadableError: not one image can be read.
    """
    engine = engine or LocalEngine(settings.workers or 0)
    clock = Clock()
    _limit_groups(source, settings)
    _expect_masks(source, settings)
    layout = model_layout(model)
    prepare = PrepareSettings(model.preprocessing, layout.grid, measure=settings.measure, masks=settings.masks)
    numbers = numbers_of(model, source, settings)
    spool = Spool(folder / PROGRESS, numbers, resume=resume)
    try:
        with clock("pool"):
            pool = reference_pool(
                source,
                replace(prepare, rivals=False),
                seed=settings.seed,
                engine=engine,
                cache=cache,
                done=lambda done, total: progress("pool", done, total),
            )
        main = MainPass(settings, pool, spool, clock)
        main.go(
            engine,
            ChunkReader(model, layout, settings, pool),
            source,
            prepare,
            cache=cache,
            done=lambda done, total: progress("images", done, total),
            commit_seconds=commit_seconds,
        )
        with clock("results"):
            found, by_group = main.results()
            write_images(folder / "images.parquet", spool.image_lines(), _IMAGE_COLUMNS)
            images = pd.read_parquet(folder / "images.parquet")
            write_arrays(folder / "arrays.nc", _with_images(found.arrays, images, spool, main.facts["variables"]))
            quarantine = pd.DataFrame(spool.quarantine_lines(), columns=["identity", "reason"], dtype=str)
    finally:
        spool.close()
    arrays = xr.open_dataset(folder / "arrays.nc", engine="h5netcdf")
    with clock("gallery"):
        calls_out = named(found.heads, found.layers)
        chosen = images.iloc[list(choose_images(arrays, images, calls_out, pool.identities))]
        progress("gallery", 0, len(chosen))
        gallery = gallery_images(
            prepared_again(source, chosen, replace(prepare, rivals=False), cache),
            model,
            layout,
            heads_by_importance(found.heads, calls_out),
            calls_out,
            lambda done: progress("gallery", done, len(chosen)),
        )
        progress("gallery", len(chosen), len(chosen))
    info = RunInfo(
        settings=numbers | {"engine": engine.name, "batch_size": settings.batch_size, "workers": settings.workers},
        model=model.describe() | _described(layout),
        versions=versions(),
        hardware=hardware(model.device),
        timings=dict(clock.seconds),
        started=main.facts["started"],
        images=len(images),
        quarantined=len(quarantine),
        pool=pool.size,
        covered=float(images["covered"].mean()),
    )
    return Result(found.heads, found.layers, arrays, images, quarantine, info, gallery, by_group)


def numbers_of(model: LoadedModel, source: ImageSource, settings: Settings) -> dict[str, Any]:
    """Everything that the numbers depend on, as JSON values: an analysis goes on only with the same."""
    names, sizes = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for ref in source:
        names.update(ref.identity.encode("utf-8", "surrogateescape") + b"\0")
        sizes.update(f"{ref.stored_bytes} ".encode())
    return settings.numbers() | {
        "siftlens": __version__,
        **model.numbers(),
        "images": len(source),
        "names": names.hexdigest(),
        "file_sizes": sizes.hexdigest(),  # images that were changed under their names
    }


def _limit_groups(source: ImageSource, settings: Settings) -> None:
    if settings.group_by is None:
        return
    groups = {ref.group for ref in source}
    if len(groups) > MAX_GROUPS:
        raise InputError(
            f"expected at most {MAX_GROUPS} groups, got {len(groups)} folders; leave out --group-by, or analyse some "
            "folders at a time"
        )


def _expect_masks(source: ImageSource, settings: Settings) -> None:
    folder = settings.masks
    if folder is not None and not any(mask_file(folder, ref.identity) for ref in source):
        name = next(iter(source)).identity
        raise InputError(
            f"no mask in {folder} is named as one of the images; expected, say, {folder / name} with any image suffix"
        )


def _described(layout: TokenLayout) -> dict[str, int]:
    grid = layout.grid
    return {
        "rows": grid.rows,
        "cols": grid.cols,
        "patch_height": grid.patch_height,
        "patch_width": grid.patch_width,
        "class_tokens": layout.class_tokens,
        "registers": layout.registers,
    }


def _with_images(merged: xr.Dataset, images: pd.DataFrame, spool: Spool, variables: list[str]) -> xr.Dataset:
    """Add the statistics of every image, which stay on disk."""
    rows = spool.rows()
    per_image = {name: (("image", "layer", "head"), rows[:, index]) for index, name in enumerate(variables)}
    return merged.assign(per_image).assign_coords(image=images["identity"].to_numpy(dtype=object))
