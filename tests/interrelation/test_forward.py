"""What a model is given, against the plain arithmetic."""

import numpy as np
import pytest
import torch

from siftlens.data import NORMALIZATIONS
from siftlens.interrelation.forward import Scratch, to_input


@pytest.mark.parametrize("name", [None, "imagenet", "clip"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(17, 29), (300, 210), (2, 40_000)])  # in one strip, in several, in rows
def test_pixels_become_what_the_model_expects_to_the_last_bit(name, dtype, size):
    normalization = NORMALIZATIONS[name] if name else None
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8))
    expected = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    if normalization is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (normalization.mean, normalization.std))
        expected = (expected - mean) / std
    given = to_input(pixels, normalization, "cpu", dtype)
    assert given.dtype == dtype and given.is_contiguous()
    torch.testing.assert_close(given, expected.to(dtype), rtol=0, atol=0)


def test_scratch_is_used_again_and_grows_when_it_must():
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 17, 29, 3), dtype=np.uint8))
    scratch = Scratch()

    def given(images):
        return to_input(images, None, "cpu", torch.float32, scratch)

    first = given(pixels)
    fewer = given(pixels[1:])
    assert fewer.data_ptr() == first.data_ptr()
    torch.testing.assert_close(fewer, to_input(pixels[1:], None, "cpu", torch.float32), rtol=0, atol=0)
    more = given(pixels * 2)
    assert more.data_ptr() != first.data_ptr()
    torch.testing.assert_close(more, to_input(pixels * 2, None, "cpu", torch.float32), rtol=0, atol=0)
