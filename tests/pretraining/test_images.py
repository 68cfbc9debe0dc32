"""Images held as squares, and keypoints of them in a file that has to fit."""

import errno
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from siftlens.core import InputError, NothingReadableError
from siftlens.data import held as held_folder
from siftlens.engine import LocalEngine
from siftlens.keypoints import KeypointStore, SiftSettings
from siftlens.patchmaps import Shrinking
from siftlens.pretraining import images as images_module
from siftlens.pretraining.detection import detect_images
from siftlens.pretraining.images import hold, in_order_of

SIDE = 40


@pytest.fixture
def folder(tmp_path):
    """Eleven pictures in two folders, one of them too small, and a file that is no image."""
    random = np.random.default_rng(2)
    for number in range(11):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (30, 60) if number == 4 else (52 + number, 47)
        small = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.NEAREST).save(path)
    (tmp_path / "photos" / "a" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def test_images_are_held_as_squares_with_names_and_reasons(folder, tmp_path):
    held = hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill")
    assert held.pixels.shape == (10, 3, SIDE, SIDE)
    assert len(held) == 10
    assert held.groups == ("a",) * 5 + ("b",) * 5
    reasons = {aside.identity: aside.reason for aside in held.aside}
    assert "30x60 px: smaller than the squares of 40 px" in reasons["a/04.png"]
    assert reasons.keys() == {"a/04.png", "a/notes.txt"}
    first = Image.open(folder / "a" / "00.png").resize((52 * SIDE // 47, SIDE), Image.Resampling.BICUBIC)
    left = (first.width - SIDE) // 2
    expected = np.asarray(first)[:, left : left + SIDE]
    np.testing.assert_array_equal(held.pixels[0].permute(1, 2, 0), expected)
    assert not (tmp_path / "spill").exists()


def test_what_does_not_fit_memory_is_held_in_a_file(folder, tmp_path, monkeypatch):
    usual = hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "none")
    monkeypatch.setattr(images_module, "_SHARE", 0.0)
    spilled = hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "new" / "spill.npy", workers=2)
    assert (tmp_path / "new" / "spill.npy").stat().st_size > 12 * SIDE * SIDE * 3
    np.testing.assert_array_equal(spilled.pixels, usual.pixels)
    assert spilled.contents == usual.contents


@pytest.fixture
def no_room(monkeypatch):
    """Neither memory nor the disk holds more than a few bytes."""
    monkeypatch.setattr(images_module, "_SHARE", 0.0)
    monkeypatch.setattr(images_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))


def listed(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("b/*.png"))]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_what_fits_nowhere_is_decoded_when_asked_for(folder, tmp_path, request, kind):
    images = folder
    if kind == "tar":
        images = tmp_path / "photos.tar"
        with tarfile.open(images, "w") as archive:
            archive.add(folder, arcname=".")
    usual = hold(images, Shrinking(SIDE, SIDE), spill=tmp_path / "none")
    request.getfixturevalue("no_room")
    with pytest.warns(UserWarning, match=r"\d+ images need 0\.0 GB as squares, for which .*new has no room"):
        streamed = hold(images, Shrinking(SIDE, SIDE), spill=tmp_path / "new" / "spill.npy")
    assert not (tmp_path / "new" / "spill.npy").exists()
    assert replace(streamed, pixels=usual.pixels) == usual
    assert streamed.digest == usual.digest
    assert streamed.pixels.shape == usual.pixels.shape
    assert len(streamed.pixels) == len(usual)
    np.testing.assert_array_equal(streamed.pixels[:], usual.pixels)
    places = torch.tensor([3, 0, 3])
    np.testing.assert_array_equal(streamed.pixels[places], usual.pixels[places])
    assert streamed.pixels[places].stride() == usual.pixels[places].stride()  # kernels round alike
    for part, expected in zip(streamed.pixels.split(3), usual.pixels.split(3), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_what_a_killed_run_left_takes_no_room(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(images_module, "_SHARE", 0.0)
    spill = tmp_path / "spill.npy"
    spill.write_bytes(bytes(10**6))
    monkeypatch.setattr(
        images_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6 * (not spill.exists()))
    )
    assert isinstance(hold(folder, Shrinking(SIDE, SIDE), spill=spill).pixels, torch.Tensor)


def test_an_image_that_changed_meanwhile_is_named(folder, tmp_path, no_room):
    with pytest.warns(UserWarning, match="decoded anew whenever it is needed"):
        held = hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill")
    Image.new("RGB", (50, 50), "red").save(folder / "a" / "02.png")
    with pytest.raises(InputError, match=r"a/02\.png has other pixels than before; leave images as they are while"):
        held.pixels[:]


def test_an_image_that_went_meanwhile_is_named(folder, tmp_path, no_room):
    with pytest.warns(UserWarning, match="decoded anew whenever it is needed"):
        held = hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill")
    (folder / "a" / "02.png").unlink()
    with pytest.raises(
        InputError,
        match=r"a/02\.png was read before and cannot be read now \(no such file .*; bring it back and run again",
    ):
        held.pixels[:]


def test_images_in_memory_need_room(folder, tmp_path, no_room, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images_module, "reserve", full)
    with pytest.raises(InputError, match=r"cannot write .*spill: the disk is full"):
        hold(listed(folder), Shrinking(SIDE, SIDE), spill=tmp_path / "spill")


def test_a_folder_without_a_usable_image_is_refused(folder, tmp_path):
    with pytest.raises(
        NothingReadableError, match=r"none of the 12 images could be used; the first: a/00\.png: 52x47 px"
    ):
        hold(folder, Shrinking(64, 64), spill=tmp_path / "spill")
    with pytest.raises(NothingReadableError, match="none of the 12 images could be used"):
        detect_images(folder, tmp_path / "keypoints", side=64)
    assert not list(tmp_path.glob("keypoints*"))  # nothing to go on from


def test_keypoints_are_found_in_the_very_squares(folder, tmp_path):
    out = tmp_path / "keypoints"
    store, aside = detect_images(folder, out, side=SIDE, engine=LocalEngine(2))
    held = hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill")
    assert in_order_of(KeypointStore.load(out), held).tolist() == list(range(10))
    assert [image.identity for image in aside] == ["a/04.png", "a/notes.txt"]
    assert len(store.x) > 0
    assert not (tmp_path / "keypoints.partial").exists()


def test_an_interrupted_detection_goes_on(folder, tmp_path, monkeypatch):
    out = tmp_path / "keypoints"

    def stop(_stage, done, _total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect_images(folder, out, side=SIDE, progress=stop)
    assert not out.exists()
    detected = []
    from siftlens.patchmaps import prepare

    usual = prepare.detect_with
    monkeypatch.setattr(prepare, "detect_with", lambda *given: detected.append(given) or usual(*given))
    detect_images(folder, out, side=SIDE)
    assert len(detected) == 10 - 5  # the sixth and seventh of the folder, in order, are the two set aside
    assert not (tmp_path / "keypoints.partial").exists()


def test_two_detections_do_not_write_one_file(folder, tmp_path):
    out = tmp_path / "keypoints"
    with held_folder(tmp_path / "keypoints.partial"), pytest.raises(InputError, match="another run is writing to"):
        detect_images(folder, out, side=SIDE)
    assert not list(tmp_path.glob("keypoints*"))


def test_a_finished_file_is_not_overwritten(folder, tmp_path):
    out = tmp_path / "keypoints"
    out.touch()
    with pytest.raises(InputError, match="exists; delete it to detect anew"):
        detect_images(folder, out, side=SIDE)


def test_keypoints_of_other_images_or_settings_are_refused(folder, tmp_path):
    store, _ = detect_images(folder, tmp_path / "keypoints", side=SIDE, settings=SiftSettings(sigma=1.7))
    assert store.settings.sigma == 1.7
    with pytest.raises(InputError, match=r"on squares of 40 px, views are cut from 41 px; .* --size 41"):
        in_order_of(store, hold(folder, Shrinking(41, 41), spill=tmp_path / "spill"))
    Image.new("RGB", (50, 50), "red").save(folder / "b" / "01.png")
    with pytest.raises(InputError, match=r"1 of 10 do not fit, the first, b/01\.png, has other pixels now; run"):
        in_order_of(store, hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill"))
    (folder / "b" / "01.png").rename(folder / "b" / "new.png")
    with pytest.raises(InputError, match=r"the first, b/new\.png, is not in it"):
        in_order_of(store, hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill"))


def test_keypoints_fit_images_that_have_moved(folder, tmp_path):
    store, _ = detect_images(folder, tmp_path / "keypoints", side=SIDE)
    (tmp_path / "moved").mkdir()
    folder.rename(tmp_path / "moved" / "below")
    held = hold(tmp_path / "moved", Shrinking(SIDE, SIDE), spill=tmp_path / "spill")
    assert not set(held.identities) & set(store.identities)
    assert in_order_of(store, held).tolist() == list(range(10))


def test_decoding_tells_how_far_it_is(folder, tmp_path):
    told = []
    hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill", progress=lambda *given: told.append(given))
    assert told == [("decoding", done, 12) for done in range(1, 13)]


def test_shards_are_held_as_the_folder_that_went_into_them(folder, tmp_path):
    shard = tmp_path / "shards" / "photos.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as archive:
        archive.add(folder, arcname=".")
    whole = hold(folder, Shrinking(SIDE, SIDE), spill=tmp_path / "spill")
    held = hold(shard, Shrinking(SIDE, SIDE), spill=tmp_path / "spill", workers=2)
    assert [name.removeprefix("photos.tar/") for name in held.identities] == list(whole.identities)
    assert held.contents == whole.contents
    assert held.groups == whole.groups
    store, _ = detect_images(shard, tmp_path / "keypoints", side=SIDE, engine=LocalEngine(2))
    assert in_order_of(store, held).tolist() == list(range(10))
