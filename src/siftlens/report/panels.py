"""Statistics as layers x heads grids, each with the mean over heads as a last column."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from siftlens.interrelation.inference import RELEVANT, SIGNIFICANT
from siftlens.report.vocabulary import STATISTICS, Statistic

Grid = Float64[np.ndarray, "layer column"]


@dataclass(frozen=True)
class Panel:
    """One statistic of every head.

    Grids are (layer, heads + 1): the last column is the mean over the heads that have a value.

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
        mirror_q: of the mirror effect, corrected.
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


def panels_of(heads: pd.DataFrame, layers: pd.DataFrame) -> dict[str, Panel]:
    """Every statistic that the analysis has a finite value of, by its key.

    Args:
        heads: a row per layer, head and statistic.
        layers: means over heads, a row per layer and statistic.
    """
    found = {statistic.key: panel(heads, layers, statistic) for statistic in STATISTICS}
    return {key: one for key, one in found.items() if one is not None}


def panel(heads: pd.DataFrame, layers: pd.DataFrame, statistic: Statistic) -> Panel | None:
    """The grids of one statistic; None where the analysis has no finite value of it.

    Args:
        heads: a row per layer, head and statistic.
        layers: means over heads, a row per layer and statistic.
        statistic: which one.
    """
    rows, means = (table[table["statistic"] == statistic.key] for table in (heads, layers))
    if not np.isfinite(rows["value"].to_numpy(np.float64)).any():
        return None
    index, columns = sorted(heads["layer"].unique()), sorted(heads["head"].unique())

    def grid(column: str) -> Grid:
        table = rows.set_index(["layer", "head"])[column].unstack().reindex(index=index, columns=columns)
        mean = means.set_index("layer")[column].reindex(index)
        return np.column_stack([table, mean]).astype(np.float64)

    value, low, high = grid("value"), grid("low"), grid("high")
    if statistic.root:
        value, low, high = (np.sqrt(end.clip(0)) for end in (value, low, high))
    return Panel(
        statistic=statistic,
        n=np.where(np.isfinite(value), grid("n"), 0),
        value=value,
        low=low,
        high=high,
        null=grid("null_mean"),
        effect=grid("effect"),
        p=grid("p"),
        q=grid("q"),
        mirror_null=value - grid("mirror_effect"),
        mirror_effect=grid("mirror_effect"),
        mirror_low=grid("mirror_low"),
        mirror_high=grid("mirror_high"),
        mirror_q=grid("mirror_q"),
    )
