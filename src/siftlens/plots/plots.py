"""The figures of one finished analysis."""

import numpy as np
from matplotlib.figure import Figure

from siftlens.core import InputError
from siftlens.interrelation.results import Result
from siftlens.plots.depth import depth_figure
from siftlens.plots.heads import heads_figure
from siftlens.plots.levels import levels_figure
from siftlens.report.panels import Panel, panel
from siftlens.report.vocabulary import STATISTICS, Statistic


class Plots:
    """Figures of a study: matplotlib figures, for a notebook or for `savefig`.

    Args:
        result: the finished analysis.
    """

    def __init__(self, result: Result):
        self._result = result

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics that `heads` and `depth` can show."""
        return tuple(known.key for known in STATISTICS if self._found(known) is not None)

    def heads(self, statistic: str = "semantic_pull") -> Figure:
        """Layers x heads: the effect beyond null 1, or the value where the statistic has no null.

        Cells that cannot be told from the null are hatched; effects that are clear but below 0.1 carry a dot.

        Raises:
            InputError: the study has no such statistic.
        """
        return heads_figure(self._panel(statistic), self._result)

    def depth(self, statistic: str = "semantic_pull") -> Figure:
        """Mean over heads, layer by layer, with its 95 % interval; single heads thin behind.

        Raises:
            InputError: the study has no such statistic.
        """
        return depth_figure(self._panel(statistic), self._result)

    def levels(self, layer: int | None = None, head: int | None = None) -> Figure:
        """Attention from level to level: log2 of its share over an even share.

        Args:
            layer: which layer, counted from 0; by default all, a matrix each.
            head: which head, counted from 0; by default the mean over heads.

        Raises:
            InputError: there is no such layer or head.
        """
        return levels_figure(self._result, layer, head)

    def _panel(self, statistic: str) -> Panel:
        for known in STATISTICS:
            if known.key == statistic and (found := self._found(known)):
                return found
        has = ", ".join(self.statistics) or "none; effects need a second image"
        raise InputError(f"expected a statistic that this study can show ({has}), got {statistic!r}")

    def _found(self, statistic: Statistic) -> Panel | None:
        """None where there is nothing to show: of one image values are known, but no effects."""
        found = panel(self._result.heads, self._result.layers, statistic)
        return found if found is not None and np.isfinite(found.shown).any() else None

    def __repr__(self) -> str:
        return f"Plots(statistics={list(self.statistics)})"
