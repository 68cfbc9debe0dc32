"""Noise per patch: distribution, reproducibility, and what each policy does to the mask."""

import numpy as np
import pytest
import torch
from scipy import stats

from siftlens.core import InputError
from siftlens.pretraining.masking import POLICIES, MaskPolicy, ranks, zscore
from siftlens.pretraining.randomness import Purpose, image_keys, uniform

BATCH, PATCHES = 53, 97


def splitmix(x: int) -> int:
    """The published finaliser in Python's integers, cut to 64 bits."""
    word = 2**64 - 1
    x &= word
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
    return x ^ (x >> 31)


def counts(batch: int = BATCH, seed: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.rand(batch, PATCHES, generator=generator) * 5, generator=generator)


def keys(batch: int = BATCH, seed: int = 3, epoch: int = 2) -> torch.Tensor:
    return image_keys(seed, epoch, torch.arange(batch))


def masked(policy: MaskPolicy, concentration: torch.Tensor, progress: float = 1.0) -> torch.Tensor:
    noise = policy.noise(concentration, progress=progress, keys=keys(len(concentration)))
    return ranks(noise) >= policy.visible(concentration.shape[1])


def test_uniform_numbers_are_splitmix64():
    golden = 0x9E3779B97F4A7C15
    found = uniform(torch.tensor([5, -11]), Purpose.TIES, 7)
    for row, key in enumerate((5, -11)):
        stream = splitmix(key + 3 * golden)
        expected = [((splitmix(stream + (n + 1) * golden) >> 11) + 0.5) * 2.0**-53 for n in range(7)]
        assert found[row].tolist() == expected


def test_keys_differ_by_seed_epoch_and_image():
    made = [image_keys(seed, epoch, torch.arange(1000)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(torch.cat(made).unique()) == 4000


def test_random_noise_is_gumbel():
    noise = MaskPolicy("random").noise(counts(997), progress=0.3, keys=keys(997))
    assert stats.kstest(noise.flatten().numpy(), "gumbel_r").pvalue > 0.01
    correlation = np.corrcoef(noise.T.numpy())
    assert np.abs(correlation[~np.eye(PATCHES, dtype=bool)]).max() < 5 / np.sqrt(997)


def test_epochs_and_neighbouring_images_are_independent():
    first, second = (MaskPolicy().noise(counts(997), progress=0, keys=keys(997, epoch=epoch)) for epoch in (0, 1))
    for one, other in [(first, second), (first[1:], first[:-1])]:
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 4 / np.sqrt(one.numel())


@pytest.mark.parametrize("name", POLICIES)
def test_noise_does_not_depend_on_the_batch(name):
    policy = MaskPolicy(name)
    c, k = counts(), keys()
    whole = policy.noise(c, progress=0.4, keys=k)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(policy.noise(c[order], progress=0.4, keys=k[order]), whole[order], rtol=0, atol=0)
    parts = [policy.noise(c[n : n + 1], progress=0.4, keys=k[n : n + 1]) for n in range(BATCH)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["keypoint-high", "keypoint-low", "ramped"])
def test_alpha_zero_is_exactly_random_masking(name):
    random = MaskPolicy("random").noise(torch.zeros(BATCH, PATCHES), progress=0.5, keys=keys())
    assert torch.equal(MaskPolicy(name, alpha=0).noise(counts(), progress=0.5, keys=keys()), random)
    assert torch.equal(MaskPolicy("random", alpha=9).noise(counts(), progress=0.5, keys=keys()), random)


def test_noise_is_alpha_times_z_plus_gumbel():
    c = counts()
    gumbel = MaskPolicy("random").noise(c, progress=0, keys=keys()).double()
    logs = np.log1p(c.double().numpy())
    z = (logs - logs.mean(1, keepdims=True)) / logs.std(1, keepdims=True)
    for name, progress, strength in [("keypoint-high", 0, 0.7), ("keypoint-low", 1, -0.7), ("ramped", 0.25, 0.175)]:
        noise = MaskPolicy(name, alpha=0.7).noise(c, progress=progress, keys=keys()).double()
        np.testing.assert_allclose(noise - gumbel, strength * z, atol=1e-5)


def test_high_masks_the_top_quartile_more_than_low_does():
    c = torch.expm1(torch.randn(997, PATCHES, generator=torch.Generator().manual_seed(1)) / 4 + 4)
    place = ranks(c)
    top, bottom = place >= PATCHES - PATCHES // 4, place < PATCHES // 4
    share = {
        name: tuple(float(masked(MaskPolicy(name), c)[part].float().mean()) for part in (top, bottom))
        for name in ("random", "keypoint-high", "keypoint-low")
    }
    assert share["random"] == pytest.approx((0.75, 0.75), abs=0.01)
    assert share["keypoint-high"] == pytest.approx((0.93, 0.54), abs=0.02)
    assert share["keypoint-low"][0] < 0.60
    assert share["keypoint-low"][1] > 0.84


@pytest.mark.parametrize("name", POLICIES)
def test_the_ratio_is_fixed(name):
    policy = MaskPolicy(name, ratio=0.6)
    assert (masked(policy, counts()).sum(1) == PATCHES - 39).all()


def test_hints_reveal_a_tenth_of_the_masked_top_quartile_and_nothing_below():
    c = torch.rand(997, PATCHES, generator=torch.Generator().manual_seed(1)) * 9
    before = masked(MaskPolicy("keypoint-high"), c)
    after = masked(MaskPolicy("hints"), c)
    top = ranks(c) >= PATCHES - PATCHES // 4
    revealed = before & ~after
    assert not (revealed & ~top).any()
    assert float(revealed.sum() / (before & top).sum()) == pytest.approx(0.1, abs=0.01)
    assert (after.sum(1) == before.sum(1)).all()


def test_hints_choose_by_chance_among_patches_of_equal_concentration():
    c = torch.zeros(2003, PATCHES)
    revealed = masked(MaskPolicy("keypoint-high"), c) & ~masked(MaskPolicy("hints"), c)
    per_patch = revealed.sum(0).numpy()
    assert stats.chisquare(per_patch).pvalue > 1e-3


def test_zscore_of_a_constant_row_is_zero():
    values = torch.stack([torch.full((PATCHES,), 0.1), torch.arange(float(PATCHES))]).double()
    z = zscore(values)
    assert (z[0] == 0).all()
    assert z[1].mean().item() == pytest.approx(0, abs=1e-12)
    assert z[1].std(correction=0).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "keypoints"}, "must be one of random, keypoint-high, keypoint-low, ramped, hints, got 'keypoints'"),
        ({"alpha": -1.0}, r"alpha must lie in \[0, 100\], got -1.0"),
        ({"alpha": 1e300}, r"alpha must lie in \[0, 100\], got 1e\+300"),
        ({"ratio": 1.0}, "mask ratio must lie between 0 and 1, got 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MaskPolicy(**settings)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_concentration_that_is_none_is_refused(value):
    concentration = torch.ones(2, 4)
    concentration[1, 2] = value
    with pytest.raises(InputError, match="concentration must be finite and not negative"):
        MaskPolicy().noise(concentration, progress=0.0, keys=keys(2))


def test_progress_outside_its_range_and_a_single_patch_are_refused():
    with pytest.raises(InputError, match=r"progress must lie between 0 and 1, got 1\.5"):
        MaskPolicy().noise(counts(), progress=1.5, keys=keys())
    with pytest.raises(InputError, match="at least 2 patches, got 1"):
        MaskPolicy().visible(1)
