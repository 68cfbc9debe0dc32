"""Every statistic of a layer against the loop oracles."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from oracles import interrelation as slow
from siftlens.core import CaptureError
from siftlens.interrelation.channels import map_batch
from siftlens.interrelation.statistics import layer_record, stack_records

BATCH, HEADS, ROWS, COLS = 2, 3, 5, 7
PREFIXES = {"none": (0, 0), "class": (1, 0), "distilled": (2, 0), "registers": (1, 4)}


def problem(class_tokens=1, registers=0, keep=None, seed=0, bare=0):
    layout = slow.layout_of(ROWS, COLS, class_tokens, registers)
    counts = slow.smooth_maps(BATCH, ROWS, COLS, seed, bare=bare)
    maps = map_batch(
        ["a", "b"],
        slow.z_of(counts),
        slow.levels_of(counts),
        slow.rivals_of(BATCH, ROWS, COLS, seed + 1),
        slow.pool_of(slow.smooth_maps(6, ROWS, COLS, seed + 2)),
        seed=seed,
        keep=keep,
    )
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(BATCH, HEADS, layout.tokens, layout.tokens, generator=random, dtype=torch.float64)
    return layout, counts, maps, (2 * scores).softmax(dim=-1)


def left_out():
    keep = np.ones((BATCH, ROWS, COLS), bool)
    keep[0, 1, 3] = keep[0, 4, 6] = keep[1, 0, 0] = False
    return keep


@pytest.mark.parametrize("keep", [None, left_out()], ids=["all", "outliers left out"])
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_statistics_against_loops(prefix, keep):
    layout, counts, maps, attention = problem(*prefix, keep=keep)
    record = layer_record(slow.reading_of(attention, maps, layout, entropy=True), maps, layout)
    kept = np.ones((BATCH, ROWS * COLS), bool) if keep is None else keep.reshape(BATCH, -1)
    z, rivals = maps.maps.double().numpy(), maps.rivals.double().numpy()
    level = slow.levels_of(counts).reshape(BATCH, -1)
    names = record.tested_names
    assert names == ("semantic_pull", "partial_pull", "assortativity", *(["cls_pull"] if prefix[0] else []))
    for b in range(BATCH):
        for h in range(HEADS):
            a = attention[b, h].numpy()
            for m in range(z.shape[2]):
                own = z[b, :, m]
                rest = slow.residual_of(own, rivals[b, :, 0], rivals[b, :, 1], kept[b])
                expected = {
                    "semantic_pull": slow.pull(a, own, layout, kept[b]),
                    "partial_pull": slow.pull(a, rest, layout, kept[b]),
                    "assortativity": slow.assortativity(a, own, layout, kept[b]),
                    "cls_pull": slow.cls_pull(a, own, layout, kept[b]),
                }
                for s, name in enumerate(names):
                    assert record.tested[b, h, s, m].item() == pytest.approx(expected[name], abs=1e-5), name
            described = dict(zip(record.described_names, record.described[b, h].tolist(), strict=True))
            for index, name in enumerate(("gradient", "centre", "fast", "orb")):
                truth = slow.pull(a, rivals[b, :, index], layout, kept[b])
                assert described[f"{name}_pull"] == pytest.approx(truth, abs=1e-5)
            assert np.allclose(record.level_mass[b, h], slow.level_mass(a, level[b], layout, kept[b]), atol=1e-5)
            if prefix[0]:
                on_level = np.zeros(5)
                for j in range(ROWS * COLS):
                    on_level[level[b, j]] += a[0, layout.prefix + j] * kept[b, j]
                assert np.allclose(record.cls_level_mass[b, h, 0], on_level, atol=1e-5)
    assert record.cls_level_mass.shape == (BATCH, HEADS, min(prefix[0], 1), 5)


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_described_means_are_over_kept_patch_queries(prefix):
    keep = left_out()
    layout, _, maps, attention = problem(*prefix, keep=keep)
    reading = slow.reading_of(attention, maps, layout, entropy=True)
    record = layer_record(reading, maps, layout)
    kept = keep.reshape(BATCH, -1)
    expected = {
        "class_mass": reading.prefix_mass[..., 0],
        "register_mass": reading.prefix_mass[..., 1],
        "entropy": reading.entropy,
        "mean_squared_distance": reading.mean_squared_distance,
    }
    absent = {name for name, tokens in zip(("class_mass", "register_mass"), prefix, strict=True) if not tokens}
    assert set(expected) - set(record.described_names) == absent
    for name in set(expected) - absent:
        for b in range(BATCH):
            for h in range(HEADS):
                queries = [expected[name][b, h, layout.prefix + i].item() for i in range(ROWS * COLS) if kept[b, i]]
                got = record.described[b, h, record.described_names.index(name)].item()
                assert got == pytest.approx(sum(queries) / len(queries), rel=1e-5)


def test_entropy_is_absent_where_it_was_not_asked_for():
    layout, _, maps, attention = problem()
    assert "entropy" not in layer_record(slow.reading_of(attention, maps, layout), maps, layout).described_names


def test_queries_without_attention_on_patches_are_left_out():
    layout, _, maps, attention = problem(class_tokens=2)
    attention[0, 1, layout.prefix + 4] = 0
    attention[0, 1, layout.prefix + 4, 0] = 1
    reading = slow.quick_reading(attention, maps, layout)
    reading.mean_squared_distance[:] = 9.0
    reading.mean_squared_distance[0, 1, layout.prefix + 4] = math.nan
    record = layer_record(reading, maps, layout)
    keep, z = np.ones(ROWS * COLS, bool), maps.maps.double().numpy()
    for m in range(z.shape[2]):
        truth = slow.assortativity(attention[0, 1].numpy(), z[0, :, m], layout, keep)
        assert record.tested[0, 1, 2, m].item() == pytest.approx(truth, abs=1e-5)
    assert record.described[0, 1, record.described_names.index("mean_squared_distance")] == 9.0


def test_queries_that_are_all_alike_have_no_assortativity():
    """Only bare patches attend to patches: their z is one and the same."""
    layout, counts, maps, attention = problem()
    keen = torch.from_numpy(np.flatnonzero(counts[0].ravel())) + layout.prefix
    attention[0, :, keen] = 0
    attention[0, :, keen, 0] = 1
    record = layer_record(slow.quick_reading(attention, maps, layout), maps, layout)
    assert record.tested[0, :, 2, 0].abs().max() == 0 and record.tested[0, :, 2, 1:6].abs().min() > 0


def test_no_attention_on_patches_at_all_is_undefined():
    layout, _, maps, attention = problem()
    attention[1, 2] = 0
    attention[1, 2, :, 0] = 1
    record = layer_record(slow.quick_reading(attention, maps, layout), maps, layout)
    assert record.tested[1, 2].isnan().all()
    assert not record.tested[0].isnan().any() and not record.tested[1, :2].isnan().any()
    assert record.level_mass[1, 2].abs().max() == 0


def test_an_image_without_keypoints_pulls_nowhere():
    layout, _, maps, attention = problem(bare=1)
    record = layer_record(slow.quick_reading(attention, maps, layout), maps, layout)
    own_and_mirrors = record.tested[0][..., [0, -3, -2, -1]]
    assert own_and_mirrors.abs().max() == 0
    assert record.tested[1][..., 0].abs().min() > 0


@pytest.mark.parametrize("where", ["everywhere alike", "by position alone"])
def test_uniform_rows_have_no_assortativity(where):
    """Every query sees the same: the correlation would be one with rounding noise."""
    layout, _, maps, attention = problem()
    attention = torch.ones_like(attention) if where == "everywhere alike" else attention[:, :, :1].expand_as(attention)
    attention = attention / attention.sum(-1, keepdim=True)
    record = layer_record(slow.quick_reading(attention, maps, layout), maps, layout)
    assert record.tested[:, :, record.tested_names.index("assortativity")].abs().max() == 0


def test_assortativity_stays_exact_where_the_ratio_hardly_varies():
    """A spread of 1e-3 around a mean of 1 must not drown in float32."""
    layout, _, maps, attention = problem()
    peak = torch.zeros_like(attention)
    peak[..., layout.prefix + 11] = 1
    attention = (0.999 * peak + 0.001 * attention).float().double()
    record = layer_record(slow.quick_reading(attention, maps, layout), maps, layout)
    truth = slow.assortativity(
        attention[0, 0].numpy(), maps.maps[0, :, 0].double().numpy(), layout, np.ones(ROWS * COLS, bool)
    )
    assert record.tested[0, 0, 2, 0].item() == pytest.approx(truth, abs=3e-3)


def test_stacked_records_keep_image_layer_and_head_apart():
    layout, _, maps, attention = problem()
    records = [
        dataclasses.replace(layer_record(slow.quick_reading(rows, maps, layout), maps, layout), name=name)
        for name, rows in (("first", attention), ("second", attention.flip(1)))
    ]
    batch = stack_records(records, maps)
    assert batch.layers == ("first", "second")
    assert batch.tested.shape == (BATCH, 2, HEADS, 4, 1 + 5 + 3)
    assert np.allclose(batch.tested[:, 0], batch.tested[:, 1, ::-1], atol=1e-5)
    assert np.array_equal(batch.level_mass[1, 1, 2], records[1].level_mass[1, 2].double())
    rows = batch.rows()
    assert rows.shape == (BATCH, len(batch.variables), 2, HEADS)
    null = batch.variables.index("assortativity_null")
    assert rows[1, null, 0, 2] == pytest.approx(records[0].tested[1, 2, 2, 1:6].mean().item(), abs=1e-6)
    assert rows[0, batch.variables.index("orb_pull"), 1, 1] == records[1].described[0, 1, -1].item()


def test_a_record_keeps_no_part_of_the_values_alive():
    layout, _, maps, attention = problem()
    record = layer_record(slow.quick_reading(attention, maps, layout), maps, layout)
    for name in ("tested", "described", "level_mass", "cls_level_mass"):
        statistic = getattr(record, name)
        assert statistic.untyped_storage().nbytes() == statistic.numel() * statistic.element_size(), name


def test_layers_of_unequal_heads_are_refused_by_name():
    layout, _, maps, attention = problem()
    whole = layer_record(slow.quick_reading(attention, maps, layout), maps, layout)
    fewer = layer_record(slow.quick_reading(attention[:, :2], maps, layout), maps, layout)
    with pytest.raises(CaptureError, match="stage2 has 2 heads and block 3; layers with the same number of heads"):
        stack_records([whole, dataclasses.replace(fewer, name="stage2")], maps)
