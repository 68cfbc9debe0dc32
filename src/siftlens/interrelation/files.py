"""Writing what grows with the number of images in pieces, so that memory does not grow with it."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from siftlens.data import atomic_path, reserve
from siftlens.interrelation.kept_rows import KeptRows
from siftlens.interrelation.results import GalleryImage

_BLOCK_BYTES = 16 * 2**20
_OVERHEAD = 16 * 2**20  # bytes of an HDF5 file beside its arrays: chunks that are not full, indices


def write_arrays(path: Path, arrays: xr.Dataset) -> None:
    """Write labelled arrays as NetCDF; those along `image` are copied block by block from wherever they are.

    Raises:
        InputError: the disk is full or read-only.
    """
    images = arrays.sizes.get("image", 0)
    grown = {name: variable for name, variable in arrays.variables.items() if "image" in variable.dims}
    per_image = sum(variable.nbytes for variable in grown.values()) // max(images, 1)
    block = max(1, _BLOCK_BYTES // max(per_image, 1))
    with atomic_path(path) as target:
        reserve(target, arrays.nbytes + _OVERHEAD)  # HDF5 brings the process down where a write fails
        # xarray writes labels, attributes and the first block; the rest follows along the unlimited dimension.
        first = arrays.isel(image=slice(0, block)) if grown else arrays
        first.to_netcdf(target, engine="h5netcdf", unlimited_dims=["image"] if grown else [])
        if images <= block:
            return
        with h5netcdf.File(target, "a") as file:
            file.resize_dimension("image", images)
            for start in range(block, images, block):
                stop = min(start + block, images)
                for name, variable in grown.items():
                    part = variable.isel(image=slice(start, stop)).transpose("image", ...).to_numpy()
                    file.variables[str(name)][start:stop] = part


def write_images(path: Path, lines: Iterable[Mapping[str, Any]], schema: pa.Schema, *, group: int = 8192) -> None:
    """Write a table of images from an iterator, a row group at a time.

    Raises:
        InputError: the disk is full or read-only.
    """
    with atomic_path(path) as target, pq.ParquetWriter(target, schema) as writer:
        rows: list[Mapping[str, Any]] = []
        for line in lines:
            rows.append(line)
            if len(rows) == group:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a small table as Parquet."""
    with atomic_path(path) as target:
        table.to_parquet(target, index=False)


def write_quarantine(path: Path, quarantine: pd.DataFrame) -> None:
    """Write the images set aside as CSV; quotes, commas and line breaks in names are escaped."""
    with atomic_path(path) as target:
        quarantine.to_csv(target, index=False, lineterminator="\n")


def write_gallery(path: Path, gallery: Iterable[GalleryImage]) -> None:
    """Write the images to look at into one compressed NumPy file: `NUMBER.field`, `NUMBER.whole.field` and so on."""
    arrays = {
        f"{number}.{name}": array for number, image in enumerate(gallery) for name, array in _arrays_of(image).items()
    }
    with atomic_path(path) as target, target.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_gallery(path: Path) -> tuple[GalleryImage, ...]:
    """Read what `write_gallery` wrote.

    Raises:
        OSError, ValueError, EOFError, BadZipFile, TypeError: the file is damaged.
    """
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = dict(file)
    images: dict[str, dict[str, Any]] = {}
    for key, array in arrays.items():
        number, *names = key.split(".")
        part = images.setdefault(number, dict.fromkeys(_OPTIONAL))
        *outer, name = names
        for kind in outer:
            part[kind] = part = part[kind] or dict.fromkeys(_OPTIONAL_IN_ROWS)
        part[name] = str(array) if name == "identity" else array
    return tuple(_image(images[number]) for number in sorted(images, key=int))


_ROWS = ("whole", "strongest")
_OPTIONAL = ("cls_attention", "cls_scale", *_ROWS)  # what a model without a class token, or a large one, does not have
_OPTIONAL_IN_ROWS = ("keys",)


def _arrays_of(part: GalleryImage | KeptRows) -> dict[str, np.ndarray]:
    """Every array in it, those of its parts by `part.field`."""
    arrays: dict[str, np.ndarray] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, KeptRows):
            arrays |= {f"{field.name}.{name}": array for name, array in _arrays_of(value).items()}
        elif value is not None:
            arrays[field.name] = np.asarray(value)
    return arrays


def _image(parts: dict[str, Any]) -> GalleryImage:
    return GalleryImage(**parts | {name: parts[name] and KeptRows(**parts[name]) for name in _ROWS})
