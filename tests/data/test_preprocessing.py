import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from siftlens.core import InputError
from siftlens.data import NORMALIZATIONS, Normalization, Preprocessing

SIZES = [(131, 97), (97, 131), (301, 300), (113, 113), (523, 61)]


def photo(width: int, height: int, grain: int = 5) -> Image.Image:
    """Smooth noise: every misplaced pixel shows."""
    random = np.random.default_rng(width * 1009 + height)
    small = random.integers(0, 256, (height // grain + 2, width // grain + 2, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def timms(image: Image.Image, size: tuple[int, int], crop: float, mode: str | None, interpolation: str) -> np.ndarray:
    transform = create_transform(
        (3, *size), crop_pct=crop, crop_mode=mode, interpolation=interpolation, normalize=False
    )
    return np.asarray(transform(image)).transpose(1, 2, 0)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize(("crop", "mode"), [(0.9, None), (0.875, None), (1.0, None), (0.95, "squash"), (1.0, "squash")])
def test_square_inputs_are_timms_to_the_last_bit(crop: float, mode: str | None, interpolation: str):
    for width, height in SIZES:
        image = photo(width, height)
        ours = Preprocessing(113, 113, mode or "shorter_side", int(113 / crop), interpolation).apply(image)
        np.testing.assert_array_equal(ours, timms(image, (113, 113), crop, mode, interpolation))


@pytest.mark.parametrize("size", [(80, 112), (112, 80)])
def test_rectangular_inputs_are_timms_to_within_a_pixel_of_the_box(size: tuple[int, int]):
    for width, height in SIZES:
        image = photo(width, height, grain=23)
        ours = Preprocessing(*size, resize_to=int(min(size) / 0.9)).apply(image)
        theirs = timms(image, size, 0.9, None, "bicubic")
        assert ours.shape == theirs.shape == (*size, 3)
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98


def test_an_image_of_the_input_size_is_left_alone():
    image = photo(101, 67)
    for resize in ("shorter_side", "squash"):
        np.testing.assert_array_equal(Preprocessing(67, 101, resize).apply(image), np.asarray(image))


def test_shorter_side_cuts_and_squash_does_not():
    bar = np.zeros((64, 256, 3), np.uint8)
    bar[:, :64], bar[:, 192:] = 255, 255
    image = Image.fromarray(bar)
    assert Preprocessing(32, 32).apply(image).max() < 8
    squashed = Preprocessing(32, 32, "squash").apply(image)
    assert squashed[:, 0].min() > 240 > 8 > squashed[:, 16].max()


def test_the_box_is_never_smaller_than_the_input():
    for width in range(8, 60):
        pixels = Preprocessing(31, 47, resize_to=33).apply(photo(width, 41))
        assert pixels.shape == (31, 47, 3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"resize": "stretch"}, "resize must be one of shorter_side, squash, got 'stretch'"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, .*, got 'cubic'"),
        ({"resize_to": 66}, "resize_to must be at least the input's shorter side, 67 px, got 66"),
        ({"width": 0}, "at least 1 px wide and high, got 0x67"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], told: str):
    with pytest.raises(InputError, match=told):
        Preprocessing(**{"height": 67, "width": 101} | settings)  # type: ignore[arg-type]


def test_normalizations_are_those_of_timm():
    from timm.data import constants

    assert NORMALIZATIONS["imagenet"] == Normalization(constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD)
    assert NORMALIZATIONS["inception"] == Normalization(
        constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD
    )
    assert NORMALIZATIONS["clip"] == Normalization(constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD)
    assert NORMALIZATIONS["none"] == Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_a_normalization_is_checked():
    with pytest.raises(InputError, match=r"positive standard deviations, got \(1.0, 0.0, 1.0\)"):
        Normalization((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    with pytest.raises(InputError, match=r"a finite mean for red, green and blue, got \(nan, 0.0, 0.0\)"):
        Normalization((float("nan"), 0.0, 0.0), (1.0, 1.0, 1.0))
