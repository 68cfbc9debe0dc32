"""What a batch is read through."""

import numpy as np
import pytest
import torch

from oracles import interrelation as slow
from siftlens.interrelation.channels import map_batch

ROWS, COLS, POOL = 5, 7, 13


def build(contents, counts, keep=None, rivals=None, seed=0):
    return map_batch(
        contents,
        slow.z_of(counts),
        slow.levels_of(counts),
        slow.rivals_of(len(counts), ROWS, COLS, 3) if rivals is None else rivals,
        slow.pool_of(slow.smooth_maps(POOL, ROWS, COLS, 9)),
        seed=seed,
        keep=keep,
    )


def test_channels_hold_what_they_say():
    counts = slow.smooth_maps(3, ROWS, COLS, 1)
    maps = build(["a", "pool4", "c"], counts)
    assert maps.channels.dtype == torch.float32
    assert maps.channels.shape == (3, ROWS * COLS, 5 + 4 + 1 + (POOL - 1) + 3)
    pool_z = slow.z_of(slow.smooth_maps(POOL, ROWS, COLS, 9)).reshape(POOL, -1)
    for image in range(3):
        level = slow.levels_of(counts[image]).ravel()
        assert np.array_equal(maps.levels[image].argmax(-1), level) and (maps.levels[image].sum(-1) == 1).all()
        assert np.array_equal(maps.level_count[image], np.bincount(level, minlength=5))
        z = slow.z_of(counts)[image]
        expected = [z, *pool_z[maps.pool_index[image]], z[:, ::-1], z[::-1], z[::-1, ::-1]]
        for number, own in enumerate(expected):
            assert np.allclose(maps.maps[image, :, number], own.ravel(), atol=1e-6)
        assert np.allclose(maps.rivals[image].mean(0), 0, atol=1e-6)
        assert np.allclose(maps.rivals[image].std(0, correction=0), 1, atol=1e-6)
    assert 4 not in maps.pool_index[1]


def test_an_image_is_read_alike_in_any_batch():
    counts = slow.smooth_maps(3, ROWS, COLS, 1)
    rivals = slow.rivals_of(3, ROWS, COLS, 3)
    whole, alone = build(list("abc"), counts, rivals=rivals), build(["b"], counts[1:2], rivals=rivals[1:2])
    assert torch.equal(whole.channels[1:2], alone.channels)
    assert torch.equal(whole.residual[1:2], alone.residual)
    assert np.array_equal(whole.pool_index[1:2], alone.pool_index)
    assert not np.array_equal(whole.pool_index, build(list("abc"), counts, seed=1).pool_index)


def test_patches_left_out_weigh_nothing_and_the_rest_is_standardised_anew():
    counts = slow.smooth_maps(2, ROWS, COLS, 1)
    keep = np.ones((2, ROWS, COLS), bool)
    keep[0, 2, 3:] = keep[1, 4, 6] = False
    maps = build(["a", "b"], counts, keep=keep)
    kept = torch.from_numpy(keep.reshape(2, -1))
    assert (maps.channels[~kept] == 0).all()
    for image in range(2):
        there = maps.channels[image][kept[image]][:, 5:]
        there = there[:, (there != 0).any(0)]
        assert there.shape[1] > 15
        assert np.allclose(there.mean(0), 0, atol=1e-6) and np.allclose(there.std(0, correction=0), 1, atol=1e-5)
        assert maps.level_count[image].sum() == kept[image].sum()


def test_maps_without_variation_are_zero():
    counts = slow.smooth_maps(2, ROWS, COLS, 1, bare=1)
    rivals = slow.rivals_of(2, ROWS, COLS, 3)
    rivals[1, 2] = 0.1
    maps = build(["a", "b"], counts, rivals=rivals)
    assert (maps.maps[0][:, [0, -3, -2, -1]] == 0).all() and (maps.rivals[1, :, 2] == 0).all()


@pytest.mark.parametrize("rivals", ["free", "gradient constant", "gradient is centre"])
def test_residuals_are_least_squares(rivals):
    counts = slow.smooth_maps(2, ROWS, COLS, 1)
    given = slow.rivals_of(2, ROWS, COLS, 3)
    if rivals == "gradient constant":
        given[:, 0] = 7
    elif rivals == "gradient is centre":
        given[:, 0] = given[:, 1]
    maps = build(["a", "b"], counts, rivals=given)
    z, rival = maps.maps.double(), maps.rivals[..., :2].double()
    design = torch.cat([torch.ones_like(rival[..., :1]), rival], dim=-1)
    rest = z - design @ maps.residual.double().mT
    for image in range(2):
        for number in range(z.shape[2]):
            expected = slow.residual_of(
                z[image, :, number].numpy(), *rival[image].numpy().T, np.ones(ROWS * COLS, bool)
            )
            assert np.allclose(rest[image, :, number], expected, atol=1e-5)


def test_rivals_that_are_nearly_the_same_do_not_blow_up():
    rivals = slow.rivals_of(2, ROWS, COLS, 3)
    rivals[:, 0] = rivals[:, 1] + 1e-4 * rivals[:, 2]
    assert build(["a", "b"], slow.smooth_maps(2, ROWS, COLS, 1), rivals=rivals).residual.abs().max() < 2
