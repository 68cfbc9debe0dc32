import numpy as np
import pytest

from siftlens.keypoints import Keypoints
from siftlens.keypoints.points import pack, unpack

FIELDS = ("x", "y", "size", "response", "angle", "octave")


def random_points(count: int, height: int, width: int) -> Keypoints:
    random = np.random.default_rng(count)
    return Keypoints(
        x=random.uniform(0, width, count),
        y=random.uniform(0, height, count),
        size=random.gamma(2, 5, count) + 1.5,
        response=random.uniform(0.01, 0.2, count),
        angle=random.uniform(0, 360, count),
        octave=random.integers(-1, 7, count),
        descriptors=None,
        height=height,
        width=width,
    )


@pytest.mark.parametrize(("height", "width", "step"), [(97, 131, 1 / 32), (2047, 31, 1 / 32), (31, 5003, 1 / 8)])
def test_packing_rounds_once_and_then_no_more(height: int, width: int, step: float):
    exact = random_points(307, height, width)
    once = unpack(pack(exact))
    assert (once.height, once.width, len(once)) == (height, width, 307)
    for name in ("x", "y"):
        assert np.abs(getattr(once, name) - getattr(exact, name)).max() <= step / 2 + 1e-6
        assert (getattr(once, name) % step == 0).all()
    np.testing.assert_allclose(once.size, exact.size, rtol=2**-11)
    np.testing.assert_allclose(once.response, exact.response, rtol=2**-11)
    np.testing.assert_array_equal(once.octave, exact.octave)
    twice = unpack(pack(once))
    for name in FIELDS:
        first, second = getattr(once, name), getattr(twice, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def test_an_angle_just_under_a_full_turn_becomes_zero():
    exact = random_points(1, 97, 131)
    exact.angle[0] = 359.9
    assert unpack(pack(exact)).angle.tolist() == [0]


def test_300_points_take_at_most_3_kilobytes():
    assert len(pack(random_points(300, 224, 224))) <= 3072


def test_no_points():
    empty = unpack(pack(random_points(0, 97, 131)))
    assert (len(empty), empty.height, empty.width) == (0, 97, 131)


def test_damage_at_any_byte_is_noticed_or_without_effect():
    points = unpack(pack(random_points(13, 97, 131)))
    packed, noticed = pack(points), 0
    for place in range(len(packed)):
        damaged = bytearray(packed)
        damaged[place] ^= 0x40
        try:
            np.testing.assert_array_equal(unpack(bytes(damaged)).x, points.x)
        except ValueError as error:
            assert "damaged keypoints: " in str(error)
            noticed += 1
    assert noticed >= len(packed) - 3  # but for spare bits of the compression
    for length in range(len(packed)):
        with pytest.raises(ValueError, match="damaged keypoints: "):
            unpack(packed[:length])


def test_keypoints_can_be_compared_and_collected():
    points = random_points(7, 97, 131)
    assert points == points and points != random_points(7, 97, 131) and len({points, points}) == 1
