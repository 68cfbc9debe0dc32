"""Parquet files of images, a row each, read in place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from siftlens.core import InputError
from siftlens.data import Preprocessing, Unreadable, decode, open_images

SIDE = 13


def png(value):
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", (SIDE, SIDE), (value, 10, 20)).save(file, format="PNG")
    return file.getvalue()


def write(path, columns, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return path


def red_of(source):
    return [int(decode(ref, Preprocessing(SIDE, SIDE))[0, 0, 0]) for ref in source]


def test_rows_are_images_in_their_order_with_the_names_of_their_classes(tmp_path):
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    images = [{"bytes": png(value), "path": "the same"} for value in (5, 3, 4)]
    write(tmp_path / "a.parquet", {"image": images, "label": [1, 0, 1]}, {"huggingface": json.dumps(features)})
    write(tmp_path / "b.parquet", {"id": ["x"], "png": [png(2)]})
    source = open_images(tmp_path)
    assert [(ref.identity, ref.group) for ref in source] == [
        ("a.parquet/000000000", "dog"),
        ("a.parquet/000000001", "cat"),
        ("a.parquet/000000002", "dog"),
        ("b.parquet/000000000", ""),
    ]
    assert red_of(source) == [5, 3, 4, 2]
    assert red_of(open_images(tmp_path / "a.parquet")) == [5, 3, 4]


def test_labels_without_names_are_what_they_are(tmp_path):
    write(tmp_path / "a.parquet", {"image": [png(1), png(2)], "cls": ["n01", "n02"]})
    assert [ref.group for ref in open_images(tmp_path)] == ["n01", "n02"]


def test_a_row_without_an_image_and_one_with_another_thing_are_unreadable(tmp_path):
    source = open_images(write(tmp_path / "a.parquet", {"image": [None, b"text"]}))
    for ref, reason in zip(source, ("empty file", "not an image"), strict=True):
        with pytest.raises(Unreadable, match=reason):
            decode(ref, Preprocessing(SIDE, SIDE))


def test_a_file_without_images_or_cut_off_is_told(tmp_path):
    with pytest.raises(InputError, match="has no column of image bytes, but name, label"):
        open_images(write(tmp_path / "a.parquet", {"name": ["x"], "label": [3]}))
    whole = write(tmp_path / "b.parquet", {"image": [png(1)]})
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot read .*b\.parquet as a Parquet file"):
        open_images(whole)
    write(whole, {"image": [png(1)]})
    footer = bytearray(whole.read_bytes())
    footer[-40:-8] = b"\x0e" * 32  # of which Arrow speaks in two lines
    whole.write_bytes(footer)
    with pytest.raises(InputError, match=r"^cannot read [^\n]*; fetch or write it again$"):
        open_images(whole)


def test_labels_that_cannot_be_read_are_told(tmp_path):
    twice = pa.Table.from_arrays([pa.array([png(1)]), pa.array(["a"]), pa.array(["b"])], ["image", "label", "label"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    extreme = pa.array([2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"image": [png(1)], "label": extreme}), tmp_path / "extreme.parquet")
    for name, told in (("twice", "label.*exists 2 times"), ("extreme", "out of range")):
        with pytest.raises(InputError, match=f"cannot read the column label of .*{name}.parquet .*{told}"):
            open_images(tmp_path / f"{name}.parquet")


def test_labels_as_bytes_or_missing(tmp_path):
    labels = pa.array([b"<b>", b"\xff", None], pa.binary())
    path = write(tmp_path / "a.parquet", {"image": [png(1), png(2), png(3)], "label": labels})
    assert [ref.group for ref in open_images(path)] == ["<b>", "\\xff", ""]


def test_a_group_of_rows_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("siftlens.data.parquet._LARGEST_GROUP", 2**20)
    path = write(tmp_path / "a.parquet", {"image": [png(1), bytes(2**20)]})
    assert path.stat().st_size < 2**18  # it is compressed
    with pytest.raises(InputError, match=r"a\.parquet has 0\.0 GB in one group of rows, .* \(row_group_size=100\)"):
        open_images(path)
