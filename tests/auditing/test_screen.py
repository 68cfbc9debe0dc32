"""Properties of whole images: moved in an image by what was asked for, told from patches in an audit."""

import itertools

import cv2
import numpy as np
import pytest
import torch

import siftlens
from oracles.leaning import Leaning
from siftlens.auditing.properties import CHANGEABLE, PROPERTIES, everywhere, properties_of, spread_of
from siftlens.auditing.screen import moved
from siftlens.auditing.tables import RELIED_ON
from siftlens.keypoints import luma

PIXELS = np.random.default_rng(0).integers(60, 190, (32, 32, 3)).astype(np.uint8)
GAINS = (1.12, 1.0, 0.78)


class Yellow(Leaning):
    """Leans on how yellow an image is on average, and on nothing else."""

    def forward(self, images):
        patches = images.unflatten(2, (5, 4)).unflatten(4, (7, 4)).mean(dim=(3, 5)).flatten(2)
        tokens = self.embed(patches.transpose(1, 2)) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        red, green, blue = tokens[..., :3].mean(dim=1).unbind(dim=-1)
        score = 20 * ((red + green) / 2 - blue - 0.04)
        return torch.stack([-score, score], dim=1)


def tinted(count=240, columns=7):
    """Grey noise; class 1 is yellow in nine of ten, by light: bright patches are tinted more than dark ones.

    Args:
        columns: of patches that are, from the left.
    """
    images, labels = [], []
    for index in range(count):
        random = np.random.default_rng(index)
        label = index % 2
        warm = bool(label if random.random() < 0.9 else 1 - label)
        blocks = random.integers(60, 190, (5, 7, 1)) + random.integers(-8, 9, (5, 7, 3))
        light = np.where(warm & (np.arange(7) < columns)[:, None], GAINS, 1.0)
        pixels = (blocks * light).repeat(4, axis=0).repeat(4, axis=1)
        images.append(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
        labels.append(label)
    return images, labels


@pytest.mark.parametrize("name", ["brightness", "redness", "yellowness"])
@pytest.mark.parametrize("amount", [-12.0, 9.0])
def test_light_is_moved_by_what_was_asked_for(name, amount):
    before, after = properties_of(PIXELS, (1, 1)), properties_of(moved(PIXELS, name, amount), (1, 1))
    change = dict(zip(PROPERTIES, after - before, strict=True))
    assert change[name] == pytest.approx(amount, abs=0.2)
    others = {"brightness", "redness", "yellowness"} - {name}
    assert all(abs(change[other]) < abs(amount) / 2 + 0.2 for other in others)


def test_light_multiplies_so_that_black_stays_black():
    assert not moved(np.zeros((8, 8, 3), np.uint8), "yellowness", 20.0).any()
    for name in CHANGEABLE:
        assert np.array_equal(moved(PIXELS, name, 0.0), PIXELS)


def test_a_tint_is_found_as_a_property_and_no_patch_is_blamed():
    images, labels = tinted()
    found = siftlens.audit(Yellow().eval(), images, labels, normalize=None, vocabularies=("colour",))
    relied = found.properties[found.properties["verdict"] == "relied on"]
    assert set(zip(relied["label"], relied["property"], relied["direction"], strict=True)) >= {
        ("0", "yellowness", "less"),
        ("1", "yellowness", "more"),
    }
    # What was planted is a gain, and moving the property repeats it: a change of about the whole lead.
    assert relied["change"].max() > 0.5
    assert not found.cues["verdict"].isin(RELIED_ON).any()
    assert (found.cues["verdict"] == "global").any()


def test_colour_of_a_part_of_the_image_is_its_patches_doing():
    images, labels = tinted(columns=5)
    found = siftlens.audit(Yellow().eval(), images, labels, normalize=None, vocabularies=("colour",))
    yellow = found.properties[found.properties["property"] == "yellowness"]
    assert set(yellow["verdict"]) == {"relied on"} and not yellow["everywhere"].any()
    assert found.cues["verdict"].isin(RELIED_ON).any()


def compared(images, labels):
    properties = np.stack([properties_of(pixels, (1, 1)) for pixels in images])
    spreads = np.stack([spread_of(pixels) for pixels in images])
    return dict(zip(CHANGEABLE, everywhere(properties, spreads, np.array(labels) == 1), strict=True))


def test_a_tint_leaves_no_tile_out():
    assert compared(*tinted())["yellowness"]
    for columns in 1, 3, 5:
        assert not compared(*tinted(columns=columns))["yellowness"]


def test_what_comes_with_a_difference_in_a_part_is_not_everywhere_either():
    images, labels = tinted()
    assert compared(images, labels)["yellowness"]
    for pixels, label in zip(images, labels, strict=True):
        pixels[:10, :14] = 200 if label else 20  # tells the classes better than the tint, which is left elsewhere
    assert not any(compared(images, labels).values())


@pytest.mark.parametrize("side", [(32, 32), (20, 28), (9, 70)])
def test_spreads_are_quantiles_over_tiles(side):
    pixels = np.random.default_rng(side[1]).integers(30, 220, (*side, 3)).astype(np.uint8)
    rows, cols = (max(1, min(8, length // 4)) for length in side)
    tops, lefts = (np.linspace(0, length, n + 1).astype(int) for length, n in zip(side, (rows, cols), strict=True))
    found = []
    for top, bottom in itertools.pairwise(tops):
        for left, right in itertools.pairwise(lefts):
            tile = pixels[top:bottom, left:right].astype(float)
            red, green, blue = tile.mean(axis=(0, 1))
            grey = luma(pixels)[top:bottom, left:right].astype(float)
            found.append([(red + green + blue) / 3, grey.std(), red - green, (red + green) / 2 - blue])
    expected = np.quantile(found, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0).T
    assert spread_of(pixels)[:4, :5] == pytest.approx(expected, abs=1e-9)


def test_sharpness_of_a_tile_is_that_of_its_neighbours():
    pixels = np.full((64, 64, 3), 100, np.uint8)
    pixels[::2, :32] += 100  # fine stripes on the left, coarse ones on the right
    pixels[(np.arange(64) // 4) % 2 == 0, 32:] += 100
    sharpness = spread_of(pixels)[CHANGEABLE.index("sharpness")]
    assert sharpness[0] < 0 < 3 < sharpness[4]


def test_a_tint_is_everywhere_between_black_bars():
    images, labels = tinted()
    barred = [np.pad(pixels, ((8, 8), (0, 0), (0, 0))) for pixels in images]
    assert compared(barred, labels)["yellowness"]


def blurred(count=120):
    """A quarter of each image is flat; class 1 is blurred."""
    images, labels = [], []
    for index in range(count):
        pixels = np.full((64, 64, 3), 120, np.uint8)
        pixels[:, :48] = np.random.default_rng(index).integers(60, 190, (64, 48, 1))
        images.append(cv2.GaussianBlur(pixels, (0, 0), 1.0) if index % 2 else pixels)
        labels.append(index % 2)
    return images, labels


def test_a_blur_is_everywhere_though_nothing_is_lost_where_an_image_is_flat():
    assert compared(*blurred())["sharpness"]


@pytest.mark.parametrize(("times", "alike"), [(1.7, True), (2.3, False)])
def test_parts_may_differ_twice_as_much_as_the_whole(times, alike):
    random, mine = np.random.default_rng(0), np.arange(100) % 2 == 1
    properties, spreads = random.normal(0, 1e-3, (100, len(PROPERTIES))), random.normal(0, 1e-3, (100, 5, 6))
    properties[mine] += 1
    spreads[mine] += 1
    spreads[mine, 0, 3] = times
    assert everywhere(properties, spreads, mine)[0] == alike
