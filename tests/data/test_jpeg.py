"""Pictures as JPEG: how large, in which colours, and the best encoding that fits."""

import io

import numpy as np
import pytest
from PIL import Image

from siftlens.data import Jpeg, as_jpeg

NOISE = np.random.default_rng(0).integers(0, 256, (67, 131, 3), dtype=np.uint8)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(("side", "shape"), [(200, (67, 131, 3)), (131, (67, 131, 3)), (61, (31, 61, 3))])
def test_a_picture_is_scaled_down_and_never_up(side, shape):
    assert decoded(as_jpeg(NOISE, (Jpeg(side, 70),))).shape == shape


def test_the_first_encoding_that_fits_is_taken_or_the_last():
    encodings = (Jpeg(131, 90, full_colour=True), Jpeg(131, 90), Jpeg(61, 90), Jpeg(61, 30))
    alone = [as_jpeg(NOISE, (encoding,)) for encoding in encodings]
    sizes = [len(data) for data in alone]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    for data, size in zip(alone, sizes, strict=True):
        assert as_jpeg(NOISE, encodings, size) == data
    assert as_jpeg(NOISE, encodings, 1) == alone[-1]
    assert as_jpeg(NOISE, encodings) == alone[0]


def test_full_colour_keeps_the_edge_of_a_patch():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :7], pixels[:, 7:] = (255, 0, 0), (0, 0, 255)
    whole, halved = (
        np.abs(decoded(as_jpeg(pixels, (Jpeg(16, 95, full_colour=full),))).astype(int) - pixels).max()
        for full in (True, False)
    )
    assert whole < 40 < halved
