"""What is decoded of what is masked, and how much it counts."""

import numpy as np
import pytest
import torch
from scipy import stats

from siftlens.core import InputError
from siftlens.pretraining.choice import PartialDecoding, loss_weights, split
from siftlens.pretraining.randomness import image_keys

BATCH, PATCHES, VISIBLE = 211, 43, 11
MASKED = PATCHES - VISIBLE


def drawn():
    generator = torch.Generator().manual_seed(0)
    concentration = torch.poisson(torch.rand(BATCH, PATCHES, generator=generator) * 3, generator=generator)
    visible, masked = split(torch.rand(BATCH, PATCHES, generator=generator), VISIBLE)
    return concentration, visible, masked, image_keys(1, 0, torch.arange(BATCH))


def test_the_lowest_noise_stays_visible_and_nothing_is_lost():
    noise = torch.rand(BATCH, PATCHES)
    visible, masked = split(noise, VISIBLE)
    assert (noise.gather(1, visible).amax(1) < noise.gather(1, masked).amin(1)).all()
    assert (torch.cat([visible, masked], 1).sort(1).values == torch.arange(PATCHES)).all()


def test_decoding_all_is_the_masked_patches_as_they_are():
    concentration, _, masked, keys = drawn()
    assert PartialDecoding().choose(masked, concentration, keys) is masked


def test_by_default_chance_decides():
    concentration, _, masked, keys = drawn()
    decoded = PartialDecoding(0.5).choose(masked, concentration, keys)
    assert torch.equal(PartialDecoding(0.5).choose(masked, concentration.flip(1), keys), decoded)


def test_half_is_ranked_by_concentration_and_half_by_chance():
    concentration, _, masked, keys = drawn()
    decoded = PartialDecoding(0.5, 0.5).choose(masked, concentration, keys)
    assert decoded.shape == (BATCH, 16)
    for image in range(BATCH):
        chosen, all_masked = set(decoded[image].tolist()), masked[image].tolist()
        assert chosen <= set(all_masked)
        assert len(chosen) == 16
        values = sorted((float(concentration[image, patch]) for patch in all_masked), reverse=True)
        eighth = values[7]
        certain = {patch for patch in all_masked if concentration[image, patch] > eighth}
        assert certain <= chosen


def test_the_ranked_part_goes_from_none_to_all():
    concentration, _, masked, keys = drawn()
    chance = PartialDecoding(0.5, 0.0).choose(masked, concentration, keys)
    assert torch.equal(PartialDecoding(0.5, 0.0).choose(masked, concentration.flip(1), keys), chance)
    top = PartialDecoding(0.5, 1.0).choose(masked, concentration, keys)
    values = concentration.gather(1, masked).sort(1, descending=True).values
    assert torch.equal(concentration.gather(1, top).sort(1, descending=True).values, values[:, :16])


def test_the_rest_and_ties_are_uniform():
    _, _, masked, keys = drawn()
    flat = torch.ones(BATCH, PATCHES)
    for ranked in (0.0, 0.5, 1.0):
        decoded = PartialDecoding(0.25, ranked).choose(masked, flat, keys)
        place = (masked[:, :, None] == decoded[:, None, :]).any(2).sum(0)
        assert int(place.sum()) == BATCH * 8
        assert stats.chisquare(place.numpy()).pvalue > 1e-3


def test_choice_does_not_depend_on_the_batch():
    concentration, _, masked, keys = drawn()
    decoding = PartialDecoding(0.5, 0.5)
    whole = decoding.choose(masked, concentration, keys)
    assert torch.equal(decoding.choose(masked[7:9], concentration[7:9], keys[7:9]), whole[7:9])


def test_loss_weights_have_mean_one_and_the_stated_ratio():
    concentration, _, masked, _ = drawn()
    weights = loss_weights(concentration, masked, 0.5)
    np.testing.assert_allclose(weights.mean(1), 1, rtol=1e-5)
    for image in (0, 5):
        density = concentration[image] / concentration[image].max()
        raw = [np.exp(float(density[patch]) / 0.5) for patch in masked[image]]
        np.testing.assert_allclose(weights[image], np.array(raw) / np.mean(raw), rtol=1e-5)
    assert (loss_weights(torch.zeros(BATCH, PATCHES), masked, 0.5) == 1).all()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: PartialDecoding(share=0), r"must lie in \(0, 1\], got 0"),
        (lambda: PartialDecoding(ranked=1.5), r"must lie in \[0, 1\], got 1.5"),
        (lambda: loss_weights(torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.int64), 0), "must be positive, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(act, message):
    with pytest.raises(InputError, match=message):
        act()
