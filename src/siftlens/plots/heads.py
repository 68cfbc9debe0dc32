"""Layers x heads as a heat map."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from siftlens.interrelation.inference import RELEVANT, SIGNIFICANT
from siftlens.interrelation.results import Result
from siftlens.plots.style import (
    INK,
    SMALL,
    SOFT,
    blank,
    diverging,
    hatch,
    quiet,
    sequential,
    shortened,
    titles,
)
from siftlens.report.panels import Panel
from siftlens.report.vocabulary import RIVALS

_GAP = 0.4  # cells between the heads and their mean


def heads_figure(panel: Panel, result: Result) -> Figure:
    """One cell for each head, and one for the mean over the heads of a layer."""
    statistic, shown = panel.statistic, panel.shown
    layers, heads = shown.shape[0], shown.shape[1] - 1
    figure = blank(max(4.6, 1.9 + 0.4 * heads), 1.7 + 0.3 * layers)
    axes = figure.add_subplot()
    both = statistic.tested or statistic in RIVALS
    reach = float(np.nanmax(np.abs(shown)))
    reach = max(reach, 2 * RELEVANT) if both else reach or 1.0
    colours, scale = diverging() if both else sequential(), Normalize(-reach if both else 0, reach)
    columns = [*map(float, range(heads)), heads + _GAP]
    for part in (slice(0, heads), slice(heads, heads + 1)):
        edges = np.append(columns[part], columns[part][-1] + 1) - 0.5
        axes.pcolormesh(
            edges, np.arange(layers + 1) - 0.5, np.ma.masked_invalid(shown[:, part]),
            cmap=colours, norm=scale, edgecolors="white", linewidth=1.5,
        )  # fmt: skip
    marks = [(row, column, panel.verdicts[row, column]) for row, column in np.ndindex(shown.shape)]
    for row, column, verdict in marks:
        if verdict == "unclear":
            hatch(axes, columns[column], row)
        elif verdict == "missing":
            axes.text(columns[column], row, "–", ha="center", va="center", color=SOFT, fontsize=8)
    small = [(columns[column], row) for row, column, verdict in marks if verdict == "small"]
    axes.scatter([x for x, _ in small], [y for _, y in small], s=SMALL, color=INK, linewidths=0)
    axes.set(xlim=(-0.6, columns[-1] + 0.6), ylim=(layers - 0.4, -0.6), ylabel="layer")
    every = -(-heads // 16)
    ticks = [*range(0, heads, every), heads]
    axes.set_xticks([columns[tick] for tick in ticks], [*map(str, ticks[:-1]), "mean"])
    axes.set_yticks(range(0, layers, -(-layers // 24)))
    axes.set_xlabel("head", fontsize=8, color=SOFT)
    axes.yaxis.label.set(fontsize=8, color=SOFT)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    quiet(axes)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, shrink=0.75, aspect=16, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=SOFT)
    told = [statistic.axis]
    if statistic.tested:
        told = [f"effect beyond other images' maps, {statistic.axis}"]
        told.append(f"hatched: not clear (q ≥ {SIGNIFICANT}); dot: clear, but below {RELEVANT}, too small to matter")
    model = shortened(str(result.run.model.get("name", "")))
    titles(figure, statistic.label, *told, f"{model} · n = {images_of(panel)} images")
    return figure


def images_of(panel: Panel) -> str:
    """Images behind the cells that have a value."""
    known = panel.n[np.isfinite(panel.shown)].astype(int)
    low, high = int(known.min()), int(known.max())
    return str(low) if low == high else f"{low} to {high}"
