"""The same seed, the same numbers: to the last bit where nothing changes, to 1e-5 where the batches do."""

import numpy as np
import pandas as pd
import pytest
import torch

import siftlens
from siftlens.data import DrawnMaterial, Planted

TOLERANCE = 1e-5  # of effects, which are in standard deviations
pytest.importorskip("skimage", reason="needs scikit-image, whose wheel holds textures")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=64).split("heldout", 23).write(folder)
    return folder / "images"


@pytest.fixture(scope="module")
def model():
    return siftlens.load_model("demo-shortcut")


@pytest.fixture(scope="module")
def usual(model, images):
    return siftlens.analyze(model, images, batch_size=5, workers=0, seed=3, cache=False)


def test_again_is_bit_for_bit_the_same(model, images, usual, tmp_path):
    again = siftlens.analyze(model, images, batch_size=5, workers=1, seed=3, out=tmp_path / "out")
    with again.arrays:
        for name in ("heads", "layers", "images"):
            pd.testing.assert_frame_equal(getattr(again, name), getattr(usual, name), check_exact=True)
        assert again.arrays.load().identical(usual.arrays)


@pytest.mark.parametrize("change", ["one image at a time", "other batches, two threads"])
def test_other_batches_and_threads_differ_by_rounding(model, images, usual, change):
    size, threads = (1, 1) if change == "one image at a time" else (7, 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        other = siftlens.analyze(model, images, batch_size=size, workers=0, seed=3, cache=False)
    finally:
        torch.set_num_threads(before)
    numbers = ["value", "null_mean", "effect", "se", "low", "high", "mirror_effect"]
    apart = np.abs(other.heads[numbers].to_numpy(float) - usual.heads[numbers].to_numpy(float))
    scale = 1 + np.abs(usual.heads[numbers].to_numpy(float))
    assert np.nanmax(apart / scale) < TOLERANCE
    assert (other.heads["p"] - usual.heads["p"]).abs().max() < TOLERANCE
    assert list(other.images["content"]) == list(usual.images["content"])


def test_another_seed_is_another_draw(model, images, usual):
    other = siftlens.analyze(model, images, batch_size=5, workers=0, seed=4, cache=False)
    assert not other.heads["se"].equals(usual.heads["se"])
    pd.testing.assert_series_equal(other.heads["value"], usual.heads["value"])
