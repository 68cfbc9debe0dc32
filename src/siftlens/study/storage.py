"""A study as a folder: which files, and what must hold for them to be one.

index.html         the report
heads.parquet      a row per layer, head and statistic
layers.parquet     means over heads, a row per layer and statistic
heads_by_group.parquet   the rows of heads.parquet per group, where images were grouped
images.parquet     a row per image
arrays.nc          labelled arrays, merged and per image
gallery.npz        the images that the report shows
quarantine.csv     a row per image set aside
run.json           how it was run; written last, so its presence says that the study is complete
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import xarray as xr

from siftlens.core import InputError, StudyError
from siftlens.data import atomic_path, disk_errors
from siftlens.interrelation.files import (
    read_gallery,
    write_arrays,
    write_gallery,
    write_quarantine,
    write_table,
)
from siftlens.interrelation.results import Result, RunInfo
from siftlens.report import render

FORMAT = 1
RUN = "run.json"
REPORT = "index.html"
_HEADS = "heads.parquet"
_LAYERS = "layers.parquet"
_GROUPS = "heads_by_group.parquet"
_IMAGES = "images.parquet"
_ARRAYS = "arrays.nc"
_GALLERY = "gallery.npz"
_QUARANTINE = "quarantine.csv"
_FILES = (REPORT, _HEADS, _LAYERS, _IMAGES, _ARRAYS, _GALLERY, _QUARANTINE)

_T = TypeVar("_T")


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a complete study."""
    return (folder / RUN).exists()


def expect_free(folder: Path, *, resume: bool) -> None:
    """Refuse a folder whose finished study would be overwritten.

    Raises:
        InputError: it holds one, and nothing is to be resumed.
    """
    if is_finished(folder) and not resume:
        raise InputError(f"{folder} holds a finished study; choose another folder, or remove that one first")


def save(result: Result, folder: Path) -> None:
    """Write a study.

    Raises:
        InputError: the folder holds a study already, or cannot be written.
    """
    expect_free(folder, resume=False)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / _HEADS, result.heads)
    write_table(folder / _LAYERS, result.layers)
    if result.heads_by_group is not None:
        write_table(folder / _GROUPS, result.heads_by_group)
    write_table(folder / _IMAGES, result.images)
    if not _is_source(result.arrays, folder / _ARRAYS):
        write_arrays(folder / _ARRAYS, result.arrays)
    write_gallery(folder / _GALLERY, result.gallery)
    write_quarantine(folder / _QUARANTINE, result.quarantine)
    with atomic_path(folder / REPORT) as path:
        path.write_text(render(result), encoding="utf-8")
    with atomic_path(folder / RUN) as path:
        path.write_text(json.dumps({"format": FORMAT, **asdict(result.run)}, indent=2) + "\n", encoding="utf-8")


def _is_source(arrays: xr.Dataset, path: Path) -> bool:
    """Whether the arrays are read from this very file: the run wrote them here already."""
    source = arrays.encoding.get("source")
    return source is not None and path.exists() and Path(source).samefile(path)


def load(folder: Path) -> Result:
    """Read a study; its per-image arrays stay on disk until they are used.

    Raises:
        StudyError: missing, incomplete, damaged, or written by a newer version.
    """
    if not folder.is_dir():
        raise StudyError(f"expected the folder of a study, but {folder} does not exist or is no folder")
    if not is_finished(folder):
        raise StudyError(f"{folder} has no {RUN}: no study, or one that was interrupted (go on with it by --resume)")
    run = _read(folder / RUN, _run_info)
    for name in _FILES:
        if not (folder / name).is_file():
            raise StudyError(f"{folder} lacks {name}; copy the whole folder, or run the analysis again")
    heads = _read(folder / _HEADS, pd.read_parquet)
    layers = _read(folder / _LAYERS, pd.read_parquet)
    images = _read(folder / _IMAGES, pd.read_parquet)
    arrays = _read(folder / _ARRAYS, lambda path: xr.open_dataset(path, engine="h5netcdf"))
    quarantine = _read(folder / _QUARANTINE, lambda path: pd.read_csv(path, dtype=str, keep_default_na=False))
    groups = folder / _GROUPS
    for name, table, needed in (
        (_HEADS, heads, {"layer", "head", "statistic", "value", "effect", "low", "high", "n"}),
        (_LAYERS, layers, {"layer", "statistic", "value", "effect", "low", "high", "n"}),
        (_IMAGES, images, {"identity", "content", "group", "keypoints", "covered"}),
        (_QUARANTINE, quarantine, {"identity", "reason"}),
    ):
        if missing := sorted(needed - set(table.columns)):
            raise StudyError(f"{folder / name} lacks the columns {', '.join(missing)}; run the analysis again")
    for name, found, expected in (
        (_IMAGES, len(images), run.images),
        (_ARRAYS, arrays.sizes.get("image"), run.images),
        (_QUARANTINE, len(quarantine), run.quarantined),
    ):
        if found != expected:
            raise StudyError(f"{folder / name} has {found} images, {RUN} says {expected}; run the analysis again")
    return Result(
        heads=heads,
        layers=layers,
        arrays=arrays,
        images=images,
        quarantine=quarantine,
        run=run,
        gallery=_read(folder / _GALLERY, read_gallery),
        heads_by_group=_read(groups, pd.read_parquet) if groups.exists() else None,
    )


def _read(path: Path, reader: Callable[[Path], _T]) -> _T:
    try:
        return reader(path)
    except StudyError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise StudyError(
            f"{path} is damaged or cut off ({reason}); copy it again, or run the analysis again"
        ) from error


def _run_info(path: Path) -> RunInfo:
    values: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise StudyError(f"{path} should hold one JSON object, got {type(values).__name__}; run the analysis again")
    written = values.pop("format", None)
    if not isinstance(written, int):
        raise StudyError(f"{path} names no format; it was not written by siftlens")
    if written > FORMAT:
        raise StudyError(f"{path} has format {written}, this siftlens reads up to {FORMAT}; update siftlens")
    kinds: dict[str, type | tuple[type, ...]] = {
        "images": int,
        "quarantined": int,
        "pool": int,
        "covered": (int, float),
        "started": str,
    }
    for field in fields(RunInfo):
        if field.name not in values:
            raise StudyError(f"{path} lacks {field.name!r}; run the analysis again")
        kind = kinds.get(field.name, dict)
        if not isinstance(values[field.name], kind):
            raise StudyError(f"{path}: {field.name!r} is of the wrong kind; run the analysis again")
    return RunInfo(**{field.name: values[field.name] for field in fields(RunInfo)})
