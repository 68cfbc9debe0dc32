"""Attention between levels of concentration."""

import numpy as np
from jaxtyping import Bool, Float64
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from siftlens.core import InputError
from siftlens.interrelation.results import Result
from siftlens.plots.style import INK, SOFT, blank, diverging, hatch, quiet, shortened, titles
from siftlens.report.numbers import number
from siftlens.report.payload import levels_of

_LEAST = 0.25  # log2 that the scale always reaches, so that what is tiny looks tiny
_ACROSS = 6  # matrices side by side


def levels_figure(result: Result, layer: int | None, head: int | None) -> Figure:
    """A matrix for each layer, or for one."""
    found = levels_of(result)
    lift, low, high = (np.array(part, np.float64) for part in (found.lift, found.low, found.high))
    layers, heads = lift.shape[0], lift.shape[1] - 1
    for name, chosen, count in (("layer", layer, layers), ("head", head, heads)):
        if chosen is not None and not 0 <= chosen < count:
            raise InputError(f"expected a {name} from 0 to {count - 1}, got {chosen}")
    column = heads if head is None else head
    shown = range(layers) if layer is None else (layer,)
    down = -(-len(shown) // _ACROSS)
    across = -(-len(shown) // down)
    figure = blank(2.2 + 1.45 * across if across > 1 else 4.6, 1.5 + (1.75 * down if across > 1 else 2.6))
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    known = lift[list(shown), column]
    reach = max(_LEAST, float(np.nanmax(np.abs(known), initial=0)))
    colours, scale = diverging(), Normalize(-reach, reach)
    for axes in grid.flat:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, shown, strict=False):
        axes.set_visible(True)
        values = np.ma.masked_invalid(lift[row, column])
        axes.pcolormesh(
            np.arange(values.shape[1] + 1) - 0.5, np.arange(values.shape[0] + 1) - 0.5, values,
            cmap=colours, norm=scale, edgecolors="white", linewidth=1,
        )  # fmt: skip
        unclear = (low[row, column] <= 0) & (high[row, column] >= 0)
        for query, key in np.argwhere(unclear).tolist():
            hatch(axes, key, query)
        if across == 1:
            # Black or white, as reads better.
            shade = colours(scale(values))[..., :3] @ np.array([0.299, 0.587, 0.114])
            _numbers(axes, lift[row, column], unclear | (shade > 0.5))
        axes.set_title(f"layer {row}", fontsize=8, color=SOFT)
        axes.set_xticks(range(len(found.columns)), found.columns, rotation=90 if across > 1 else 0)
        axes.xaxis.tick_top()
        axes.tick_params(labeltop=axes in grid[0])
        axes.set_yticks(range(len(found.rows)), found.rows)
        axes.set_ylim(len(found.rows) - 0.5, -0.5)
        axes.axhline(len(found.columns) - 0.5, color="white", linewidth=3)
        quiet(axes)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=grid, shrink=0.75, aspect=16, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=SOFT)
    whose = "mean over heads" if head is None else f"head {head}"
    told = "log2 of attention over an even share; rows attend to columns; levels: keypoints per patch"
    n = ", ".join(f"{count:,} of {level}" for level, count in zip(found.columns, found.n, strict=True))
    model = shortened(str(result.run.model.get("name", "")))
    titles(
        figure,
        f"From level to level, {whose}",
        f"{told}; hatched: the 95 % interval holds 0",
        f"{model} · n = {result.run.images} images; patches by level: {n}",
    )
    return figure


def _numbers(axes: Axes, lift: Float64[np.ndarray, "query key"], pale: Bool[np.ndarray, "query key"]) -> None:
    """The numbers themselves, where a single matrix has the room."""
    for (query, key), value in np.ndenumerate(lift):
        known = np.isfinite(value)
        ink = SOFT if not known else INK if pale[query, key] else "white"
        text = number(value, signed=True) if known else "–"
        axes.text(key, query, text, ha="center", va="center", fontsize=8, color=ink)
