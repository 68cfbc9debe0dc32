"""From merged sums to what is reported: effects, intervals, p values and q values.

Source: METHOD section 5. Standard errors are standard deviations over bootstrap replicates; intervals and p values
follow Student's t with one degree of freedom less than there are images, or maps in the pool where those are fewer.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy import stats

from siftlens.interrelation.accumulate import Accumulator
from siftlens.patchmaps import LEVELS

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
RELEVANT = 0.1
# Standard errors are no less than this: float32 attention is not more exact.
_ROUNDING = 1e-6
# An interval needs this share of replicates to be defined, and so many images: of 3, 5 % of the replicates hold none.
_DEFINED = 0.95
LEAST_IMAGES = 4
_UNITS = {
    "semantic_pull": "SD",
    "partial_pull": "SD",
    "cls_pull": "SD",
    "gradient_pull": "SD",
    "centre_pull": "SD",
    "fast_pull": "SD",
    "orb_pull": "SD",
    "assortativity": "correlation",
    "class_mass": "share",
    "register_mass": "share",
    "entropy": "nat",
    "mean_squared_distance": "px^2",
}

Array = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Findings:
    """Everything that an analysis reports about layers and heads.

    Attributes:
        heads: a row per layer, head and statistic: layer, layer_name, head, statistic, unit, value, null_mean,
            effect, se, low, high, p, q, n, significant, relevant, mirror_effect, mirror_low, mirror_high, mirror_p,
            mirror_q. Where a statistic has no null, the effect and all about it is NaN, and low and high bound the
            value.
        layers: the mean over the heads that have a value, a row per layer and statistic; the same columns but
            `head`. Intervals are of the mean itself, in every bootstrap replicate; n is the fewest of its heads.
        arrays: level_mass, level_lift, level_lift_low, level_lift_high (layer, head, query_level, key_level),
            level_n (level), and with a class token cls_level_mass, cls_level_lift, cls_level_lift_low,
            cls_level_lift_high (layer, head, key_level).
    """

    heads: pd.DataFrame
    layers: pd.DataFrame
    arrays: xr.Dataset


def finalize(sums: Accumulator) -> Findings:
    """From sums to findings.

    Args:
        sums: merged over all images.
    """
    return Findings(_table(sums, _EachHead), _table(sums, _MeanOverHeads).drop(columns="head"), _arrays(sums))


class _EachHead:
    """One row per head."""

    @staticmethod
    def values(replicates: Array) -> Array:
        return replicates

    @staticmethod
    def counts(n: Array) -> Array:
        return n


class _MeanOverHeads:
    """One row per layer: a single column in place of the heads."""

    @staticmethod
    def values(replicates: Array) -> Array:
        known = np.isfinite(replicates)
        heads = known.sum(axis=-1, keepdims=True, dtype=np.float64)
        return _ratio(np.where(known, replicates, 0).sum(axis=-1, keepdims=True), heads)

    @staticmethod
    def counts(n: Array) -> Array:
        fewest = np.where(n > 0, n, np.inf).min(axis=-1, keepdims=True)
        return np.where(np.isfinite(fewest), fewest, 0)


_Over = type[_EachHead] | type[_MeanOverHeads]


def _table(sums: Accumulator, over: _Over) -> pd.DataFrame:
    tables = [_tested(sums, index, name, over) for index, name in enumerate(sums.tested_names)]
    tables += [_described(sums, index, name, over) for index, name in enumerate(sums.described_names)]
    tables += _received(sums, over)
    return pd.concat(tables).sort_values(["layer", "head"], kind="stable", ignore_index=True)[_COLUMNS]


_COLUMNS = (
    ["layer", "layer_name", "head", "statistic", "unit", "value", "null_mean", "effect", "se", "low", "high", "p", "q"]
    + ["n", "significant", "relevant"]
    + [f"mirror_{name}" for name in ("effect", "low", "high", "p", "q")]
)


def _tested(sums: Accumulator, index: int, name: str, over: _Over) -> pd.DataFrame:
    """Rows of one statistic that has nulls; each statistic and null is a family of tests of its own."""
    count = sums.tested_count[..., index]
    n = over.counts(count[0])
    own, other, mirror = (
        over.values(_ratio(part[..., index], count)) for part in (sums.tested, sums.others, sums.mirrors)
    )
    if sums.pool_size < 2:  # no other image to compare with
        other = np.full(other.shape, np.nan)
    effect, se, low, high, p = infer(own - other, np.minimum(n, sums.pool_size) - 1)
    mirror_effect, _, mirror_low, mirror_high, mirror_p = infer(own - mirror, n - 1)
    q = false_discovery(p)
    return _rows(
        sums,
        name,
        _UNITS[name],
        value=own[0],
        null_mean=other[0],
        effect=effect,
        se=se,
        low=low,
        high=high,
        p=p,
        q=q,
        n=n,
        significant=q < SIGNIFICANT,
        relevant=np.abs(effect) >= RELEVANT,
        mirror_effect=mirror_effect,
        mirror_low=mirror_low,
        mirror_high=mirror_high,
        mirror_p=mirror_p,
        mirror_q=false_discovery(mirror_p),
    )


def _described(sums: Accumulator, index: int, name: str, over: _Over) -> pd.DataFrame:
    """Rows of one statistic without a null."""
    count = sums.described_count[..., index]
    value = over.values(_ratio(sums.described[..., index], count))
    return _value_rows(sums, name, _UNITS[name], value, over.counts(count[0]))


def _received(sums: Accumulator, over: _Over) -> list[pd.DataFrame]:
    """Rows of log2 of the attention that a patch of each level receives from patches, 0 being an even share."""
    received = _log2(_ratio(sums.level_mass.sum(axis=-2), sums.level_count[:, None, None]))
    n = over.counts(np.full(received.shape[1:-1], sums.images[0]))
    return [
        _value_rows(sums, f"received_level_{level}", "log2 lift", over.values(received[..., level]), n)
        for level in range(len(LEVELS))
    ]


def _value_rows(sums: Accumulator, name: str, unit: str, value: Array, n: Array) -> pd.DataFrame:
    estimate, se, low, high, _ = infer(value, n - 1)
    missing = np.full(estimate.shape, np.nan)
    no = np.zeros(estimate.shape, dtype=bool)
    known = {"value": estimate, "se": se, "low": low, "high": high, "n": n, "significant": no, "relevant": no}
    return _rows(sums, name, unit, **dict.fromkeys(_COLUMNS[5:], missing) | known)


def _rows(sums: Accumulator, statistic: str, unit: str, **columns: np.ndarray) -> pd.DataFrame:
    layer, head = (index.ravel() for index in np.indices(columns["value"].shape))
    table = pd.DataFrame({"layer": layer, "layer_name": np.array(sums.layers)[layer], "head": head})
    table = table.assign(statistic=statistic, unit=unit, **{name: array.ravel() for name, array in columns.items()})
    return table.astype({"n": "int64"})


def _arrays(sums: Accumulator) -> xr.Dataset:
    """The merged arrays between levels."""
    level_dims, cls_dims = ("layer", "head", "query_level", "key_level"), ("layer", "head", "key_level")
    found = {
        "level_mass": (level_dims, _ratio(sums.level_mass, sums.level_count[:, None, None, :, None])[0]),
        "level_n": ("level", sums.level_count[0].astype(np.int64)),
    } | _lift("level_lift", level_dims, sums.level_mass, sums.level_expected, sums.images[0])
    if sums.cls_level_mass.shape[-2]:
        cls_mass, cls_expected = sums.cls_level_mass[..., 0, :], sums.cls_level_expected[..., 0, :]
        found["cls_level_mass"] = (cls_dims, _ratio(cls_mass, sums.images[:, None, None, None])[0])
        found |= _lift("cls_level_lift", cls_dims, cls_mass, cls_expected, sums.images[0])
    layers, heads = sums.tested.shape[1:3]
    coords = {
        "layer": np.arange(layers),
        "layer_name": ("layer", list(sums.layers)),
        "head": np.arange(heads),
        **{dim: list(LEVELS) for dim in ("level", "query_level", "key_level")},
    }
    return xr.Dataset(found, coords)


def _lift(
    name: str, dims: tuple[str, ...], mass: Array, expected: Array, images: float
) -> dict[str, tuple[tuple[str, ...], Array]]:
    estimate, _, low, high, _ = infer(_log2(_ratio(mass, expected)), np.full(mass.shape[1:], images - 1))
    return {name: (dims, estimate), f"{name}_low": (dims, low), f"{name}_high": (dims, high)}


def infer(
    replicates: Float[np.ndarray, "replicate *cell"], freedom: Float[np.ndarray, "*cell"]
) -> tuple[Array, Array, Array, Array, Array]:
    """Estimate, standard error, interval and p value of what replicate 0 holds.

    Args:
        replicates: the data's value, then the bootstrap's; NaN where undefined.
        freedom: degrees of freedom of Student's t.

    Returns:
        (estimate, se, low, high, p), NaN where too few replicates are defined or too few images are left.
    """
    estimate, drawn = replicates[0], replicates[1:]
    defined = np.isfinite(drawn)
    count = defined.sum(axis=0)
    known = (count >= _DEFINED * len(drawn)) & (freedom >= LEAST_IMAGES - 1) & np.isfinite(estimate)
    mean = np.where(defined, drawn, 0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(defined, drawn - mean, 0)
    se = np.sqrt(np.square(squares).sum(axis=0) / np.maximum(count - 1, 1))
    se = np.where(known, np.maximum(se, _ROUNDING), np.nan)
    freedom = np.where(known, freedom, 1)
    half = se * stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    p = 2 * stats.t.sf(np.abs(estimate) / se, freedom)
    return estimate, se, estimate - half, estimate + half, np.where(known, p, np.nan)


def false_discovery(p: Array) -> Array:
    """Benjamini-Hochberg q values over all that have a p value; NaN elsewhere."""
    q = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    q[known] = stats.false_discovery_control(p[known])
    return q


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Ratio of sums; NaN where the denominator is zero."""
    positive = denominator > 0
    return np.where(positive, numerator, np.nan) / np.where(positive, denominator, 1)


def _log2(ratio: Array) -> Array:
    """Binary logarithm; NaN where there is none."""
    positive = ratio > 0
    return np.where(positive, np.log2(np.where(positive, ratio, 1)), np.nan)
