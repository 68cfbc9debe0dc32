import cv2
import numpy as np
import pytest
from PIL import Image

from siftlens.keypoints import fast_corners, luma, orb_corners


def texture(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(height).integers(0, 256, (height // 5 + 1, width // 5 + 1), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("find", [fast_corners, orb_corners])
@pytest.mark.parametrize(("height", "width"), [(97, 131), (131, 97), (47, 61)])
def test_the_mirror_image_has_the_mirrored_corners(find, height: int, width: int):
    # A shift of all positions to one side would show twice.
    image = texture(height, width)
    found, mirrored = find(image), find(np.ascontiguousarray(image[::-1, ::-1]))
    assert len(found) > 40
    offsets = found[:, None] - ((width, height) - mirrored)[None]
    distance = np.abs(offsets).max(axis=2)
    assert (distance.min(axis=1) < 1e-3).mean() > 0.9


@pytest.mark.parametrize("find", [fast_corners, orb_corners])
def test_a_corner_is_found_at_its_place(find):
    image = np.full((97, 131), 40, np.uint8)
    image[31:, 53:] = 220  # one corner, at (53, 31)
    found = find(cv2.GaussianBlur(image, (3, 3), 0))
    assert len(found)
    assert np.abs(found - (53, 31)).max() < 5


@pytest.mark.parametrize("find", [fast_corners, orb_corners])
def test_a_blank_image_has_no_corners(find):
    assert find(np.full((97, 131), 90, np.uint8)).shape == (0, 2)


def test_orb_reaches_nearly_to_the_border():
    found = orb_corners(texture(97, 131))
    assert found.min() < 10  # the usual margin is 31 px
    assert found[:, 0].max() > 131 - 10


def test_luma_is_rec_601():
    pixels = np.random.default_rng(0).integers(0, 256, (11, 13, 3), np.uint8)
    oracle = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in pixels.tolist()]
    assert np.abs(luma(pixels) - np.array(oracle)).max() <= 0.51
    np.testing.assert_array_equal(luma(pixels), cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
