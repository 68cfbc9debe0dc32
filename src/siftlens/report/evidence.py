"""What a sentence of the report rests on: estimates with intervals, and the questions asked of a panel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from siftlens.interrelation.inference import RELEVANT
from siftlens.report.numbers import decimals, number
from siftlens.report.panels import Panel

Cell = tuple[int, int]
_BESIDE = 0.005  # so near to the smallest relevant effect two decimals do not tell on which side a value lies


@dataclass(frozen=True)
class Estimate:
    """One figure that a sentence rests on.

    Attributes:
        label: what it is of, such as "layer 4, head 2".
        value: the effect.
        low: lower end of its 95 % interval.
        high: upper end.
        unit: of all three.
        n: images behind it.
        cell: layer and head that it is of; None for a mean over heads.
    """

    label: str
    value: float
    low: float
    high: float
    unit: str
    n: int
    cell: Cell | None = None

    @property
    def reach(self) -> float:
        """The end of the interval that is further from 0."""
        return max(abs(self.low), abs(self.high))

    @property
    def figure(self) -> str:
        """The value with sign and unit."""
        return f"{number(self.value, self._places, signed=True)} {self.unit}".strip()

    @property
    def interval(self) -> str:
        """The interval, ends signed."""
        return " to ".join(number(end, self._places, signed=True) for end in (self.low, self.high))

    @property
    def _places(self) -> int:
        size = abs(self.value)
        if abs(size - RELEVANT) >= _BESIDE:
            return decimals(self.value, self.low, self.high)
        return next((places for places in range(3, 7) if round(size, places) != RELEVANT), 3)


@dataclass(frozen=True)
class Finding:
    """A sentence and the figures beside it.

    Attributes:
        title: two or three words.
        sentence: what was found.
        evidence: the estimates it rests on.
        note: how the figures were chosen or made, where that is not obvious.
    """

    title: str
    sentence: str
    evidence: tuple[Estimate, ...]
    note: str = ""


def axis_reach(findings: Iterable[Finding], unit: str) -> float:
    """Half width of an axis on which all estimates of a unit are drawn, so that they compare by eye."""
    known = [e.reach for finding in findings for e in finding.evidence if e.unit == unit]
    return max([2 * RELEVANT, *known])


class PanelReader:
    """A panel with the questions that sentences ask of it; rows and columns of the grids are named here.

    Args:
        panel: of a tested statistic.
        layers: what each row is called.
        heads: what each head column is called.
    """

    def __init__(self, panel: Panel, layers: Sequence[int], heads: Sequence[int]) -> None:
        self.panel, self.layers, self.heads = panel, layers, heads
        self._mean = len(heads)

    @property
    def total(self) -> int:
        """Heads that have an effect."""
        return int((self.panel.verdicts[:, : self._mean] != "missing").sum())

    def cells(self, *verdicts: str, sign: int = 0) -> list[Cell]:
        """Heads with one of `verdicts` and, unless 0, this sign of the effect; largest first."""
        return self._ranked(self.panel.verdicts[:, : self._mean], verdicts, sign)

    def rows(self, *verdicts: str, sign: int = 0) -> list[int]:
        """Layers whose mean over heads has one of `verdicts` and, unless 0, this sign; largest first."""
        return [row for row, _ in self._ranked(self.panel.verdicts[:, self._mean :], verdicts, sign, self._mean)]

    def named(self, rows: Sequence[int]) -> list[int]:
        """The layers' names of `rows`."""
        return [self.layers[row] for row in rows]

    def head(self, cell: Cell) -> Estimate:
        """The effect of one head."""
        row, column = cell
        layer, name = self.layers[row], self.heads[column]
        return replace(self._estimate(f"layer {layer}, head {name}", row, column), cell=(layer, name))

    def layer(self, row: int) -> Estimate:
        """The mean effect of a layer's heads."""
        return self._estimate(f"layer {self.layers[row]}, mean over heads", row, self._mean)

    def _ranked(self, seen: np.ndarray, verdicts: Sequence[str], sign: int, first: int = 0) -> list[Cell]:
        effects = self.panel.effect[:, first : first + seen.shape[1]]
        chosen = np.isin(seen, verdicts) & ((np.sign(effects) == sign) | (sign == 0))
        order = np.argsort(-np.abs(effects[chosen]), kind="stable")
        return [(int(row), int(column)) for row, column in np.argwhere(chosen)[order]]

    def _estimate(self, label: str, row: int, column: int) -> Estimate:
        panel = self.panel
        value, low, high = (float(grid[row, column]) for grid in (panel.effect, panel.low, panel.high))
        return Estimate(label, value, low, high, panel.statistic.unit, int(panel.n[row, column]))
