"""Object masks: found by name, cut as the model sees the image, told patch by patch."""

import numpy as np
import pytest
from PIL import Image

from siftlens.core import PatchGrid
from siftlens.data import Preprocessing, Unreadable
from siftlens.patchmaps import mask_file
from siftlens.patchmaps.masks import object_patches, object_share

GRID = PatchGrid(3, 5, 7, 11)
PLAIN = Preprocessing(GRID.height, GRID.width)


def saved(path, patches, high=255, scale=1):
    pixels = np.kron(patches, np.ones((7 * scale, 11 * scale))) * high
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_a_mask_has_its_images_name_with_any_suffix(tmp_path):
    mask = saved(tmp_path / "a" / "b.c.png", np.eye(3, 5))
    assert mask_file(tmp_path, "a/b.c.jpeg") == mask
    assert mask_file(tmp_path, "a/b.jpeg") is None
    assert mask_file(tmp_path, "b.c.jpeg") is None


def test_a_photograph_beside_its_mask_is_not_taken_for_it(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert mask_file(tmp_path, "a.jpg") == tmp_path / "a.jpg"
    (tmp_path / "a.png").touch()
    assert mask_file(tmp_path, "a.jpg") == tmp_path / "a.png"


@pytest.mark.parametrize("suffix", [".PNG", ".tga", ".avif", ".JPEG", ".Png"])
def test_any_suffix_that_images_have_will_do(suffix, tmp_path):
    mask = tmp_path / f"a{suffix}"
    mask.touch()
    assert mask_file(tmp_path, f"a{suffix}") == mask
    assert mask_file(tmp_path, "a.webp") == (None if suffix == ".Png" else mask)


@pytest.mark.parametrize("high", [1, 255])
@pytest.mark.parametrize("scale", [1, 4])
def test_patches_of_the_object(tmp_path, high, scale):
    patches = np.random.default_rng(3).random((3, 5)) < 0.4
    found = object_patches(saved(tmp_path / "m.png", patches, high, scale), PLAIN, GRID)
    np.testing.assert_array_equal(found, patches)


def test_a_patch_belongs_to_the_object_from_one_half(tmp_path):
    pixels = np.zeros((21, 55), np.uint8)
    pixels[:4, :11] = 255  # 4 of 7 rows of the first patch
    pixels[:3, 11:22] = 255  # 3 of 7 of the second
    Image.fromarray(pixels).save(tmp_path / "m.png")
    found = object_patches(tmp_path / "m.png", PLAIN, GRID)
    assert found[0, 0] and found.sum() == 1


@pytest.mark.parametrize("high", [1, 255])
def test_the_object_fills_a_share_of_a_patch(tmp_path, high):
    pixels = np.zeros((21, 55), np.uint8)
    pixels[7:10, 11:22] = high  # 3 of 7 rows
    Image.fromarray(pixels).save(tmp_path / "m.png")
    found = object_share(tmp_path / "m.png", PLAIN, GRID)
    assert found[1, 1] == pytest.approx(3 / 7) and found.sum() == found[1, 1]


def test_the_mask_is_cropped_as_the_image_is(tmp_path):
    wide = np.zeros((3, 9))
    wide[1, 4] = 1
    found = object_patches(saved(tmp_path / "m.png", wide), PLAIN, GRID)
    assert found[1, 2] and found.sum() == 1


def test_no_object_is_no_patch(tmp_path):
    assert not object_patches(saved(tmp_path / "m.png", np.zeros((3, 5))), PLAIN, GRID).any()


def test_a_damaged_mask_is_unreadable(tmp_path):
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(Unreadable, match="not an image"):
        object_patches(tmp_path / "m.png", PLAIN, GRID)


def test_an_image_whose_name_leaves_no_room_for_a_suffix_has_no_mask(tmp_path):
    assert mask_file(tmp_path, "y" * 251 + ".jpg") is None
