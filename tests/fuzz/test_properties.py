"""What must hold for any geometry, any concentration, any order of images: drawn by Hypothesis, the same each time."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from siftlens.core import InputError, PatchGrid, StudyError
from siftlens.data import read_record, write_record
from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.nulls import MIRRORS
from siftlens.interrelation.statistics import BatchRecord
from siftlens.keypoints import Keypoints, View, map_keypoints
from siftlens.patchmaps import concentration
from siftlens.pretraining.masking import POLICIES, MaskPolicy, ranks
from siftlens.pretraining.randomness import image_keys
from siftlens.prompting import Policy

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")

GRIDS = st.builds(PatchGrid, *[st.integers(1, 13)] * 2, *[st.integers(1, 17)] * 2)
ANYWHERE = st.floats(-50, 300, width=32)


def keypoints(xs, ys, height, width, size=3.0):
    count = len(xs)
    return Keypoints(
        x=np.array(xs, float),
        y=np.array(ys, float),
        size=np.full(count, size),
        response=np.full(count, 0.5),
        angle=np.linspace(0, 359, count) if count else np.zeros(0),
        octave=np.zeros(count, np.int8),
        descriptors=None,
        height=height,
        width=width,
    )


@given(grid=GRIDS, x=ANYWHERE, y=ANYWHERE)
def test_a_point_lies_in_the_patch_that_holds_it_or_in_none(grid, x, y):
    found = int(grid.locate(np.array([x]), np.array([y]))[0])
    col, row = (int(Fraction(value) // side) for value, side in ((x, grid.patch_width), (y, grid.patch_height)))
    inside = 0 <= col < grid.cols and 0 <= row < grid.rows
    assert found == (row * grid.cols + col if inside else -1)


@given(grid=GRIDS)
def test_centres_lie_in_their_own_patches(grid):
    assert grid.locate(*grid.centres().T).tolist() == list(range(grid.patches))


@st.composite
def points_on_a_grid(draw):
    grid = draw(GRIDS)
    places = draw(
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)), max_size=30)
    )
    xs, ys = ([place[axis] * side for place in places] for axis, side in ((0, grid.width), (1, grid.height)))
    return grid, keypoints(xs, ys, grid.height, grid.width, draw(st.floats(0.5, 60)))


@given(points_on_a_grid())
def test_concentration_counts_every_keypoint_once(given):
    grid, found = given
    count, response, footprint = (concentration(found, grid, measure) for measure in ("count", "response", "footprint"))
    assert count.shape == (grid.rows, grid.cols)
    assert count.sum() == len(found)
    assert float(response.sum()) == pytest.approx(0.5 * len(found), rel=1e-5)
    assert bool(torch.isfinite(footprint).all()) and float(footprint.min()) >= 0
    assert float(footprint.sum()) <= len(found) * (1 + 1e-4)


@given(
    points_on_a_grid(),
    *[st.floats(0, 0.8)] * 2,
    *[st.floats(0.05, 1)] * 2,
    *[st.integers(1, 97)] * 2,
    st.booleans(),
)
def test_crops_and_flips_keep_points_on_their_content(given, left, top, wide, tall, width, height, flip):
    grid, found = given
    view = View(left * grid.width, top * grid.height, wide * grid.width, tall * grid.height, width, height, flip)
    mapped = map_keypoints(found, view)
    assert ((mapped.x >= 0) & (mapped.x < width) & (mapped.y >= 0) & (mapped.y < height)).all()
    along, down = view.width / view.crop_width, view.height / view.crop_height
    kept = 0
    for x, y in zip(found.x, found.y, strict=True):
        seen_x, seen_y = (x - view.left) * along, (y - view.top) * down
        seen_x = width - seen_x if flip else seen_x
        near = (np.abs(mapped.x - seen_x) + np.abs(mapped.y - seen_y)).min(initial=np.inf)
        if 1e-3 < seen_x < width - 1e-3 and 1e-3 < seen_y < height - 1e-3:
            kept += 1
            assert near < 1e-6 * (width + height)
    assert kept <= len(mapped) <= len(found)


@given(
    counts=arrays.arrays(np.float32, (3, 23), elements=st.floats(0, 1e6, width=32)),
    name=st.sampled_from(sorted(POLICIES)),
    ratio=st.floats(0.1, 0.9),
    progress=st.floats(0, 1),
    alpha=st.floats(0, 8),
)
def test_masks_are_of_one_size_finite_and_each_image_its_own(counts, name, ratio, progress, alpha):
    policy, concentrations = MaskPolicy(name, alpha=alpha, ratio=ratio), torch.from_numpy(counts)
    keys = image_keys(3, 1, torch.arange(3))
    noise = policy.noise(concentrations, progress=progress, keys=keys)
    assert noise.shape == (3, 23) and not bool(noise.isnan().any())
    assert ((ranks(noise) >= policy.visible(23)).sum(1) == 23 - policy.visible(23)).all()
    alone = policy.noise(concentrations[1:2], progress=progress, keys=keys[1:2])
    assert torch.equal(alone, noise[1:2])


IMAGES, POOL, NULLS, REPLICATES = 13, 7, 5, 11


def record(seed):
    random = np.random.default_rng(seed)
    count = random.integers(0, 9, size=(IMAGES, 5)).astype(np.float64)
    return BatchRecord(
        layers=("a", "b"),
        tested_names=("semantic_pull", "partial_pull", "assortativity"),
        described_names=("class_mass", "mean_squared_distance"),
        tested=np.where(
            random.random((IMAGES, 2, 3, 3, 1)) < 0.1,
            np.nan,
            random.normal(size=(IMAGES, 2, 3, 3, 1 + NULLS + MIRRORS)),
        ),
        described=random.normal(size=(IMAGES, 2, 3, 2)),
        level_mass=random.random((IMAGES, 2, 3, 5, 5)),
        cls_level_mass=random.random((IMAGES, 2, 3, 1, 5)),
        level_count=count + (count.sum(1, keepdims=True) == 0),
        pool_index=np.stack([random.permutation(POOL)[:NULLS] for _ in range(IMAGES)]),
    )


def sums_of(whole, images):
    names = {field.name for field in dataclasses.fields(whole) if isinstance(getattr(whole, field.name), np.ndarray)}
    part = dataclasses.replace(whole, **{name: getattr(whole, name)[images] for name in names})
    sums = Accumulator.empty(whole, POOL, REPLICATES)
    weights = image_weights([f"image {image}" for image in images], 0, REPLICATES)
    sums.add(part, weights, image_weights([f"map {image}" for image in range(POOL)], 0, REPLICATES))
    return sums


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99), order=st.permutations(range(IMAGES)), cuts=st.sets(st.integers(1, IMAGES - 1), max_size=6)
)
def test_sums_do_not_depend_on_how_images_are_split_or_in_which_order(seed, order, cuts):
    whole = record(seed)
    merged = Accumulator.empty(whole, POOL, REPLICATES)
    for images in np.split(np.array(order), sorted(cuts)):
        merged.merge(sums_of(whole, images))
    for name, array in sums_of(whole, np.arange(IMAGES)).to_arrays().items():
        if array.dtype == np.float64:
            np.testing.assert_allclose(merged.to_arrays()[name], array, rtol=1e-11, atol=1e-11, err_msg=name)


INDICES = st.none() | st.lists(st.integers(0, 30), min_size=1, max_size=4)
SHARES = st.floats(0, 1, exclude_min=True)
WEIGHTS = st.floats(0, 9)
POLICY = st.fixed_dictionaries(
    {"maps": st.fixed_dictionaries({"keypoints": st.floats(1e-3, 9), "cues": WEIGHTS, "rows": INDICES})},
    optional={
        "bias": st.lists(
            st.fixed_dictionaries({"strength": st.floats(-100, 100), "layers": INDICES, "heads": INDICES}), max_size=3
        ),
        "tokens": st.fixed_dictionaries({"keep": SHARES}),
        "pixels": st.fixed_dictionaries({"keep": SHARES, "fill": st.sampled_from(["blur", "mean"])}),
        "contrast": st.fixed_dictionaries({"strength": st.floats(0, 100), "view": SHARES}),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
PARTS = st.sampled_from(["bias", "tokens", "pixels", "contrast", "maps", "strength", "keep", "view", "rows", "layers"])


@given(POLICY)
def test_a_policy_survives_its_text(values):
    policy = Policy.from_json(json.dumps(values))
    assert Policy.from_json(policy.to_json()) == policy


@given(st.dictionaries(PARTS, JSON | st.dictionaries(PARTS, JSON, max_size=3) | st.lists(st.dictionaries(PARTS, JSON))))
def test_any_json_is_a_policy_or_refused_in_one_line(values):
    try:
        Policy.from_json(json.dumps(values))
    except InputError as error:
        assert str(error).strip()


@settings(max_examples=60)
@given(
    values=st.dictionaries(st.text(max_size=9), JSON, max_size=4), place=st.integers(0, 10**6), byte=st.integers(1, 255)
)
def test_a_record_comes_back_and_any_other_byte_in_its_files_is_noticed(tmp_path_factory, values, place, byte):
    folder = tmp_path_factory.mktemp("record")
    values = {f"v{name}": value for name, value in values.items()}
    (folder / "data").write_bytes(bytes(range(97)))
    write_record(folder / "record.json", values, ["data"])
    found = read_record(folder / "record.json", "run again")
    assert json.dumps({name: found[name] for name in values}) == json.dumps(values)
    damaged = bytearray(range(97))
    damaged[place % 97] ^= byte
    (folder / "data").write_bytes(damaged)
    with pytest.raises(StudyError, match="data is damaged or cut off, or was changed since it was written; run again"):
        read_record(folder / "record.json", "run again")
