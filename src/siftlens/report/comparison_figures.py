"""Curves of a comparison over depth: the values above, the differences from the reference below, as SVG geometry."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from siftlens.comparison.results import Comparison
from siftlens.interrelation.inference import RELEVANT
from siftlens.report.numbers import decimals, number
from siftlens.report.vocabulary import Statistic

WIDTH, LEFT, RIGHT, INSET = 340, 44, 10, 12
VALUES, DIFFERENCES = (10, 168), (200, 296)  # top and bottom of both parts
VALUE = ("value", "low", "high")
CHANGE = ("difference", "difference_low", "difference_high")
_LABELS = 13  # along the axis of depth


@dataclass(frozen=True)
class Tick:
    """A line across, or a place along the axis.

    Attributes:
        at: coordinate.
        text: label; empty for none.
        zero: whether it is the line of 0.
    """

    at: float
    text: str
    zero: bool = False


@dataclass(frozen=True)
class Curve:
    """One study in one part of the figure.

    Attributes:
        style: class of its colour and line.
        line: path through its values.
        band: path around its intervals.
        dots: (x, y, hollow), hollow where a difference is not clear.
    """

    style: str
    line: str
    band: str
    dots: tuple[tuple[float, float, bool], ...]


@dataclass(frozen=True)
class Part:
    """Values, or differences.

    Attributes:
        ticks: lines across.
        curves: the studies.
        shaded: top and height of the range that is too small to matter; None where nothing is called so.
    """

    ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    shaded: tuple[float, float] | None


@dataclass(frozen=True)
class Figure:
    """One statistic of all studies.

    Attributes:
        key: of the statistic.
        label: of the statistic.
        meaning: one plain sentence.
        unit: of both axes, in words.
        values: upper part.
        differences: lower part.
        places: along the axis of depth.
        told: (x, width, text) of strips across, with what a pointer reads there.
        images: "n = 200 images".
    """

    key: str
    label: str
    meaning: str
    unit: str
    values: Part
    differences: Part
    places: tuple[Tick, ...]
    told: tuple[tuple[float, float, str], ...]
    images: str


def figure(comparison: Comparison, statistic: Statistic, places: Sequence[str]) -> Figure:
    """Draws one statistic.

    Args:
        comparison: the finished comparison.
        statistic: which one.
        places: what each place over depth is called.
    """
    tables = [comparison.rows(study.name, statistic.key) for study in comparison.studies]
    count = len(places)
    start, end = LEFT + INSET, WIDTH - RIGHT - INSET
    x = [float(at) for at in (np.linspace(start, end, count) if count > 1 else [(start + end) / 2])]
    every = math.ceil(count / _LABELS)
    along = tuple(Tick(at, "" if i % every else places[i].partition(" ")[2]) for i, at in enumerate(x))
    if comparison.aligned and count > 1:
        along = tuple(Tick(start + depth * (end - start), f"{depth:g}") for depth in (0, 0.25, 0.5, 0.75, 1))
    step = (x[1] - x[0]) if count > 1 else WIDTH - LEFT
    names = [study.name for study in comparison.studies]
    n = sorted({int(value) for table in tables for value in table["n"]})
    return Figure(
        key=statistic.key,
        label=statistic.label,
        meaning=statistic.meaning,
        unit=f"effect, {statistic.axis}" if statistic.tested else statistic.axis,
        values=_part(tables, VALUE, x, VALUES, least=RELEVANT if statistic.tested else 0),
        differences=_part(
            tables[1:],
            CHANGE,
            x,
            DIFFERENCES,
            least=1.5 * RELEVANT if statistic.tested else 0,
            first=1,
            shaded=statistic.tested,
        ),
        places=along,
        told=tuple((at - step / 2, step, _told(places[i], names, tables, i, statistic)) for i, at in enumerate(x)),
        images=f"n\u00a0=\u00a0{n[0] if len(n) == 1 else f'{n[0]} to {n[-1]}'} images",
    )


def _part(
    tables: Sequence[pd.DataFrame],
    columns: tuple[str, str, str],
    x: Sequence[float],
    place: tuple[int, int],
    *,
    least: float,
    first: int = 0,
    shaded: bool = False,
) -> Part:
    """One part of the figure; `least` is a magnitude that its axis always shows, so that what is tiny looks tiny."""
    grids = [[table[column].to_numpy(np.float64) for column in columns] for table in tables]
    known = np.concatenate([grid[np.isfinite(grid)] for curves in grids for grid in curves])
    low, high = min(-least if shaded else 0.0, *known, 0.0), max(least, *known, 0.0)
    high = high if high > low else low + 1
    margin = 0.05 * (high - low)
    low, high = (low - margin if low < 0 else 0), (high + margin if high > 0 else 0)
    top, bottom = place

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    curves = []
    for index, (table, (value, below, above)) in enumerate(zip(tables, grids, strict=True)):
        here = [i for i in range(len(x)) if np.isfinite(value[i])]
        points = [f"{x[i]:.1f} {y(value[i]):.1f}" for i in here]
        bounded = [i for i in here if np.isfinite(below[i])]
        around = [f"{x[i]:.1f} {y(below[i]):.1f}" for i in bounded] + [
            f"{x[i]:.1f} {y(above[i]):.1f}" for i in reversed(bounded)
        ]
        clear = table["significant"].to_numpy(bool)
        dots = tuple((x[i], y(value[i]), not clear[i]) for i in here) if first else ()
        curves.append(Curve(style_of(index + first), _path(points), _path(around, closed=True), dots))
    small = (y(RELEVANT), y(-RELEVANT) - y(RELEVANT)) if shaded else None
    return Part(_ticks(low, high, y, wanted=4), tuple(curves), small)


def style_of(study: int) -> str:
    """Class of the colour and line of a study, the reference being 0."""
    return "main" if study == 0 else f"rival{(study - 1) % 4}"


def _path(points: Sequence[str], *, closed: bool = False) -> str:
    return f"M{'L'.join(points)}{'Z' if closed else ''}" if points else ""


def _ticks(low: float, high: float, y: Callable[[float], float], wanted: int) -> tuple[Tick, ...]:
    """Lines across at round values."""
    rough = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * k for k in (1, 2, 5, 10) if size * k >= rough * (1 - 1e-9))
    decimals_shown = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return tuple(Tick(y(value), number(value, decimals_shown), zero=value == 0) for value in values)


def _told(place: str, names: Sequence[str], tables: Sequence[pd.DataFrame], index: int, statistic: Statistic) -> str:
    """What stands at one place, a line for each study."""
    lines = [place]
    for name, table in zip(names, tables, strict=True):
        row = table.iloc[index]
        lines.append(f"{name}: {_printed(row, VALUE, statistic.tested)} {statistic.unit}".rstrip())
        if np.isfinite(row["difference"]):
            change = _printed(row, CHANGE, True)
            lines.append(f"difference {change} {statistic.unit}, q = {row['q']:.3f}, n = {row['n']} images")
    return "\n".join(lines)


def _printed(row: pd.Series, columns: tuple[str, str, str], signed: bool) -> str:
    return with_interval(*(float(row[column]) for column in columns), signed=signed)


def with_interval(value: float, low: float, high: float, *, signed: bool) -> str:
    """A value with its interval, as in "+0.12 (+0.05 to +0.19)"."""
    places = decimals(value, low, high)
    shown, *ends = (number(one, places, signed=signed) for one in (value, low, high))
    return f"{shown} ({' to '.join(ends)})"
