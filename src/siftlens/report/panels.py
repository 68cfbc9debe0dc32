"""Statistics as layers x heads grids, each with the mean over heads as a last column."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from scipy import stats

from siftlens.interrelation.inference import CONFIDENCE, RELEVANT, SIGNIFICANT, false_discovery
from siftlens.report.vocabulary import Statistic

Grid = Float64[np.ndarray, "layer column"]


@dataclass(frozen=True)
class Panel:
    """One statistic of every head.

    Grids are (layer, heads + 1): the last column is the mean over the heads that have a value. Its interval is a
    bound: the standard error of a mean never exceeds the mean of the standard errors, however heads are correlated.

    Attributes:
        statistic: which one, and how it is spoken of.
        n: images behind each cell; in the mean column, the fewest of its heads.
        value: observed.
        low: lower end of the 95 % interval of what is `shown`.
        high: upper end.
        null: mean under null 1, other images' maps; NaN where not tested.
        effect: value - null.
        p: of the effect.
        q: p corrected (Benjamini-Hochberg) for the number of heads; in the mean column, of layers.
        mirror_null: mean under null 2, mirror images of the own map.
        mirror_effect: value - mirror_null.
        mirror_low: lower end of its interval.
        mirror_high: upper end.
        mirror_p: of the mirror effect.
        mirror_q: corrected.
    """

    statistic: Statistic
    n: Grid
    value: Grid
    low: Grid
    high: Grid
    null: Grid
    effect: Grid
    p: Grid
    q: Grid
    mirror_null: Grid
    mirror_effect: Grid
    mirror_low: Grid
    mirror_high: Grid
    mirror_p: Grid
    mirror_q: Grid

    @property
    def shown(self) -> Grid:
        """What the heat map shows: the effect where tested, else the value."""
        return self.effect if self.statistic.tested else self.value

    @property
    def verdicts(self) -> np.ndarray:
        """Per cell "relevant", "small" (q < 0.05, |effect| < 0.1), "unclear", "missing"; "" where not tested."""
        if not self.statistic.tested:
            return np.where(np.isfinite(self.value), "", "missing")
        small = np.where(np.abs(self.effect) < RELEVANT, "small", "relevant")
        return np.where(np.isfinite(self.effect), np.where(self.q < SIGNIFICANT, small, "unclear"), "missing")


def panel(heads: pd.DataFrame, statistic: Statistic, pool: int) -> Panel | None:
    """The grids of one statistic; None where the analysis has no finite value of it.

    Args:
        heads: a row per layer, head and statistic.
        statistic: which one.
        pool: images in null 1's reference pool.
    """
    rows = heads[heads["statistic"] == statistic.key]
    if not np.isfinite(rows["value"].to_numpy(np.float64)).any():
        return None
    layers, columns = sorted(heads["layer"].unique()), sorted(heads["head"].unique())

    def grid(column: str) -> Grid:
        table = rows.set_index(["layer", "head"])[column].unstack()
        return np.asarray(table.reindex(index=layers, columns=columns), np.float64)

    own = {name: grid(name) for name in ("value", "null_mean", "effect", "low", "high")}
    n = np.where(np.isfinite(own["value"]), grid("n"), 0)
    fewest = np.where(n > 0, n, np.inf).min(axis=1)
    fewest = np.where(np.isfinite(fewest), fewest, 0)
    mirror = {name: grid(f"mirror_{name}") for name in ("effect", "low", "high")}
    means = {name: _mean(values) for name, values in own.items()}
    mirror_means = {name: _mean(values) for name, values in mirror.items()}
    p = _with(grid("p"), _p_of(means, np.minimum(fewest, pool) - 1))
    mirror_p = _with(grid("mirror_p"), _p_of(mirror_means, fewest - 1))
    value, effect = _with(own["value"], means["value"]), _with(mirror["effect"], mirror_means["effect"])
    bounds = _with(own["low"], means["low"]), _with(own["high"], means["high"])
    root = np.sqrt if statistic.root else np.asarray
    return Panel(
        statistic=statistic,
        n=_with(n, fewest),
        value=root(value),
        low=root(bounds[0].clip(0) if statistic.root else bounds[0]),
        high=root(bounds[1]),
        null=_with(own["null_mean"], means["null_mean"]),
        effect=_with(own["effect"], means["effect"]),
        p=p,
        q=_with(grid("q"), false_discovery(p[:, -1])),
        mirror_null=value - effect,
        mirror_effect=effect,
        mirror_low=_with(mirror["low"], mirror_means["low"]),
        mirror_high=_with(mirror["high"], mirror_means["high"]),
        mirror_p=mirror_p,
        mirror_q=_with(grid("mirror_q"), false_discovery(mirror_p[:, -1])),
    )


def _mean(values: Float[np.ndarray, "layer head"]) -> Float64[np.ndarray, " layer"]:
    finite = np.isfinite(values)
    total = np.where(finite, values, 0).sum(axis=1)
    return np.where(finite.any(axis=1), total / np.maximum(finite.sum(axis=1), 1), np.nan)


def _with(heads: Float64[np.ndarray, "layer head"], mean: Float64[np.ndarray, " layer"]) -> Grid:
    return np.concatenate([heads, mean[:, None]], axis=1)


def _p_of(means: dict[str, np.ndarray], freedom: Float64[np.ndarray, " layer"]) -> Float64[np.ndarray, " layer"]:
    """Student's t on the mean over heads, its standard error read back from the interval's half width."""
    half = (means["high"] - means["low"]) / 2
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(freedom, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(means["effect"]) / half * quantile, np.maximum(freedom, 1))
    return np.where(freedom >= 1, p, np.nan)
