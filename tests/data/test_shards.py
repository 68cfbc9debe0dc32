"""Tar files as WebDataset writes them, read in place."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from siftlens.core import InputError
from siftlens.data import Preprocessing, Unreadable, decode, open_images

SIDE = 13


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (value, 10, 20)).save(file, format="PNG")
    return file.getvalue()


def write(path, members: dict[str, bytes]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            found = tarfile.TarInfo(name)
            found.size = len(content)
            archive.addfile(found, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    """Two shards: one with classes in .cls files, one with folders."""
    first = {
        "0002.json": b"{}",
        "0002.png": png(2),
        "0001.cls": b"7\n",
        "0001.png": png(1),
        "0002.cls": b"3",
        "0001.mask.png": png(200),
    }
    write(tmp_path / "shards" / "train-0.tar", first)
    write(tmp_path / "shards" / "train-1.tar", {"dog/0003.PNG": png(3), "cat/0004.png": png(4), "dog/._x.png": b"?"})
    return tmp_path / "shards"


def red_of(source) -> list[int]:
    return [int(decode(ref, Preprocessing(SIDE, SIDE))[0, 0, 0]) for ref in source]


def test_images_are_found_with_their_classes_and_nothing_else(shards):
    expected = [
        ("train-0.tar/0001.png", "7"),
        ("train-0.tar/0002.png", "3"),
        ("train-1.tar/cat/0004.png", "cat"),
        ("train-1.tar/dog/0003.PNG", "dog"),
    ]
    for way in (shards, f"{shards}/*.tar"):
        source = open_images(way)
        assert [(ref.identity, ref.group) for ref in source] == expected
        assert red_of(source) == [1, 2, 4, 3]


def test_one_shard_and_shards_beside_files(shards):
    assert red_of(open_images(shards / "train-1.tar")) == [4, 3]
    assert red_of(open_images(shards, limit=2)) == [1, 4]
    (shards / "a.png").write_bytes(png(9))
    assert red_of(open_images(shards)) == [9, 1, 2, 4, 3]


def test_a_broken_image_in_a_shard_is_set_aside_alone(tmp_path):
    shard = write(tmp_path / "x.tar", {"a.png": png(1)[:-30], "b.png": b"", "c.png": png(3)})
    refs = list(open_images(shard))
    for ref, reason in zip(refs, ("damaged|truncated", "empty file"), strict=False):
        with pytest.raises(Unreadable, match=reason):
            decode(ref, Preprocessing(SIDE, SIDE))
    assert red_of(refs[2:]) == [3]


def test_a_shard_that_is_gone_by_now_is_said(shards):
    ref = next(iter(open_images(shards)))
    (shards / "train-0.tar").unlink()
    with pytest.raises(InputError, match=r"the file of the images, .*train-0\.tar, cannot be read any more \(no such"):
        decode(ref, Preprocessing(SIDE, SIDE))


def test_dots_before_digits_are_part_of_a_name_and_a_leading_dot_of_the_path_is_not(tmp_path):
    members = {"./IMG_2020.01.05.png": png(5), "./IMG_2020.01.06.png": png(6), "./IMG_2020.01.06.cls": b"six"}
    source = open_images(write(tmp_path / "x.tar", members | {"./.5.png": b"hidden"}))
    assert [(ref.identity, ref.group) for ref in source] == [
        ("x.tar/IMG_2020.01.05.png", ""),
        ("x.tar/IMG_2020.01.06.png", "six"),
    ]
    assert red_of(source) == [5, 6]


def test_what_is_told_of_a_shard_in_a_table_beside_it_is_no_images(tmp_path):
    # As img2dataset leaves them: 00000.tar, and 00000.parquet with captions and addresses
    write(tmp_path / "00000.tar", {"0.png": png(4)})
    pq.write_table(pa.table({"url": ["a"], "caption": ["b"]}), tmp_path / "00000.parquet")
    assert red_of(open_images(tmp_path)) == [4]
    with pytest.raises(InputError, match="has no column of image bytes"):
        open_images(tmp_path / "00000.parquet")


@pytest.mark.parametrize(("left", "reason"), [(5 * 1024 + 520, "unexpected end"), (5 * 1024, "its end is missing")])
def test_what_is_no_shard_is_refused(shards, left, reason):
    whole = (shards / "train-0.tar").read_bytes()
    assert whole[left:].rstrip(b"\0")  # there was more
    (shards / "train-0.tar").write_bytes(whole[:left])
    with pytest.raises(InputError, match=rf"cannot read .*train-0\.tar as a tar file \({reason}.*; fetch or write it"):
        open_images(shards)
    (shards / "train-0.tar").write_text("not a tar file")
    with pytest.raises(InputError, match=r"cannot read .*train-0\.tar as a tar file"):
        open_images(shards / "train-0.tar")


def test_a_shard_without_images_is_refused(tmp_path):
    shard = write(tmp_path / "x.tar", {"a.txt": b"word", "b.mask.png": png(1)})
    with pytest.raises(InputError, match=r"no images at .*x\.tar: it holds no files"):
        open_images(shard)


def test_of_a_member_stored_again_the_last_counts(tmp_path):
    with tarfile.open(write(tmp_path / "a.tar", {"a.png": png(1), "b.png": png(2)}), "a") as archive:
        found = tarfile.TarInfo("./a.png")
        found.size = len(png(3))
        archive.addfile(found, io.BytesIO(png(3)))
    source = open_images(tmp_path)
    assert [ref.identity for ref in source] == ["a.tar/a.png", "a.tar/b.png"]
    assert red_of(source) == [3, 2]


def test_a_class_is_short(tmp_path):
    """A sparse member takes no room in the archive, however large it says that it is."""
    (ref,) = open_images(write(tmp_path / "x.tar", {"1.png": png(1), "1.cls": b"7" * 5000}))
    assert ref.group == "7" * 1024
