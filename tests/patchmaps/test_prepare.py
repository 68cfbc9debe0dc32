import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siftlens.core import InputError, PatchGrid
from siftlens.data import Preprocessing, content_hash, decode, open_images
from siftlens.keypoints import KeypointCache, SiftSettings, detect
from siftlens.patchmaps import (
    Prepared,
    PrepareSettings,
    Quarantined,
    patch_weights,
    pipeline,
    prepare_images,
    rival_maps,
)
from siftlens.patchmaps import prepare as one

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
GRID = PatchGrid(rows=7, cols=11, patch_height=13, patch_width=11)
SETTINGS = PrepareSettings(Preprocessing(GRID.height, GRID.width), GRID)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve textures, two of them equal and one blank, between files that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        random = np.random.default_rng(min(number, 10))
        small = random.integers(0, 256 if number != 4 else 1, (29, 31, 3), np.uint8)
        path = folder / f"kind-{number % 3}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(small).resize((127, 113), Image.Resampling.BICUBIC).save(path)
    (folder / "kind-0" / "zero.jpg").touch()
    (folder / "kind-1" / "notes.txt").write_text("not an image")
    return folder


def same(left: object, right: object) -> bool:
    """Equal to the last bit, arrays and all."""
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if hasattr(left, "__dataclass_fields__"):
        return type(left) is type(right) and all(
            same(getattr(left, field.name), getattr(right, field.name)) for field in fields(left)
        )
    return left == right


def ready(folder: Path, **options) -> list[Prepared | Quarantined]:
    settings = options.pop("settings", SETTINGS)
    return list(prepare_images(open_images(folder), settings, **{"workers": 0, "cache": None} | options))


def test_an_image_is_made_ready(folder: Path):
    (ref,) = (ref for ref in open_images(folder) if ref.identity == "kind-2/5.png")
    (image,) = prepare_images([ref], SETTINGS, workers=0, cache=None)
    assert isinstance(image, Prepared)
    pixels = decode(ref, SETTINGS.preprocessing)
    assert (image.identity, image.group, image.content) == ("kind-2/5.png", "kind-2", content_hash(pixels))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert same(image.keypoints, detect(pixels))
    np.testing.assert_array_equal(image.count, patch_weights(image.keypoints, GRID))
    np.testing.assert_array_equal(image.weights, image.count)
    np.testing.assert_array_equal(image.rivals, rival_maps(pixels, GRID))
    assert image.count.sum() == len(image.keypoints) > 20


def test_what_cannot_be_read_keeps_its_place(folder: Path):
    images = ready(folder)
    assert [image.identity for image in images] == [ref.identity for ref in open_images(folder)]
    assert [image for image in images if isinstance(image, Quarantined)] == [
        Quarantined("kind-0/zero.jpg", "empty file (0 bytes)"),
        Quarantined("kind-1/notes.txt", images[[i.identity for i in images].index("kind-1/notes.txt")].reason),
    ]


def test_an_image_without_keypoints_is_an_image(folder: Path):
    (blank,) = (image for image in ready(folder) if image.identity == "kind-1/4.png")
    assert isinstance(blank, Prepared)
    assert len(blank.keypoints) == 0
    assert (blank.count == 0).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(folder: Path, workers: int):
    alone, beside = ready(folder), ready(folder, workers=workers)
    assert len(alone) == len(beside) == 14
    assert all(same(*pair) for pair in zip(alone, beside, strict=True))


def test_images_in_memory_with_workers(folder: Path):
    images = [np.random.default_rng(seed).integers(0, 256, (113, 127, 3), np.uint8) for seed in range(3)]
    results = [list(prepare_images(open_images(images), SETTINGS, workers=n, cache=None)) for n in (0, 1)]
    assert all(same(*pair) for pair in zip(*results, strict=True))


def test_settings_reach_the_result(folder: Path):
    few = replace(SETTINGS, sift=SiftSettings(contrast_threshold=0.2), measure="response", rivals=False)
    usual, changed = ready(folder)[0], ready(folder, settings=few)[0]
    assert isinstance(usual, Prepared)
    assert isinstance(changed, Prepared)
    assert 0 < len(changed.keypoints) < len(usual.keypoints)
    np.testing.assert_array_equal(changed.weights, patch_weights(changed.keypoints, GRID, "response"))
    np.testing.assert_array_equal(changed.count, patch_weights(changed.keypoints, GRID, "count"))
    assert changed.rivals.shape == (0, 7, 11)


def test_a_second_run_does_not_detect_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    detections = []

    def counted(settings: SiftSettings, pixels: np.ndarray):
        detections.append(content_hash(pixels))
        return detect(pixels, contrast_threshold=settings.contrast_threshold)

    monkeypatch.setattr(one, "detect_with", counted)
    fresh = ready(folder)
    assert len(detections) == 12
    detections.clear()
    for expected in (11, 0):  # two of the twelve are equal
        with KeypointCache(tmp_path / "cache.sqlite") as cache:
            cached = ready(folder, cache=cache)
        assert len(detections) == expected
        assert all(same(*pair) for pair in zip(fresh, cached, strict=True))
        detections.clear()
    with KeypointCache(tmp_path / "cache.sqlite") as cache:
        ready(folder, cache=cache, settings=replace(SETTINGS, sift=SiftSettings(contrast_threshold=0.05)))
    assert len(detections) == 11
    # Workers read the same file.
    with KeypointCache(tmp_path / "cache.sqlite") as cache:
        monkeypatch.setattr(cache, "put", lambda *_: pytest.fail("detected again"))
        beside = ready(folder, cache=cache, workers=1)
    assert all(same(*pair) for pair in zip(fresh, beside, strict=True))


def test_what_workers_detect_is_cached_even_when_the_run_is_cut_short(folder: Path, tmp_path: Path):
    with KeypointCache(tmp_path / "cache.sqlite") as cache:
        images = prepare_images(open_images(folder), SETTINGS, workers=1, cache=cache)
        first = next(images)
        images.close()
        assert isinstance(first, Prepared)
        with KeypointCache(tmp_path / "cache.sqlite", read_only=True) as other:
            assert same(other.get(first.content, SETTINGS.sift), first.keypoints)


def test_a_measure_of_ones_own_runs_in_this_process(folder: Path):
    seen = []

    def brightness(pixels: np.ndarray, grid: PatchGrid) -> np.ndarray:
        seen.append(os.getpid())
        return pixels[: grid.height, : grid.width].mean(axis=2).reshape(7, 13, 11, 11).mean(axis=(1, 3))

    for workers in (0, 1):
        image = ready(folder, settings=replace(SETTINGS, measure=brightness), workers=workers)[0]
        assert isinstance(image, Prepared)
        assert image.weights.dtype == np.float32
        np.testing.assert_allclose(image.weights, brightness(image.pixels, GRID), rtol=1e-6)
        np.testing.assert_array_equal(image.count, patch_weights(image.keypoints, GRID))
    assert set(seen) == {os.getpid()}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (np.zeros((11, 7)), r"must return weights of shape \(7, 11\), got \(11, 7\) for kind-0/0.png"),
        (np.full((7, 11), np.nan), "must return finite numbers, got NaN or infinity for kind-0/0.png"),
        (np.full((7, 11), "a"), "must return finite numbers, got <U1"),
        (np.full((7, 11), 1j), "must return finite numbers, got complex128"),
        (None, r"must return weights of shape \(7, 11\), got \(\)"),
    ],
)
def test_a_measure_of_ones_own_is_checked(folder: Path, weights: object, told: str):
    with pytest.raises(InputError, match=told):
        ready(folder, settings=replace(SETTINGS, measure=lambda pixels, grid: weights))


def test_settings_are_checked(folder: Path):
    with pytest.raises(InputError, match="measure must be one of count, .* or a callable, got 'sum'"):
        replace(SETTINGS, measure="sum")
    with pytest.raises(InputError, match="the grid covers 121x91 px, but the model sees 121x182 px"):
        replace(SETTINGS, preprocessing=Preprocessing(182, 121))
    replace(SETTINGS, preprocessing=Preprocessing(91 + 12, 121 + 10))  # an incomplete patch is left over
    with pytest.raises(InputError, match="workers must not be negative, got -1"):
        ready(folder, workers=-1)


def test_large_images_wait_in_smaller_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch):
    windows = []

    def noted(*_: object, window: int, **__: object) -> Iterator[object]:
        windows.append(window)
        yield from ()

    monkeypatch.setattr(pipeline, "in_order", noted)
    for side in (91, 1024, 8192):
        grid = PatchGrid(1, 1, side, side)
        ready(folder, settings=PrepareSettings(Preprocessing(side, side), grid), workers=3)
    assert windows == [64, 21, 6]


def test_an_image_that_kills_its_process_is_set_aside(folder: Path):
    class Deadly(Preprocessing):
        def apply(self, image: Image.Image) -> np.ndarray:
            if image.getextrema()[0][1] == 0:  # the blank one
                os.kill(os.getpid(), signal.SIGKILL)
            return super().apply(image)

    images = ready(folder, settings=replace(SETTINGS, preprocessing=Deadly(GRID.height, GRID.width)), workers=2)
    alone = ready(folder)
    for image, expected in zip(images, alone, strict=True):
        if expected.identity == "kind-1/4.png":
            reason = "the process that read it died (out of memory, or a fault in the decoder)"
            assert image == Quarantined("kind-1/4.png", reason)
        else:
            assert same(image, expected)


@pytest.mark.parametrize(("images", "seconds"), [(0, 0.0), (0, 0.3), (20, 0.0)], ids=["at once", "starting", "working"])
def test_control_c_ends_it_all_quietly(folder: Path, images: int, seconds: float):
    script = """
import itertools, signal, sys
from siftlens.core import PatchGrid
from siftlens.data import Preprocessing, open_images
from siftlens.patchmaps import PrepareSettings, prepare_images
refs = itertools.cycle(open_images(sys.argv[1]))
settings = PrepareSettings(Preprocessing(91, 121), PatchGrid(7, 11, 13, 11))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
try:
    print("begin", flush=True)
    for image in prepare_images(refs, settings, workers=2, cache=None):
        print("ready", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert len(list(islice(process.stdout, 1 + images))) == 1 + images
        time.sleep(seconds)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest, complaints = process.communicate(timeout=60)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 130
    assert rest.endswith("stopped\n")
    assert complaints == ""
    assert time.monotonic() - started < 20
    for _ in range(100):  # its helpers end a moment after it
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process was left behind")


def test_workers_start_without_torch():
    script = (
        "import sys, siftlens.patchmaps.pipeline; print([m for m in ('torch', 'scipy', 'pandas') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the shared test photographs beside the checkout")
def test_real_photographs():
    grid = PatchGrid(14, 14, 16, 16)
    settings = PrepareSettings(Preprocessing(224, 224, resize_to=256), grid)
    images = list(prepare_images(open_images(PHOTOS, limit=12), settings, workers=1, cache=None))
    assert len(images) == 12
    for image in images:
        assert isinstance(image, Prepared)
        assert image.pixels.shape == (224, 224, 3)
        assert 5 < len(image.keypoints) < 2000
        assert image.count.sum() == len(image.keypoints)
