"""Which images studies have in common, and which studies cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest

from oracles.studies import made_up
from siftlens.comparison.matching import expect_same_meaning, match, shares_null
from siftlens.core import InputError, StudyError

NAMES = [f"{i:02}.png" for i in range(23)]


def test_images_are_matched_by_content_whatever_their_order_and_names():
    rng = np.random.default_rng(0)
    order = rng.permutation(23)
    one = made_up(names=NAMES)
    other = made_up(names=[f"elsewhere/{NAMES[i]}" for i in order], contents=one.images["content"].to_numpy()[order])
    found = match({"one": one, "other": other})
    assert found.by == "content"
    np.testing.assert_array_equal(found.rows[0], np.arange(23))
    np.testing.assert_array_equal(order[found.rows[1]], np.arange(23))


def test_only_common_images_count_and_copies_count_once():
    one = made_up(names=NAMES, contents=["a", "b", "a", *map(str, range(20))])
    other = made_up(names=NAMES[:20], contents=["b", "b", "a", *map(str, range(17))])
    found = match({"one": one, "other": other})
    np.testing.assert_array_equal(found.rows[0], [0, 1, *range(3, 20)])
    np.testing.assert_array_equal(found.rows[1], [2, 0, *range(3, 20)])


@pytest.mark.parametrize("change", [{"height": 64}, {"resize": "shorter_side"}, {"interpolation": "nearest"}])
def test_models_that_see_other_pixels_are_matched_by_name(change):
    one = made_up(names=NAMES)
    other = made_up(names=NAMES[::-1], contents=[f"x{i}" for i in range(23)], model=change)
    found = match({"one": one, "other": other})
    assert found.by == "name"
    np.testing.assert_array_equal(found.rows[1], np.arange(23)[::-1])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            [f"x{i}" for i in range(19)],
            r"but they have 0 images in common \(23 in one, 19 in other; matched by content\), at least half of the "
            "smallest study needed; analyse the same images with each model",
        ),
        ([*NAMES[:8], *(f"x{i}" for i in range(11))], "they have 8 images in common .* at least half of the smallest"),
        (NAMES[:7], r"they have 7 images in common \(23 in one, 7 in other; matched by content\), at least 8 needed"),
    ],
)
def test_too_few_images_in_common_are_refused(names, told):
    with pytest.raises(InputError, match=told):
        match({"one": made_up(names=NAMES), "other": made_up(names=names)})


def test_half_of_the_smallest_study_is_enough():
    other = made_up(names=[*NAMES[:10], *(f"x{i}" for i in range(10))])
    assert len(match({"one": made_up(names=NAMES), "other": other}).rows[0]) == 10


def test_tables_of_different_images_are_noticed():
    one = made_up(names=NAMES)
    mixed = replace(one, images=one.images.iloc[::-1])
    with pytest.raises(StudyError, match=r"other: images.parquet and arrays.nc are of different images; run the analy"):
        match({"one": one, "other": mixed})


@pytest.mark.parametrize(
    ("setting", "value"), [("measure", "footprint"), ("weighting", "value_norm"), ("exclude_outliers", True)]
)
def test_figures_of_different_things_are_refused(setting, value):
    one, other = made_up(), made_up(settings={setting: value})
    expect_same_meaning({"one": one, "other": one})
    with pytest.raises(InputError, match=f"but {setting} is {value!r} in other and .* in one; analyse one of them"):
        expect_same_meaning({"one": one, "other": other})


def test_null_maps_are_shared_with_the_same_seed_and_images():
    assert shares_null(made_up(seed=1), made_up(seed=2))
    assert not shares_null(made_up(), made_up(settings={"seed": 1}))
    assert not shares_null(made_up(), made_up(settings={"names": "1f"}))
