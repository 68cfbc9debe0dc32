"""Attention at 8 bits a share: what comes back, and whether the stated error is the true one."""

import zlib

import numpy as np
import pytest

from siftlens.interrelation.kept_rows import KeptRows, quantised


def rows(maps=3, queries=13, kept=7, seed=5):
    """Shares over a few magnitudes, no two alike, and one row without any attention."""
    shares = np.random.default_rng(seed).gamma(0.2, 1, (maps, queries, kept))
    shares /= 1.1 * shares.sum(axis=2, keepdims=True)
    shares[1, 2] = 0
    return shares


def keys_of(shares, patches, seed=5):
    rng = np.random.default_rng(seed)
    found = np.empty(shares.shape, np.uint16)
    for place in np.ndindex(shares.shape[:2]):
        found[place] = np.sort(rng.choice(patches, shares.shape[2], replace=False))
    return found


def test_the_stated_error_is_that_of_the_worst_share():
    exact = rows()
    kept = quantised(exact, [(0, 0), (2, 1), (4, 3)])
    for index in range(3):
        worst = max(abs(a - b) for a, b in zip(kept.shares()[index].ravel(), exact[index].ravel(), strict=True))
        assert kept.error[index] == pytest.approx(worst, rel=1e-12)
        # Half a step of the largest row, and what rounding its scale to float16 adds.
        assert kept.error[index] <= exact[index].max() * (0.5 / 255 + 2**-10)
    assert kept.error.max() > 1e-4


def test_what_is_held_is_the_exact_sum():
    exact = rows()
    np.testing.assert_allclose(quantised(exact, [(0, 0)] * 3).held, exact.sum(axis=2), rtol=2**-10)


def test_a_row_without_attention_stays_one():
    kept = quantised(rows(), [(0, 0)] * 3)
    assert not kept.shares()[1, 2].any()
    assert kept.held[1, 2] == 0


@pytest.mark.parametrize(("queries", "width"), [(13, 1), (257, 2)])
def test_packed_holds_values_keys_scale_and_sums(queries, width):
    exact = rows(2, queries)
    keys = keys_of(exact, queries)
    kept = quantised(exact, [(0, 0), (1, 5)], keys)
    data, count = zlib.decompress(kept.packed()), exact.size
    np.testing.assert_array_equal(np.frombuffer(data[:count], np.uint8), kept.values.ravel())
    found = np.frombuffer(data[count : count * (1 + width)], f"<u{width}")
    np.testing.assert_array_equal(found, keys.ravel())
    floats = np.frombuffer(data[count * (1 + width) :], "<f4").reshape(2, 2, queries)
    np.testing.assert_array_equal(floats, [kept.scale, kept.held])


def test_whole_rows_have_no_keys():
    kept = quantised(rows(), [(0, 0), (2, 1), (4, 3)])
    assert kept.key_bytes == 0
    assert len(zlib.decompress(kept.packed())) == 3 * 13 * (7 + 8)


def test_maps_come_apart_and_together():
    exact = rows()
    kept = quantised(exact, [(0, 0), (2, 1), (4, 3)], keys_of(exact, 13))
    again = KeptRows.join([kept.map(2), kept.map(0)])
    assert again.heads.tolist() == [[4, 3], [0, 0]]
    for name, array in vars(again).items():
        np.testing.assert_array_equal(array, getattr(kept, name)[[2, 0]])
