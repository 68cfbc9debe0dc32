import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from siftlens.interrelation import files
from siftlens.interrelation.files import read_gallery, write_arrays, write_gallery, write_images
from siftlens.interrelation.kept_rows import KeptRows, quantised
from siftlens.interrelation.results import GalleryImage

RANDOM = np.random.default_rng(7)


def dataset(images, pull=None):
    pull = RANDOM.normal(size=(images, 3, 5)).astype(np.float32) if pull is None else pull
    return xr.Dataset(
        {
            "level_mass": (("layer", "head", "level"), RANDOM.normal(size=(3, 5, 2))),
            "level_n": ("level", np.array([11, 13])),
            "semantic_pull": (("image", "layer", "head"), pull),
        },
        coords={
            "layer": [0, 1, 2],
            "layer_name": ("layer", ["a.attn", "b.attn", "c.attn"]),
            "head": np.arange(5),
            "level": ["0", "8+"],
            "image": np.array([f"dir/é{number}.jpg" for number in range(images)], dtype=object),
        },
    )


@pytest.mark.parametrize("images", [1, 2, 7, 16, 17])
def test_arrays_come_back_as_they_were(tmp_path, monkeypatch, images):
    arrays = dataset(images)
    per_image = sum(arrays[name].nbytes for name in ("semantic_pull", "image")) // images
    monkeypatch.setattr(files, "_BLOCK_BYTES", 4 * per_image)
    write_arrays(tmp_path / "arrays.nc", arrays)
    with xr.open_dataset(tmp_path / "arrays.nc", engine="h5netcdf") as found:
        xr.testing.assert_identical(found.load(), arrays)


def test_arrays_without_images_are_written_too(tmp_path):
    arrays = dataset(3).drop_dims("image")
    write_arrays(tmp_path / "arrays.nc", arrays)
    with xr.open_dataset(tmp_path / "arrays.nc", engine="h5netcdf") as found:
        xr.testing.assert_identical(found.load(), arrays)


def test_writing_arrays_takes_a_block_of_memory_not_all(tmp_path, monkeypatch):
    images, block = 200_000, 2**20
    pull = np.memmap(tmp_path / "rows", np.float32, mode="w+", shape=(images, 2, 3, 5))
    arrays = dataset(images, pull[:, 1]).drop_vars("image")
    monkeypatch.setattr(files, "_BLOCK_BYTES", block)
    tracemalloc.start()
    try:
        write_arrays(tmp_path / "arrays.nc", arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert arrays["semantic_pull"].nbytes > 10 * block
    assert peak < 6 * block


def test_images_are_written_in_row_groups(tmp_path):
    schema = pa.schema([("identity", pa.string()), ("keypoints", pa.int32())])
    lines = [{"identity": f"{number}", "keypoints": number} for number in range(23)]
    write_images(tmp_path / "images.parquet", iter(lines), schema, group=5)
    file = pq.ParquetFile(tmp_path / "images.parquet")
    assert file.num_row_groups == 5
    assert file.read().to_pylist() == lines


def gallery_image(identity, *, cls):
    maps = (RANDOM.random((2, 3, 5, 7)) * 255).astype(np.uint8)
    scale = RANDOM.random((2, 3)).astype(np.float32)
    points = RANDOM.random((3, 11)).astype(np.float32)
    shares = RANDOM.random((3, 35, 35)) / 35
    keys = np.sort(RANDOM.permuted(np.tile(np.arange(35), (2, 35, 1)), axis=2)[:, :, :3]).astype(np.uint16)
    return GalleryImage(
        identity=identity,
        pixels=(RANDOM.random((10, 14, 3)) * 255).astype(np.uint8),
        keypoint_x=points[0],
        keypoint_y=points[1],
        keypoint_size=points[2],
        concentration=RANDOM.random((5, 7)).astype(np.float32),
        cls_attention=maps if cls else None,
        cls_scale=scale if cls else None,
        received=maps[::-1].copy(),
        received_scale=scale[::-1].copy(),
        whole=quantised(shares[:1], [(1, 2)]) if cls else None,
        strongest=quantised(shares[1:, :, :3], [(0, 1), (0, 3)], keys) if cls else None,
    )


def test_the_gallery_comes_back_as_it_was(tmp_path):
    gallery = [gallery_image(f"{number}<é>.jpg", cls=number % 2 == 0) for number in range(11)]
    write_gallery(tmp_path / "gallery.npz", gallery)
    found = read_gallery(tmp_path / "gallery.npz")
    assert len(found) == len(gallery)
    for one, other in zip(found, gallery, strict=True):
        for name, value in vars(other).items():
            if isinstance(value, KeptRows):
                for part, array in vars(value).items():
                    np.testing.assert_array_equal(getattr(getattr(one, name), part), array)
            else:
                np.testing.assert_array_equal(getattr(one, name), value)


def test_an_empty_gallery_comes_back_empty(tmp_path):
    write_gallery(tmp_path / "gallery.npz", [])
    assert read_gallery(tmp_path / "gallery.npz") == ()


def test_a_gallery_that_lacks_something_is_refused(tmp_path):
    np.savez(tmp_path / "gallery.npz", **{"0.identity": np.asarray("a.jpg")})
    with pytest.raises(TypeError, match="missing .*required"):
        read_gallery(tmp_path / "gallery.npz")
