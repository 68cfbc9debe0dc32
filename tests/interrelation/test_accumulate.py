"""Sums over images against loops, and their merging."""

import dataclasses
import math

import numpy as np
import pytest

from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.inference import finalize
from siftlens.interrelation.nulls import MIRRORS
from siftlens.interrelation.statistics import BatchRecord

IMAGES, LAYERS, HEADS, TESTED, DESCRIBED, NULLS, POOL, REPLICATES = 29, 2, 3, 4, 7, 5, 11, 13
CONTENTS = [f"image {n}" for n in range(IMAGES)]
POOL_CONTENTS = [f"map {n}" for n in range(POOL - 1)] + ["image 3"]


def record_of(classes=1):
    random = np.random.default_rng(0)
    tested = random.normal(size=(IMAGES, LAYERS, HEADS, TESTED, 1 + NULLS + MIRRORS))
    tested[4, 1, 2, 3] = tested[9, 0, 0, 0, 2] = math.nan
    described = random.normal(size=(IMAGES, LAYERS, HEADS, DESCRIBED))
    described[5, 0, 1, 6] = math.nan
    level_count = random.integers(0, 9, size=(IMAGES, 5)).astype(np.float64)
    level_count[:, 4] = 0
    level_mass = random.random((IMAGES, LAYERS, HEADS, 5, 5)) * (level_count[:, None, None, :, None] > 0)
    return BatchRecord(
        layers=("blocks.0", "blocks.1"),
        tested_names=("semantic_pull", "partial_pull", "assortativity", "cls_pull"),
        described_names=(
            *("class_mass", "entropy", "mean_squared_distance"),
            *("gradient_pull", "centre_pull", "fast_pull", "orb_pull"),
        ),
        tested=tested,
        described=described,
        level_mass=level_mass * (level_count[:, None, None, None] > 0),
        cls_level_mass=random.random((IMAGES, LAYERS, HEADS, classes, 5)),
        level_count=level_count,
        pool_index=np.stack([random.permutation(POOL)[:NULLS] for _ in range(IMAGES)]),
    )


def part(record, where):
    arrays = {
        field.name: getattr(record, field.name)[where]
        for field in dataclasses.fields(record)
        if isinstance(getattr(record, field.name), np.ndarray)
    }
    return dataclasses.replace(record, **arrays)


def sums_of(record, where=slice(None), seed=0):
    sums = Accumulator.empty(record, POOL, REPLICATES)
    weights = image_weights(np.array(CONTENTS)[where].tolist(), seed, REPLICATES)
    sums.add(part(record, where), weights, image_weights(POOL_CONTENTS, seed, REPLICATES))
    return sums


def test_sums_against_loops():
    record, sums = record_of(), sums_of(record_of())
    weights = image_weights(CONTENTS, 0, REPLICATES)
    pool_weights = image_weights(POOL_CONTENTS, 0, REPLICATES)
    for r in (0, 1, 6, REPLICATES):
        for layer, head in np.ndindex(LAYERS, HEADS):
            mass, expected, cls_expected = np.zeros((5, 5)), np.zeros((5, 5)), np.zeros(5)
            for s in range(TESTED):
                own = other = mirror = count = 0.0
                for i in range(IMAGES):
                    values = record.tested[i, layer, head, s]
                    if any(math.isnan(value) for value in values):
                        continue
                    drawn = [pool_weights[r, p] for p in record.pool_index[i]]
                    drawn = drawn if sum(drawn) else [1.0] * NULLS
                    null = sum(w * v for w, v in zip(drawn, values[1 : 1 + NULLS], strict=True)) / sum(drawn)
                    own += weights[r, i] * values[0]
                    other += weights[r, i] * null
                    mirror += weights[r, i] * sum(values[1 + NULLS :]) / MIRRORS
                    count += weights[r, i]
                cell = (r, layer, head, s)
                assert sums.tested[cell] == pytest.approx(own, rel=1e-12)
                assert sums.others[cell] == pytest.approx(other, rel=1e-12)
                assert sums.mirrors[cell] == pytest.approx(mirror, rel=1e-12)
                assert sums.tested_count[cell] == count
            for d in range(DESCRIBED):
                values = [(w, x) for w, x in zip(weights[r], record.described[:, layer, head, d], strict=True)]
                defined = [(w, x) for w, x in values if not math.isnan(x)]
                assert sums.described[r, layer, head, d] == pytest.approx(sum(w * x for w, x in defined), rel=1e-12)
                assert sums.described_count[r, layer, head, d] == sum(w for w, _ in defined)
            for i in range(IMAGES):
                n = record.level_count[i]
                mass += weights[r, i] * record.level_mass[i, layer, head]
                for a, b in np.ndindex(5, 5):
                    expected[a, b] += weights[r, i] * record.level_mass[i, layer, head, a].sum() * n[b] / n.sum()
                cls_expected += weights[r, i] * record.cls_level_mass[i, layer, head, 0].sum() * n / n.sum()
            assert np.allclose(sums.level_mass[r, layer, head], mass, rtol=1e-12)
            assert np.allclose(sums.level_expected[r, layer, head], expected, rtol=1e-12)
            assert np.allclose(sums.cls_level_expected[r, layer, head, 0], cls_expected, rtol=1e-12)
        assert sums.images[r] == weights[r].sum()
        assert np.allclose(sums.level_count[r], weights[r] @ record.level_count)


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("order", [0, 1])
def test_merging_shards_in_any_order_gives_the_same(shards, order):
    record = record_of()
    images = np.random.default_rng(order).permutation(IMAGES)
    parts = [sums_of(record, where) for where in np.array_split(images, shards)]
    merged = Accumulator.empty(record, POOL, REPLICATES)
    for shard in np.random.default_rng(order + 9).permutation(shards):
        merged.merge(parts[shard])
    whole = sums_of(record)
    for name, array in merged.to_arrays().items():
        if array.dtype == np.float64:
            assert np.allclose(array, getattr(whole, name), rtol=1e-12, atol=1e-12), name
    found, expected = finalize(merged), finalize(whole)
    for table in ("heads", "layers"):
        mine, theirs = getattr(found, table), getattr(expected, table)
        for column in mine.select_dtypes("float64"):
            assert np.allclose(mine[column], theirs[column], rtol=1e-11, atol=1e-12, equal_nan=True), column
    lifts = found.arrays.level_lift, expected.arrays.level_lift
    assert np.allclose(*lifts, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_arrays_survive_a_file(tmp_path):
    sums = sums_of(record_of())
    np.savez(tmp_path / "sums.npz", **sums.to_arrays())
    with np.load(tmp_path / "sums.npz", allow_pickle=False) as arrays:
        back = Accumulator.from_arrays(arrays)
    for field in dataclasses.fields(sums):
        mine, theirs = getattr(sums, field.name), getattr(back, field.name)
        assert type(mine) is type(theirs) and np.array_equal(mine, theirs), field.name
    back.merge(sums)
    assert np.array_equal(back.images, 2 * sums.images)


def test_sums_do_not_grow_with_images():
    record = record_of()
    few, many = sums_of(record, slice(0, 2)), sums_of(record)
    assert sum(a.nbytes for a in few.to_arrays().values()) == sum(a.nbytes for a in many.to_arrays().values())


def test_sums_of_other_things_do_not_merge():
    record = record_of()
    other = dataclasses.replace(record, layers=("blocks.0", "blocks.7"))
    with pytest.raises(ValueError, match=r"expected layers, statistics and pool size .*blocks\.1.* got .*blocks\.7"):
        sums_of(record).merge(sums_of(other))
    with pytest.raises(ValueError, match=r"expected layers, statistics and pool size"):
        sums_of(record).add(other, np.ones((14, IMAGES)), np.ones((14, POOL)))
    with pytest.raises(ValueError, match=r"expected layers, statistics and pool size"):
        sums_of(record).merge(Accumulator.empty(record, POOL + 1, REPLICATES))


def test_a_single_image_has_no_null_map():
    record = record_of()
    alone = dataclasses.replace(
        part(record, slice(0, 1)), tested=record.tested[:1, ..., -1 - MIRRORS :], pool_index=np.zeros((1, 0), np.int64)
    )
    sums = Accumulator.empty(alone, 1, REPLICATES)
    sums.add(alone, image_weights(CONTENTS[:1], 0, REPLICATES), image_weights(CONTENTS[:1], 0, REPLICATES))
    heads = finalize(sums).heads
    tested = heads[heads.statistic == "semantic_pull"]
    assert np.allclose(tested.value, alone.tested[0, ..., 0, 0].ravel())
    assert tested[["effect", "low", "high", "p", "q", "null_mean", "mirror_p"]].isna().all(axis=None)
    assert not tested.significant.any() and not tested.relevant.any()
