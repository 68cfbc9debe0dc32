import math

import pytest

from siftlens.report.evidence import Estimate
from siftlens.report.numbers import counted, decimals, enumeration, layer_list, number


@pytest.mark.parametrize(
    ("value", "places", "signed", "text"),
    [
        (0.213, 2, True, "+0.21"),
        (-0.213, 2, True, "−0.21"),
        (-0.213, 2, False, "−0.21"),
        (-0.0004, 3, True, "0.000"),
        (12.0, 0, False, "12"),
        (math.nan, 2, True, "n/a"),
        (-math.inf, 2, True, "n/a"),
    ],
)
def test_a_number_is_printed_with_a_real_sign(value, places, signed, text):
    assert number(value, places, signed=signed) == text


@pytest.mark.parametrize(("values", "places"), [((0.2, 0.1), 2), ((0.2, 0.004), 3), ((0.2, 0.0), 2), ((math.nan,), 2)])
def test_decimals_keep_small_ends_apart_from_zero(values, places):
    assert decimals(*values) == places


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([3], "layer 3"),
        ([4, 3], "layers 3 and 4"),
        ([7, 2, 3, 4], "layers 2 to 4 and 7"),
        ([0, 2, 5, 6, 7, 8], "layers 0, 2 and 5 to 8"),
    ],
)
def test_neighbouring_layers_are_joined(layers, text):
    assert layer_list(layers) == text


def test_nouns_follow_their_number():
    assert [counted(1, "image"), counted(1307, "image")] == ["1 image", "1\u2009307 images"]


def test_items_are_enumerated():
    assert [enumeration(["a"]), enumeration(["a", "b", "c"])] == ["a", "a, b and c"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0984, "+0.098 SD"),
        (-0.1032, "−0.103 SD"),
        (-0.099669, "−0.0997 SD"),
        (0.094, "+0.09 SD"),
        (0.11, "+0.11 SD"),
    ],
)
def test_what_lies_beside_the_smallest_relevant_effect_is_told_from_it(value, told):
    assert Estimate("a head", value, value - 0.05, value + 0.05, "SD", 40).figure == told
