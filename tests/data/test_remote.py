"""Images at an address, in fsspec's file system of the memory."""

import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from siftlens.core import InputError, PatchGrid
from siftlens.data import Preprocessing, Unreadable, decode, open_images, parquet
from siftlens.patchmaps import PrepareSettings, prepare_images

SIDE = 13


def png(value):
    file = BytesIO()
    Image.new("RGB", (SIDE, SIDE), (value, 10, 20)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def bucket():
    """A bucket in memory with three images, an empty file, a hidden one, a tar file and a Parquet file."""
    system = fsspec.filesystem("memory")
    table, tar = BytesIO(), BytesIO()
    pq.write_table(pa.table({"image": [png(7), png(8)], "label": [1, 0]}), table)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in (("0.png", png(5)), ("0.cls", b"c"), ("1.png", png(6))):
            found = tarfile.TarInfo(name)
            found.size = len(data)
            archive.addfile(found, BytesIO(data))
    files = {
        "photos/dog/2.png": png(2),
        "photos/cat/1.png": png(1),
        "photos/3.png": png(3),
        "photos/cat/.hidden.png": png(9),
        "photos/empty.png": b"",
        "shards/a.tar": tar.getvalue(),
        "shards/b.parquet": table.getvalue(),
    }
    for name, data in files.items():
        system.pipe_file(f"/bucket/{name}", data)
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def seen(source):
    """Name, group and value of each image; None for one that cannot be read."""
    found = []
    for ref in source:
        try:
            value = int(decode(ref, Preprocessing(SIDE, SIDE))[0, 0, 0])
        except Unreadable:
            value = None
        found.append((ref.identity, ref.group, value))
    return found


def test_a_folder_a_glob_and_a_file(bucket):
    whole = [("3.png", "", 3), ("cat/1.png", "cat", 1), ("dog/2.png", "dog", 2), ("empty.png", "", None)]
    assert seen(open_images(f"{bucket}/photos")) == whole
    assert seen(open_images(f"{bucket}/photos/")) == whole
    assert seen(open_images(f"{bucket}/photos/*/*.png")) == whole[1:3]
    assert seen(open_images(f"{bucket}/photos/3.png")) == whole[:1]


def test_tar_and_parquet_files(bucket):
    assert seen(open_images(f"{bucket}/shards")) == [
        ("a.tar/0.png", "c", 5),
        ("a.tar/1.png", "", 6),
        ("b.parquet/000000000", "1", 7),
        ("b.parquet/000000001", "0", 8),
    ]


def test_worker_processes_read_it_too(tmp_path):
    for value in range(3):
        (tmp_path / f"{value}.png").write_bytes(png(value))
    settings = PrepareSettings(Preprocessing(SIDE, SIDE), PatchGrid(1, 1, SIDE, SIDE), rivals=False)
    found = prepare_images(open_images(f"file://{tmp_path}"), settings, workers=1, cache=None)
    assert [np.unique(image.pixels[..., 0]).tolist() for image in found] == [[0], [1], [2]]


def test_a_file_that_is_gone_is_set_aside_but_a_place_that_does_not_answer_stops_the_run(bucket, monkeypatch):
    system = fsspec.filesystem("memory")
    (gone,) = open_images(f"{bucket}/photos/3.png")
    system.rm("/bucket/photos/3.png")
    with pytest.raises(Unreadable, match="3.png"):
        decode(gone, Preprocessing(SIDE, SIDE))

    def broken(*_, **__):
        raise ConnectionResetError("reset by peer")

    first, *_, row = [*open_images(f"{bucket}/photos"), *open_images(f"{bucket}/shards")]
    parquet._images.cache_clear()  # of the tests before
    monkeypatch.setattr(type(system), "cat_file", broken)
    monkeypatch.setattr(type(system), "open", broken)
    for ref in (first, row):
        with pytest.raises(InputError, match="ConnectionResetError: reset by peer; check the network"):
            decode(ref, Preprocessing(SIDE, SIDE))


@pytest.fixture
def server(tmp_path):
    """A web server that sends files as a whole only, with an image and a tar file; its address."""
    (tmp_path / "1.png").write_bytes(png(1))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "1.png", "1.png")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_file_on_a_web_server(server):
    pytest.importorskip("aiohttp")
    assert seen(open_images(f"{server}/1.png")) == [("1.png", "", 1)]
    (member,) = open_images(f"{server}/a.tar")
    with pytest.raises(Unreadable, match="its server sends files as a whole only"):
        decode(member, Preprocessing(SIDE, SIDE))
    with pytest.raises(InputError, match=r"no images at http://127.*none\.png: it holds no files"):
        open_images(f"{server}/none.png")
    with pytest.raises(InputError, match=r"cannot read zip://a::http.*; unpack it, or make it a tar"):
        open_images(f"zip://a::{server}/a.zip")


def test_whatever_a_protocol_raises_is_told_in_a_line(monkeypatch):
    class TheirOwnError(Exception):
        pass

    def broken(*_, **__):
        raise TheirOwnError("no\nroute")

    monkeypatch.setattr(fsspec, "get_filesystem_class", broken)
    with pytest.raises(InputError, match="cannot read hf://datasets/x: TheirOwnError: no route; check the address"):
        open_images("hf://datasets/x")


def test_a_part_that_is_not_what_was_asked_for_is_refused(bucket, monkeypatch):
    (ref, _) = open_images(f"{bucket}/shards/a.tar")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", lambda *_, **__: b"all of it")
    with pytest.raises(Unreadable, match="its server sends files as a whole only"):
        decode(ref, Preprocessing(SIDE, SIDE))


def test_what_is_not_there_is_told(bucket):
    with pytest.raises(InputError, match="no images at memory://bucket/none: it holds no files"):
        open_images(f"{bucket}/none")
    with pytest.raises(InputError, match=r"cannot read nope://x: .*nope"):
        open_images("nope://x")


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for protocol, extra in (("s3", "s3"), ("gs", "gs"), ("gcs", "gs")):
        with pytest.raises(
            InputError, match=rf"{protocol}:// needs another package: pip install 'siftlens\[{extra}\]'$"
        ):
            open_images(f"{protocol}://bucket/photos")
    with pytest.raises(InputError, match="adl:// needs another package: Install s3fs to access S3"):
        open_images("adl://bucket/photos")


@pytest.mark.parametrize(
    ("images", "lost", "told"),
    [
        ("photos", "photos", "the folder of the images, memory://.*bucket/photos, cannot be read any more"),
        ("photos/*/*.png", "photos", "the folder of the images, memory://.*bucket/photos, cannot be read any more"),
        ("shards/a.tar", "shards/a.tar", "the file of the images, memory://.*a.tar, cannot be read any more"),
        ("shards/b.parquet", "shards/b.parquet", "the file of the images, memory://.*b.parquet, cannot be read any"),
    ],
)
def test_a_place_that_goes_away_is_told_from_a_file_that_does(bucket, images, lost, told):
    ref = next(iter(open_images(f"{bucket}/{images}")))
    parquet._images.cache_clear()  # of the tests before
    fsspec.filesystem("memory").rm(f"/bucket/{lost}", recursive=True)
    with pytest.raises(InputError, match=told):
        decode(ref, Preprocessing(SIDE, SIDE))


def test_a_file_that_goes_away_at_an_address_is_one_file(bucket):
    gone, kept, *_ = open_images(f"{bucket}/photos")
    fsspec.filesystem("memory").rm(gone.source.address.removeprefix("memory://"))
    with pytest.raises(Unreadable, match=gone.source.name):
        decode(gone, Preprocessing(SIDE, SIDE))
    assert decode(kept, Preprocessing(SIDE, SIDE)).shape == (SIDE, SIDE, 3)


def test_an_address_that_may_not_be_read_any_more_stops_the_run(bucket, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError("expired token")

    ref = next(iter(open_images(f"{bucket}/photos")))
    with monkeypatch.context() as patch:
        for method in ("cat_file", "exists"):
            patch.setattr(type(fsspec.filesystem("memory")), method, forbidden)
        with pytest.raises(InputError, match="expired token; check the network and your credentials"):
            decode(ref, Preprocessing(SIDE, SIDE))


def test_names_that_mean_something_in_addresses_are_read_as_they_are(tmp_path):
    folder = tmp_path / "a[1]"
    folder.mkdir()
    for name, value in (("a", 1), ("a::b.png", 2)):
        (folder / name).write_bytes(png(value))
    assert seen(open_images(f"file://{folder}")) == [("a", "", 1), ("a::b.png", "", 2)]


def test_links_to_files_are_files(tmp_path):
    (tmp_path / "blob").write_bytes(png(4))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").symlink_to(tmp_path / "blob")
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nothing")
    assert seen(open_images(f"file://{tmp_path}/photos")) == [("1.png", "", 4)]
