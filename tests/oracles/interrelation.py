"""Slow, loop-written float64 truth for the statistics of one image and head, and synthetic things to try them on."""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from oracles.attention import read_slowly
from siftlens.attention import LayerReading
from siftlens.core import PatchGrid, TokenLayout
from siftlens.interrelation.nulls import Pool
from siftlens.interrelation.statistics import BatchRecord


def layout_of(rows=5, cols=7, class_tokens=1, registers=0):
    return TokenLayout(PatchGrid(rows, cols, 3, 2), class_tokens, registers)


def smooth_maps(count, rows, cols, seed, *, bare=0):
    """Keypoint counts as in photographs: many patches without one, clustered, denser in the middle.

    The first `bare` have no keypoint at all.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :cols]
    centre = np.exp(-(((y - (rows - 1) / 2) / rows) ** 2 + ((x - (cols - 1) / 2) / cols) ** 2) * 6)
    texture = np.stack([gaussian_filter(field, 1.5) for field in random.normal(size=(count, rows, cols))])
    counts = random.poisson(np.exp(texture * 6) * centre)
    counts[:bare] = 0
    return counts


def levels_of(counts):
    return np.select([counts == 0, counts == 1, counts <= 3, counts <= 7], [0, 1, 2, 3], 4)


def z_of(counts):
    logs = np.log1p(counts).astype(np.float64)
    spread = logs.std(axis=(-2, -1), keepdims=True)
    return ((logs - logs.mean(axis=(-2, -1), keepdims=True)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def rivals_of(count, rows, cols, seed):
    return np.random.default_rng(seed).gamma(2.0, size=(count, 4, rows, cols)).astype(np.float32)


def pool_of(counts, prefix="pool"):
    names = tuple(f"{prefix}{number}" for number in range(len(counts)))
    return Pool(z=z_of(counts), contents=names, identities=names)


def reading_of(attention, maps, layout, *, entropy=False):
    """What the package hands over for a float64 attention (batch, head, token, token), computed by loops."""
    truth = read_slowly(attention, maps.channels.double(), layout)
    return LayerReading(
        "block",
        truth.values.float(),
        truth.prefix_mass.float(),
        truth.mean_squared_distance.float(),
        truth.entropy.float() if entropy else None,
        "oracle",
    )


def quick_reading(attention, maps, layout):
    """The same in a few matrix products, without the distances."""
    weights = torch.zeros(len(attention), 1, layout.tokens, maps.channels.shape[-1])
    weights[:, 0, layout.prefix :] = maps.channels
    prefix = torch.stack(
        [
            attention[..., : layout.class_tokens].sum(-1),
            attention[..., layout.class_tokens : layout.prefix].sum(-1),
        ],
        dim=-1,
    )
    values = attention.float() @ weights
    return LayerReading("block", values, prefix.float(), torch.zeros(values.shape[:3]), None, "oracle")


def mass_on(row, prefix, keep):
    return sum(row[prefix + j] for j in range(len(keep)) if keep[j])


def pull(attention, z, layout, keep):
    """sum_i (A z)_i / sum_i m_i over kept queries; attention (token, token) and z (patch) of one image and head."""
    prefix, patches = layout.prefix, len(z)
    given = mass = 0.0
    for i in range(patches):
        if not keep[i]:
            continue
        row = attention[prefix + i]
        given += sum(row[prefix + j] * z[j] for j in range(patches) if keep[j])
        mass += mass_on(row, prefix, keep)
    return given / mass if mass > 0 else math.nan


def residual_of(z, gradient, centre, keep):
    """What is left of z after a least-squares fit of 1, gradient and centre over the kept patches."""
    rest = np.zeros(len(z))
    design = np.array([[1.0, gradient[j], centre[j]] for j in range(len(z)) if keep[j]])
    kept = np.array([z[j] for j in range(len(z)) if keep[j]], dtype=np.float64)
    rest[keep] = kept - design @ np.linalg.lstsq(design, kept, rcond=1e-8)[0]
    return rest


def assortativity(attention, z, layout, keep):
    """Correlation over kept queries that attend to patches of z_i with (A z)_i / m_i; 0 where one hardly varies."""
    prefix, patches = layout.prefix, len(z)
    own, met = [], []
    for i in range(patches):
        row = attention[prefix + i]
        mass = mass_on(row, prefix, keep)
        if keep[i] and mass > 0:
            own.append(z[i])
            met.append(sum(row[prefix + j] * z[j] for j in range(patches) if keep[j]) / mass)
    if not own:
        return math.nan
    own_mean, met_mean = sum(own) / len(own), sum(met) / len(met)
    own_spread = math.sqrt(sum((a - own_mean) ** 2 for a in own) / len(own))
    met_spread = math.sqrt(sum((b - met_mean) ** 2 for b in met) / len(met))
    if own_spread < 1e-4 or met_spread < 1e-4:
        return 0.0
    covariance = sum((a - own_mean) * (b - met_mean) for a, b in zip(own, met, strict=True)) / len(own)
    return covariance / own_spread / met_spread


def cls_pull(attention, z, layout, keep):
    row, prefix = attention[0], layout.prefix
    mass = mass_on(row, prefix, keep)
    return sum(row[prefix + j] * z[j] for j in range(len(z)) if keep[j]) / mass if mass > 0 else math.nan


def level_mass(attention, level, layout, keep):
    """Sum over queries of level a of the attention on keys of level b."""
    mass, prefix = np.zeros((5, 5)), layout.prefix
    for i in range(len(level)):
        for j in range(len(level)):
            if keep[i] and keep[j]:
                mass[level[i], level[j]] += attention[prefix + i, prefix + j]
    return mass


def crossed_record(images, pool, null_maps, heads, *, seed, pool_is_sample=False):
    """A batch without any effect: S(image, map) = image + map + both, each of variance 0.25 to 1.

    Returns:
        The record (one layer, one statistic), the images' contents and the pool's.
    """
    random = np.random.default_rng(seed)
    of_image = random.normal(size=(images, heads, 1)) * 0.5
    of_map = random.normal(size=(images, heads))
    of_pool = of_map[:pool] if pool_is_sample else random.normal(size=(pool, heads))
    index = np.stack(
        [
            random.permutation([p for p in range(pool) if not (pool_is_sample and p == image)])[:null_maps]
            for image in range(images)
        ]
    )

    def noise(count):
        return random.normal(size=(images, heads, count)) * 0.5

    own = of_image + of_map[..., None] + noise(1)
    others = of_image + np.moveaxis(of_pool[index], 1, 2) + noise(null_maps)
    mirrors = of_image + of_map[..., None] + noise(3)
    record = BatchRecord(
        layers=("block",),
        tested_names=("semantic_pull",),
        described_names=(),
        tested=np.concatenate([own, others, mirrors], axis=-1)[:, None, :, None],
        described=np.zeros((images, 1, heads, 0)),
        level_mass=np.ones((images, 1, heads, 5, 5)),
        cls_level_mass=np.ones((images, 1, heads, 0, 5)),
        level_count=np.ones((images, 5)),
        pool_index=index,
    )
    contents = [f"{seed} image {n}" for n in range(images)]
    return record, contents, contents[:pool] if pool_is_sample else [f"{seed} map {n}" for n in range(pool)]
