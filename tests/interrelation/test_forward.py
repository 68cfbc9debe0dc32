"""What a model is given, against the plain arithmetic."""

import numpy as np
import pytest
import torch

from siftlens.data import NORMALIZATIONS
from siftlens.interrelation.forward import to_input


@pytest.mark.parametrize("name", [None, "imagenet", "clip"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_become_what_the_model_expects_to_the_last_bit(name, dtype):
    normalization = NORMALIZATIONS[name] if name else None
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 17, 29, 3), dtype=np.uint8))
    expected = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    if normalization is not None:
        mean, std = (torch.tensor(values)[:, None, None] for values in (normalization.mean, normalization.std))
        expected = (expected - mean) / std
    given = to_input(pixels, normalization, "cpu", dtype)
    assert given.dtype == dtype and given.is_contiguous()
    torch.testing.assert_close(given, expected.to(dtype), rtol=0, atol=0)
