"""Planted attention comes back as what it is, with the nulls removing what centre and locality alone explain."""

import numpy as np
import pytest
import torch

from oracles import interrelation as slow
from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.channels import map_batch
from siftlens.interrelation.inference import finalize
from siftlens.interrelation.statistics import layer_record, stack_records

IMAGES, ROWS, COLS = 113, 11, 13
PLANTS = (
    "to keypoints",
    "away from keypoints",
    "by distance",
    "to the centre",
    "evenly",
    "like to like",
    "mostly to class",
)
Y, X = np.mgrid[:ROWS, :COLS].reshape(2, -1)
FROM_CENTRE = (Y - (ROWS - 1) / 2) ** 2 + (X - (COLS - 1) / 2) ** 2
LAYOUT = slow.layout_of(ROWS, COLS, class_tokens=1, registers=1)


def attention_of(z):
    """Attention (head, token, token) of one image: a head per plant."""
    patch = z.ravel()
    squared = (Y[:, None] - Y) ** 2 + (X[:, None] - X) ** 2
    flat = np.zeros((len(patch), len(patch)))
    scores = {
        "to keypoints": flat + 0.7 * patch,
        "away from keypoints": flat - 0.7 * patch,
        "by distance": -squared / 8.0,
        "to the centre": flat - FROM_CENTRE / 18.0,
        "evenly": flat,
        "like to like": 0.7 * patch[:, None] * patch,
        "mostly to class": flat + 0.7 * patch,
    }
    attention = np.zeros((len(PLANTS), LAYOUT.tokens, LAYOUT.tokens))
    for head, plant in enumerate(PLANTS):
        weight = np.exp(scores[plant] - scores[plant].max(axis=1, keepdims=True))
        on_patches = 0.02 if plant == "mostly to class" else 0.8
        prefix = LAYOUT.prefix
        attention[head, prefix:, prefix:] = on_patches * weight / weight.sum(axis=1, keepdims=True)
        attention[head, prefix:, 0] = 0.9 * (1 - on_patches)
        attention[head, prefix:, 1] = 0.1 * (1 - on_patches)
        attention[head, :prefix, prefix:] = attention[head, prefix:, prefix:].mean(axis=0)
    return torch.from_numpy(attention)


@pytest.fixture(scope="module")
def heads():
    counts = slow.smooth_maps(IMAGES, ROWS, COLS, 0, bare=3)
    z, names = slow.z_of(counts), [f"pool{n}" for n in range(IMAGES)]
    pool = slow.pool_of(counts)
    pool_weights = image_weights(pool.contents, 0)
    sums = None
    for batch in np.array_split(np.arange(IMAGES), 7):
        contents = [names[n] for n in batch]
        rivals = slow.rivals_of(len(batch), ROWS, COLS, int(batch[0]))
        rivals[:, 1] = -FROM_CENTRE.reshape(ROWS, COLS)
        maps = map_batch(contents, z[batch], slow.levels_of(counts[batch]), rivals, pool, seed=0)
        attention = torch.stack([attention_of(z[n]) for n in batch])
        record = stack_records([layer_record(slow.quick_reading(attention, maps, LAYOUT), maps, LAYOUT)], maps)
        sums = sums or Accumulator.empty(record, pool.size)
        sums.add(record, image_weights(contents, 0), pool_weights)
    table = finalize(sums).heads
    return {(PLANTS[row["head"]], row.statistic): row for _, row in table.iterrows()}


def found(row):
    """-1, 0 or 1: a relevant effect that both nulls agree on."""
    agreed = row.significant and row.mirror_q < 0.05 and row.relevant and row.effect * row.mirror_effect > 0
    return int(np.sign(row.effect)) if agreed else 0


@pytest.mark.parametrize("statistic", ["semantic_pull", "partial_pull", "cls_pull"])
def test_pull_is_found_where_it_was_planted_and_nowhere_else(heads, statistic):
    got = {plant: found(heads[plant, statistic]) for plant in PLANTS}
    assert got == {
        "to keypoints": 1,
        "away from keypoints": -1,
        "by distance": 0,
        "to the centre": 0,
        "evenly": 0,
        "like to like": got["like to like"],  # between bare patches lies most of an image
        "mostly to class": 1,
    }


def test_assortativity_is_found_where_it_was_planted_and_nowhere_else(heads):
    got = {plant: found(heads[plant, "assortativity"]) for plant in PLANTS}
    assert got == dict.fromkeys(PLANTS, 0) | {"like to like": 1}


def test_raw_numbers_would_have_been_believed(heads):
    """What the nulls have to remove is there: maps are centred and smooth."""
    assert heads["to the centre", "semantic_pull"].value > 0.15
    assert heads["by distance", "assortativity"].value > 0.3


def test_attention_that_sees_no_content_has_no_effect_at_all(heads):
    """Not even a small one: against other images' maps as they are, the own map is one among equals."""
    for plant in ("by distance", "to the centre", "evenly"):
        for statistic in ("semantic_pull", "partial_pull", "assortativity", "cls_pull"):
            row = heads[plant, statistic]
            assert row.p > 0.01 and abs(row.effect) < 0.05, (plant, statistic)
            exact = statistic != "partial_pull"  # gradient energy has no mirror image in it
            assert abs(row.mirror_effect) < (1e-5 if exact else 0.01), (plant, statistic)


def test_pull_does_not_depend_on_what_the_prefix_takes(heads):
    little, much = heads["mostly to class", "semantic_pull"], heads["to keypoints", "semantic_pull"]
    assert little.value == pytest.approx(much.value, abs=1e-4)
    assert heads["mostly to class", "class_mass"].value == pytest.approx(0.9 * 0.98)
    assert heads["mostly to class", "register_mass"].value == pytest.approx(0.1 * 0.98)


def test_levels_receive_what_was_planted(heads):
    for plant, sign in (("to keypoints", 1), ("away from keypoints", -1)):
        bare, keen = (heads[plant, f"received_level_{level}"].value for level in (0, 4))
        assert sign * (keen - bare) > 0.5
    even = heads["evenly", "received_level_2"]
    assert even.value == pytest.approx(np.log2(0.8), abs=1e-5)
