"""A statistic over depth."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from siftlens.interrelation.inference import RELEVANT, SIGNIFICANT
from siftlens.interrelation.results import Result
from siftlens.plots.heads import images_of
from siftlens.plots.style import AWAY, FAINT, INK, SOFT, TOWARD, blank, quiet, shortened, titles
from siftlens.report.panels import Panel


def depth_figure(panel: Panel, result: Result) -> Figure:
    """The mean over heads with its interval, and each head."""
    statistic, shown = panel.statistic, panel.shown
    layers = np.arange(shown.shape[0])
    mean, low, high = shown[:, -1], panel.low[:, -1], panel.high[:, -1]
    figure = blank(5.2, 3.6)
    axes = figure.add_subplot()
    if statistic.tested:
        axes.axhspan(-RELEVANT, RELEVANT, color=FAINT, linewidth=0, zorder=0)
    axes.axhline(0, color=SOFT, linewidth=0.8, zorder=1)
    axes.plot(layers, shown[:, :-1], color=SOFT, linewidth=0.6, alpha=0.35, zorder=2)
    axes.fill_between(layers, low, high, color=INK, alpha=0.16, linewidth=0, zorder=3)
    axes.plot(layers, mean, color=INK, linewidth=1.8, zorder=4)
    verdicts = panel.verdicts[:, -1]
    for layer in layers[np.isfinite(mean)]:
        colour = INK if not statistic.tested else TOWARD if mean[layer] > 0 else AWAY
        face = "white" if verdicts[layer] == "unclear" else colour
        axes.plot(layer, mean[layer], "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("layer", fontsize=8, color=SOFT)
    axes.set_ylabel(statistic.axis, fontsize=8, color=SOFT)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.4, layers[-1] + 0.4)
    quiet(axes)
    told = "thick: mean over heads, with its 95 % interval; thin: single heads"
    if statistic.tested:
        told = (
            f"effect beyond other images' maps; {told}; hollow: not clear (q ≥ {SIGNIFICANT}); shaded: below {RELEVANT}"
        )
    model = shortened(str(result.run.model.get("name", "")))
    titles(figure, statistic.label, told, f"{model} · n = {images_of(panel)} images")
    return figure
