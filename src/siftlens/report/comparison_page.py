"""The page of a comparison as data: everything that its template prints."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from siftlens import __version__
from siftlens.comparison.results import Comparison
from siftlens.comparison.values import DISTANCE, TESTED
from siftlens.interrelation.inference import RELEVANT
from siftlens.report.comparison_figures import CHANGE, VALUE, Figure, figure, style_of, with_interval
from siftlens.report.comparison_findings import comparison_findings
from siftlens.report.evidence import Finding, axis_reach
from siftlens.report.numbers import count, number
from siftlens.report.vocabulary import STATISTICS, Statistic

_SOURCE = {statistic.key: statistic for statistic in STATISTICS}
# Of each image and head the root is taken before the mean, so that it can be paired.
_DISTANCE = replace(_SOURCE["mean_squared_distance"], key=DISTANCE, root=False)
SHOWN = tuple(_DISTANCE if statistic.key == "mean_squared_distance" else statistic for statistic in STATISTICS)


@dataclass(frozen=True)
class StudyLine:
    """One study in the list of what was compared.

    Attributes:
        style: class of its colour and line.
        name: of the study.
        entries: (label, text), what it is.
    """

    style: str
    name: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """The numbers of one statistic.

    Attributes:
        label: of the statistic.
        unit: as an axis says it.
        columns: titles, the first of the rows' names.
        rows: what each place is called, and its cells: (text, whether it is a clear difference).
    """

    label: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]


@dataclass(frozen=True)
class ComparisonPage:
    """The whole page.

    Attributes:
        reference: name of the study that the others are compared with.
        others: names of the others.
        studies: what was compared.
        facts: (figure, what it counts), below the title.
        notes: what limits every figure below.
        findings: sentences with their evidence.
        figures: curves over depth, of what is tested.
        described: curves of what is only described.
        tables: all numbers.
        images: images that all studies have.
        matched_by: "content" or "name".
        aligned: whether layers were aligned by relative depth.
        version: of siftlens.
        relevant: difference of effects below which it is too small to matter.
    """

    reference: str
    others: tuple[str, ...]
    studies: tuple[StudyLine, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    described: tuple[Figure, ...]
    tables: tuple[Table, ...]
    images: int
    matched_by: str
    aligned: bool
    version: str
    relevant: float = RELEVANT

    def reach(self, unit: str) -> float:
        """Half width of the axis that estimates of this unit are drawn on."""
        return axis_reach(self.findings, unit)


def comparison_page(comparison: Comparison) -> ComparisonPage:
    """Computes the page of a finished comparison."""
    compared = set(comparison.table["statistic"])
    shown = [statistic for statistic in SHOWN if statistic.key in compared]
    places = place_names(comparison)
    figures = {statistic.key: figure(comparison, statistic, places) for statistic in shown}
    reference, *others = comparison.studies
    sizes = {f"{study.layers} × {study.heads}" for study in comparison.studies}
    facts = (
        (count(comparison.images), "images in common"),
        (str(len(comparison.studies)), "studies"),
        (" and ".join(sorted(sizes)), "layers × heads"),
    )
    return ComparisonPage(
        reference=reference.name,
        others=tuple(study.name for study in others),
        studies=_lines(comparison),
        facts=facts,
        notes=comparison.notes,
        findings=comparison_findings(comparison, [one for one in shown if one.tested], places),
        figures=tuple(figures[statistic.key] for statistic in shown if statistic.key in TESTED),
        described=tuple(figures[statistic.key] for statistic in shown if statistic.key not in TESTED),
        tables=tuple(_table(comparison, statistic, places) for statistic in shown),
        images=comparison.images,
        matched_by=comparison.matched_by,
        aligned=comparison.aligned,
        version=__version__,
    )


def place_names(comparison: Comparison) -> tuple[str, ...]:
    """What each place over depth is called: a layer, or a relative depth where layers were aligned."""
    key = comparison.table["statistic"].iloc[0]
    rows = comparison.rows(comparison.reference.name, key)
    if comparison.aligned:
        return tuple(f"depth {depth:.2f}" for depth in rows["depth"])
    return tuple(f"layer {layer:.0f}" for layer in rows["layer"])


def _lines(comparison: Comparison) -> tuple[StudyLine, ...]:
    lines = []
    for index, study in enumerate(comparison.studies):
        shared = ", those of the reference" if index and study.shared_null else ""
        entries = (
            ("Model", study.model),
            ("Weights", study.weights),
            ("Layers × heads", f"{study.layers} × {study.heads}"),
            ("Input", f"{study.height} × {study.width} px, {study.rows} × {study.cols} patches"),
            ("Images", f"{count(study.images)}, {count(comparison.images)} of them in common"),
            ("Null maps", f"{count(study.pool)}, seed {study.seed}{shared}"),
        )
        lines.append(StudyLine(style_of(index), study.name, entries))
    return tuple(lines)


def _table(comparison: Comparison, statistic: Statistic, places: Sequence[str]) -> Table:
    reference, *others = comparison.studies
    first = comparison.rows(reference.name, statistic.key)
    cells = [[(_interval(first, i, VALUE, signed=statistic.tested), False)] for i in range(len(places))]
    columns = ["Depth" if comparison.aligned else "Layer", reference.name]
    for study in others:
        found = comparison.rows(study.name, statistic.key)
        columns += [study.name, "difference", "q", "n"]
        for i, row in enumerate(cells):
            q = float(found["q"][i])
            row.append((_interval(found, i, VALUE, signed=statistic.tested), False))
            row.append((_interval(found, i, CHANGE, signed=True), bool(found["significant"][i])))
            row += [("< 0.001" if q < 0.001 else number(q, 3), False), (str(found["n"][i]), False)]
    rows = tuple((place, tuple(row)) for place, row in zip(places, cells, strict=True))
    return Table(statistic.label, statistic.axis, tuple(columns), rows)


def _interval(rows: pd.DataFrame, index: int, columns: tuple[str, str, str], *, signed: bool) -> str:
    return with_interval(*(float(rows[column][index]) for column in columns), signed=signed)
