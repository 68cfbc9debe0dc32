import numpy as np
import pytest
import torch
from PIL import Image

from siftlens.core import InputError
from siftlens.data import as_pixels, content_hash

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (11, 13, 3), np.uint8)
GREY = RGB[:, :, 0]
FIRST = RGB.transpose(2, 0, 1)


@pytest.mark.parametrize(
    "image",
    [
        RGB,
        FIRST,
        torch.from_numpy(RGB),
        torch.from_numpy(FIRST.copy()),
        Image.fromarray(RGB),
        RGB / 255,
        (FIRST / 255).astype(np.float32),
        torch.from_numpy(FIRST / 255),
        torch.from_numpy(FIRST / 255).half(),
        np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)]),
        torch.from_numpy(FIRST / 255).requires_grad_(),
        RGB[:, ::-1][:, ::-1],
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', '')}-{getattr(image, 'shape', '')}",
)
def test_every_kind_of_image_gives_the_same_pixels(image: object):
    pixels = as_pixels(image)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize("grey", [GREY, GREY[:, :, None], GREY[None], torch.from_numpy(GREY)[None], GREY / 255])
def test_grey_is_repeated(grey: object):
    np.testing.assert_array_equal(as_pixels(grey), np.dstack([GREY] * 3))


def test_where_both_fit_numpy_is_channels_last_and_torch_first():
    both = RNG.integers(0, 256, (3, 11, 3), np.uint8)
    np.testing.assert_array_equal(as_pixels(both), both)
    np.testing.assert_array_equal(as_pixels(torch.from_numpy(both)), both.transpose(1, 2, 0))


def test_transparency_is_put_on_white():
    clear = np.dstack([RGB, np.zeros(GREY.shape, np.uint8)])
    assert (as_pixels(clear) == 255).all()
    half = np.dstack([np.zeros_like(RGB), np.full(GREY.shape, 128, np.uint8)])
    assert (as_pixels(half) == 127).all()


def test_a_little_overshoot_is_clipped():
    pixels = as_pixels(np.array([[-0.04, 0.5, 1.04]] * 2))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("worst", [-0.06, 1.06, -2.1, 255.0])
def test_floats_beyond_pixels_are_refused(worst: float):
    image = np.full((11, 13, 3), 0.5)
    image[3, 5, 1] = worst
    with pytest.raises(InputError, match=r"expected float pixels in \[0, 1\], got .*undo any normalisation"):
        as_pixels(image)


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(worst: float):
    image = np.full((11, 13), 0.5)
    image[3, 5] = worst
    with pytest.raises(InputError, match="expected finite pixels, got NaN or infinity"):
        as_pixels(image)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (RGB.astype(np.uint16), "uint8 or as floats in .*, got uint16"),
        (GREY > 9, "uint8 or as floats in .*, got bool"),
        (torch.from_numpy(RGB).long(), "uint8 or as floats in .*, got int64"),
        (RGB[None], r"got \(1, 11, 13, 3\); pass one image at a time"),
        (np.zeros((11, 13, 2), np.uint8), r"1, 3 or 4 channels, got \(11, 13, 2\)"),
        (np.zeros((0, 13, 3), np.uint8), r"got \(0, 13, 3\)"),
        ((RGB, 7), "got tuple; pass images alone, without labels"),
        ({"image": RGB}, "got dict; pass images alone"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_image_is_refused(image: object, told: str):
    with pytest.raises(InputError, match=told):
        as_pixels(image)


def test_the_hash_knows_content_and_shape():
    assert content_hash(RGB) == content_hash(RGB.copy()) == content_hash(np.asfortranarray(RGB))
    assert len(content_hash(RGB)) == 32
    other = RGB.copy()
    other[10, 12, 2] ^= 1
    blank = [np.zeros(shape, np.uint8) for shape in [(11, 13, 3), (13, 11, 3), (33, 13, 1), (1, 143, 3)]]
    hashes = {content_hash(pixels) for pixels in [RGB, other, *blank]}
    assert len(hashes) == 6
