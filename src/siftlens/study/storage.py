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

from dataclasses import asdict, fields
from pathlib import Path

import pandas as pd
import xarray as xr

from siftlens.core import StudyError
from siftlens.data import RUN, disk_errors, expect_free, has_progress, read_record, write_page, write_record
from siftlens.interrelation.files import (
    read_gallery,
    write_arrays,
    write_gallery,
    write_quarantine,
    write_table,
)
from siftlens.interrelation.results import Result, RunInfo
from siftlens.report import render

REPORT = "index.html"
_HEADS = "heads.parquet"
_LAYERS = "layers.parquet"
_GROUPS = "heads_by_group.parquet"
_IMAGES = "images.parquet"
_ARRAYS = "arrays.nc"
_GALLERY = "gallery.npz"
_QUARANTINE = "quarantine.csv"
_FILES = (_HEADS, _LAYERS, _IMAGES, _ARRAYS, _GALLERY, _QUARANTINE)
FILES = (REPORT, _GROUPS, *_FILES)


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a complete study."""
    with disk_errors(folder):  # a name too long
        return (folder / RUN).exists()


def save(result: Result, folder: Path) -> None:
    """Write a study.

    Raises:
        InputError: the folder holds a study already, or cannot be written.
    """
    expect_free(folder, files=FILES)
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
    write_page(folder / REPORT, render(result))
    groups = () if result.heads_by_group is None else (_GROUPS,)
    write_record(folder / RUN, asdict(result.run), (*_FILES, *groups))


def _is_source(arrays: xr.Dataset, path: Path) -> bool:
    """Whether the arrays are read from this very file: the run wrote them here already."""
    source = arrays.encoding.get("source")
    return source is not None and path.exists() and Path(source).samefile(path)


def load(folder: Path) -> Result:
    """Read a study; its per-image arrays stay on disk until they are used.

    Raises:
        StudyError: missing, incomplete, damaged, changed, or written by a newer version.
    """
    if not folder.is_dir():
        raise StudyError(f"expected the folder of a study, but {folder} does not exist or is no folder")
    if not is_finished(folder):
        why = "it was interrupted (go on with it by --resume)" if has_progress(folder) else "it holds no study"
        raise StudyError(f"{folder} has no {RUN}: {why}")
    record = read_record(folder / RUN, "copy it again, or run the analysis again")
    groups = folder / _GROUPS
    return Result(
        heads=pd.read_parquet(folder / _HEADS),
        layers=pd.read_parquet(folder / _LAYERS),
        arrays=xr.open_dataset(folder / _ARRAYS, engine="h5netcdf"),
        images=pd.read_parquet(folder / _IMAGES),
        quarantine=pd.read_csv(folder / _QUARANTINE, dtype=str, keep_default_na=False),
        run=RunInfo(**{field.name: record[field.name] for field in fields(RunInfo)}),
        gallery=read_gallery(folder / _GALLERY),
        heads_by_group=pd.read_parquet(groups) if groups.exists() else None,
    )
