"""From sums to the table and the arrays that are reported."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.inference import false_discovery, finalize, infer
from siftlens.interrelation.nulls import MIRRORS
from siftlens.interrelation.statistics import BatchRecord

IMAGES, LAYERS, HEADS, NULLS, POOL, REPLICATES = 31, 2, 3, 5, 17, 101
# Made-up effects against null 1 by (layer, head), and a statistic without any.
EFFECTS = np.array([[0.5, 0.02, 0.0], [-0.5, 0.0, 0.3]])
COLUMNS = [
    *(
        "layer",
        "layer_name",
        "head",
        "statistic",
        "unit",
        "value",
        "null_mean",
        "effect",
        "se",
        "low",
        "high",
        "p",
        "q",
    ),
    *("n", "significant", "relevant", "mirror_effect", "mirror_low", "mirror_high", "mirror_p", "mirror_q"),
]


def record_of(classes=1, images=IMAGES):
    random = np.random.default_rng(5)
    tested = random.normal(size=(images, LAYERS, HEADS, 2, 1 + NULLS + MIRRORS)) * 0.02
    tested[..., 0, 0] += EFFECTS + 1
    tested[..., 0, 1:] += 1
    count = random.integers(1, 9, size=(images, 5)).astype(float)
    count[:, 3] = 0
    mass = random.random((images, LAYERS, HEADS, 5, 5)) * (count[:, None, None, :, None] > 0)
    return BatchRecord(
        layers=("blocks.0", "blocks.1"),
        tested_names=("semantic_pull", "assortativity"),
        described_names=("mean_squared_distance",),
        tested=tested,
        described=random.normal(size=(images, LAYERS, HEADS, 1)) + 7,
        level_mass=mass * (count[:, None, None, None] > 0),
        cls_level_mass=random.random((images, LAYERS, HEADS, classes, 5)) * (count[:, None, None, None] > 0),
        level_count=count,
        pool_index=np.stack([random.permutation(POOL)[:NULLS] for _ in range(images)]),
    )


def sums_of(record):
    contents, pool = [f"image {n}" for n in range(len(record.tested))], [f"map {n}" for n in range(POOL)]
    sums = Accumulator.empty(record, POOL, REPLICATES)
    sums.add(record, image_weights(contents, 0, REPLICATES), image_weights(pool, 0, REPLICATES))
    return sums


def cell(heads, layer, head, statistic):
    rows = heads[(heads.layer == layer) & (heads["head"] == head) & (heads.statistic == statistic)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_table_has_a_row_per_layer_head_and_statistic():
    heads = finalize(sums_of(record_of())).heads
    assert list(heads.columns) == COLUMNS
    assert len(heads) == LAYERS * HEADS * (2 + 1 + 5)
    assert heads.statistic.unique().tolist() == [
        *("semantic_pull", "assortativity", "mean_squared_distance"),
        *(f"received_level_{level}" for level in range(5)),
    ]
    assert heads[["layer", "head"]].drop_duplicates().to_numpy().tolist() == [
        [layer, head] for layer in range(LAYERS) for head in range(HEADS)
    ]
    assert (heads.layer_name == "blocks." + heads.layer.astype(str)).all()
    assert (heads.n == IMAGES).all() and heads.n.dtype == np.int64
    assert heads.significant.dtype == heads.relevant.dtype == bool


def test_planted_effects_come_back():
    heads = finalize(sums_of(record_of())).heads
    for layer, head in np.ndindex(LAYERS, HEADS):
        row = cell(heads, layer, head, "semantic_pull")
        assert row.value == pytest.approx(1 + EFFECTS[layer, head], abs=0.02)
        assert row.null_mean == pytest.approx(1, abs=0.02)
        assert row.effect == pytest.approx(row.value - row.null_mean, abs=1e-12)
        for effect in (row.effect, row.mirror_effect):
            assert effect == pytest.approx(EFFECTS[layer, head], abs=4 * row.se)
        assert row.significant or EFFECTS[layer, head] == 0
        assert row.relevant == (abs(EFFECTS[layer, head]) > 0.1)
    assert not heads[heads.statistic == "assortativity"].significant.any()


def test_intervals_and_p_values_follow_student():
    record = record_of()
    sums = sums_of(record)
    heads = finalize(sums).heads
    drawn = (sums.tested - sums.others) / sums.tested_count
    row = cell(heads, 1, 2, "semantic_pull")
    freedom = min(IMAGES, POOL) - 1
    se = np.std(drawn[1:, 1, 2, 0], ddof=1)
    assert row.se == pytest.approx(se)
    assert row.high - row.effect == pytest.approx(stats.t.ppf(0.975, freedom) * se)
    weak = cell(heads, 0, 2, "semantic_pull")
    assert weak.p == pytest.approx(2 * stats.t.sf(abs(weak.effect) / weak.se, freedom))
    mirror = (sums.tested - sums.mirrors) / sums.tested_count
    mirror_se = np.std(mirror[1:, 0, 2, 0], ddof=1)
    assert weak.mirror_p == pytest.approx(2 * stats.t.sf(abs(weak.mirror_effect) / mirror_se, IMAGES - 1))


def test_each_statistic_is_a_family_of_tests():
    heads = finalize(sums_of(record_of())).heads
    for statistic in ("semantic_pull", "assortativity"):
        family = heads[heads.statistic == statistic]
        for p, q in (("p", "q"), ("mirror_p", "mirror_q")):
            assert np.allclose(family[q], slow_discovery(family[p].tolist()))


def test_significance_is_that_of_the_family():
    record = record_of()
    record.tested[:, 0, 1, 1, 0] += 0.006
    heads = finalize(sums_of(record)).heads
    family = heads[heads.statistic == "assortativity"]
    assert ((family.p < 0.05) & (family.q > 0.05)).any()
    assert (heads.significant == (heads.q < 0.05)).all()


def slow_discovery(p):
    """Benjamini and Hochberg (1995): the least level at which each would be a discovery."""
    order = sorted(range(len(p)), key=lambda index: p[index])
    q, least = [math.nan] * len(p), 1.0
    for rank in range(len(p), 0, -1):
        index = order[rank - 1]
        least = min(least, p[index] * len(p) / rank)
        q[index] = least
    return q


def test_false_discovery_skips_what_has_no_p_value():
    p = np.array([[0.01, np.nan, 0.04], [0.5, 0.03, np.nan]])
    q = false_discovery(p)
    assert np.array_equal(np.isnan(q), np.isnan(p))
    assert np.allclose(q[~np.isnan(p)], slow_discovery([0.01, 0.04, 0.5, 0.03]))
    assert np.isnan(false_discovery(np.full((2, 3), np.nan))).all()


def test_statistics_without_null_have_an_interval_of_their_value():
    record = record_of()
    heads = finalize(sums_of(record)).heads
    row = cell(heads, 1, 1, "mean_squared_distance")
    assert row.value == pytest.approx(record.described[:, 1, 1, 0].mean())
    assert row.low < row.value < row.high
    missing = ["null_mean", "effect", "p", "q", *(name for name in COLUMNS if name.startswith("mirror"))]
    assert row[missing].isna().all() and not row.significant and not row.relevant
    assert row.unit == "px^2"


def test_layers_are_means_over_heads_in_every_replicate():
    record = record_of()
    record.tested[:, 1, 2, 0] = np.nan  # a head without a value is left out of its layer's mean
    sums = sums_of(record)
    layers = finalize(sums).layers
    assert list(layers.columns) == [name for name in COLUMNS if name != "head"]
    assert len(layers) == LAYERS * (2 + 1 + 5)
    for layer, heads in ((0, [0, 1, 2]), (1, [0, 1])):
        row = layers[(layers.layer == layer) & (layers.statistic == "semantic_pull")].iloc[0]
        cells = (slice(None), layer, heads, 0)
        own, other, mirror = (
            part[cells] / sums.tested_count[cells] for part in (sums.tested, sums.others, sums.mirrors)
        )
        drawn, mirrored = (own - other).mean(axis=1), (own - mirror).mean(axis=1)
        assert row.value == pytest.approx(own[0].mean())
        assert row.effect == pytest.approx(drawn[0])
        assert row.se == pytest.approx(np.std(drawn[1:], ddof=1))
        assert row.mirror_effect == pytest.approx(mirrored[0])
        assert row.high - row.effect == pytest.approx(stats.t.ppf(0.975, min(IMAGES, POOL) - 1) * row.se)
        assert row.n == IMAGES
    family = layers[layers.statistic == "semantic_pull"]
    assert np.allclose(family.q, slow_discovery(family.p.tolist()))
    described = layers[(layers.layer == 0) & (layers.statistic == "mean_squared_distance")].iloc[0]
    assert described.value == pytest.approx(record.described[:, 0, :, 0].mean())


def test_levels_against_loops():
    record = record_of()
    found = finalize(sums_of(record))
    heads, arrays = found.heads, found.arrays
    assert arrays.level_n.to_series().to_dict() == dict(
        zip(["0", "1", "2-3", "4-7", "8+"], record.level_count.sum(axis=0), strict=True)
    )
    for layer, head, a, b in np.ndindex(LAYERS, HEADS, 5, 5):
        mass = expected = cls = cls_expected = received = 0.0
        queries = patches = 0.0
        for i in range(IMAGES):
            n = record.level_count[i]
            row = record.level_mass[i, layer, head, a]
            mass += row[b]
            expected += row.sum() * n[b] / n.sum()
            queries += n[a]
            cls += record.cls_level_mass[i, layer, head, 0, b]
            cls_expected += record.cls_level_mass[i, layer, head, 0].sum() * n[b] / n.sum()
            received += record.level_mass[i, layer, head, :, b].sum()
            patches += n[b]
        where = {"layer": layer, "head": head}
        cell_of = arrays.isel(**where, query_level=a, key_level=b)
        if 3 in (a, b):
            assert math.isnan(cell_of.level_lift) and math.isnan(cell_of.level_lift_low)
        else:
            assert float(cell_of.level_mass) == pytest.approx(mass / queries)
            assert float(cell_of.level_lift) == pytest.approx(math.log2(mass / expected))
            assert cell_of.level_lift_low < cell_of.level_lift < cell_of.level_lift_high
        value = cell(heads, layer, head, f"received_level_{b}").value
        if b == 3:
            assert math.isnan(value) and math.isnan(cell_of.cls_level_lift)
        else:
            assert value == pytest.approx(math.log2(received / patches))
            assert float(cell_of.cls_level_mass) == pytest.approx(cls / IMAGES)
            assert float(cell_of.cls_level_lift) == pytest.approx(math.log2(cls / cls_expected))


def test_without_class_token_nothing_is_said_about_it():
    arrays = finalize(sums_of(record_of(classes=0))).arrays
    assert not [name for name in arrays if str(name).startswith("cls")]


def test_a_level_that_two_images_have_gets_a_value_and_no_interval():
    record = record_of()
    record.level_count[2:, 4] = 0
    record.level_mass[2:, ..., 4, :] = record.level_mass[2:, ..., 4] = 0
    arrays = finalize(sums_of(record)).arrays
    corner = arrays.isel(query_level=4, key_level=4)
    assert corner.level_lift.notnull().all() and corner.level_lift_low.isnull().all()


def test_three_images_get_no_interval_and_four_do():
    for images, known in ((2, False), (3, False), (4, True)):
        heads = finalize(sums_of(record_of(images=images))).heads
        row = cell(heads, 0, 0, "semantic_pull")
        assert math.isfinite(row.effect) and math.isfinite(row.p) is known and math.isfinite(row.low) is known


def test_rounding_is_no_discovery():
    """Attention that treats every map alike differs from its nulls by float32 rounding only."""
    record = record_of()
    record.tested[:] = 0
    record.tested[..., 0] = 3e-8
    heads = finalize(sums_of(record)).heads
    assert (heads.p.dropna() > 0.9).all() and not heads.significant.any()


def test_undefined_images_are_left_out_and_counted():
    record = record_of()
    record.tested[:11, 1, 0, 0, 2] = np.nan
    record.described[3, 0, 1] = np.nan
    heads = finalize(sums_of(record)).heads
    row = cell(heads, 1, 0, "semantic_pull")
    assert row.n == IMAGES - 11 and row.value == pytest.approx(record.tested[11:, 1, 0, 0, 0].mean())
    row = cell(heads, 0, 1, "mean_squared_distance")
    assert row.n == IMAGES - 1 and row.value == pytest.approx(np.delete(record.described[:, 0, 1, 0], 3).mean())
    none = dataclasses.replace(record, tested=np.full_like(record.tested, np.nan))
    heads = finalize(sums_of(none)).heads
    assert heads[heads.statistic == "semantic_pull"][["value", "effect", "p", "q"]].isna().all(axis=None)


def test_infer_leaves_out_replicates_that_drew_nothing():
    replicates = np.random.default_rng(0).normal(size=(1 + 200, 3)) * 0.1 + 1
    replicates[5, 0] = np.nan
    replicates[1:30, 1] = np.nan
    estimate, se, low, high, p = infer(replicates, np.array([10.0, 10.0, 0.0]))
    assert np.array_equal(estimate, replicates[0])
    assert se[0] == pytest.approx(np.nanstd(replicates[1:, 0], ddof=1))
    assert np.isnan(se[1:]).all() and np.isnan(low[1:]).all() and np.isnan(high[1:]).all() and np.isnan(p[1:]).all()
