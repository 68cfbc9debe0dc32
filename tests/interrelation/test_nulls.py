"""The reference pool, its choice per image, and the mirror images."""

import numpy as np
import pytest

from oracles.interrelation import pool_of, smooth_maps
from siftlens.interrelation.nulls import NULL_MAPS, POOL_SIZE, Pool, mirror_maps, pool_identities

NAMES = [f"class{n % 7}/img{n}.jpg" for n in range(601)]


def test_pool_identities_depend_on_seed_and_identity_alone():
    chosen = pool_identities(NAMES, 0)
    assert len(set(chosen)) == POOL_SIZE
    assert pool_identities(NAMES[::-1], 0) == chosen
    assert pool_identities(NAMES + NAMES[:50], 0) == chosen
    assert pool_identities(NAMES, 1) != chosen
    fewer = pool_identities([name for name in NAMES if name != chosen[3]], 0)
    assert fewer[:-1] == chosen[:3] + chosen[4:]


def test_a_small_input_is_its_own_pool():
    assert sorted(pool_identities(NAMES[:20], 0)) == sorted(NAMES[:20])


def test_the_choice_is_never_an_image_of_the_same_content():
    pool = pool_of(smooth_maps(53, 5, 7, 0), prefix="x")
    twice = Pool(z=np.concatenate([pool.z, pool.z]), contents=pool.contents * 2, identities=("a",) * 106)
    for content in ("x0", "x17", "elsewhere"):
        chosen = twice.choose(content, seed=0)
        assert len(set(chosen.tolist())) == NULL_MAPS
        assert content not in [twice.contents[index] for index in chosen]
        assert np.array_equal(chosen, twice.choose(content, seed=0))
        assert not np.array_equal(chosen, twice.choose(content, seed=1))
    assert not np.array_equal(twice.choose("x0", 0), twice.choose("x17", 0))


@pytest.mark.parametrize(("images", "null_maps"), [(1, 0), (2, 1), (20, 19), (41, 40), (256, 40)])
def test_small_pools_give_fewer_null_maps(images, null_maps):
    pool = pool_of(np.zeros((images, 2, 3), int))
    assert pool.size == images and pool.null_maps == null_maps
    assert len(pool.choose("pool0", 0)) == len(pool.choose("elsewhere", 0)) == null_maps


def test_every_pool_map_is_chosen_about_equally_often():
    pool = pool_of(np.zeros((101, 2, 3), int))
    times = np.bincount(np.concatenate([pool.choose(f"image{n}", 0) for n in range(1009)]), minlength=101)
    expected = 1009 * 40 / 101
    assert abs(times - expected).max() < 5 * np.sqrt(expected)


def test_mirrors_move_each_patch_to_its_image():
    z = np.random.default_rng(0).normal(size=(3, 5))
    sideways, upside_down, both = mirror_maps(z)
    for row in range(3):
        for col in range(5):
            assert sideways[row, col] == z[row, 4 - col]
            assert upside_down[row, col] == z[2 - row, col]
            assert both[row, col] == z[2 - row, 4 - col]
