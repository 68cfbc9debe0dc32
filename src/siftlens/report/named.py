"""The heads that the findings call out: what an analysis keeps in full detail, and a reader asks for first."""

from collections.abc import Sequence

import pandas as pd

from siftlens.report.evidence import Cell, Finding
from siftlens.report.findings import findings
from siftlens.report.panels import panels_of

MOST = 6


def named_heads(heads: pd.DataFrame, layers: pd.DataFrame) -> tuple[Cell, ...]:
    """The heads that the findings of an analysis call out, at most six.

    Args:
        heads: a row per layer, head and statistic.
        layers: means over heads, a row per layer and statistic.

    Returns:
        (layer, head), in the order of the findings.
    """
    return named_in(findings(panels_of(heads, layers), *places_of(heads)))


def named_in(told: Sequence[Finding]) -> tuple[Cell, ...]:
    """The heads among the evidence of findings, the first six, each once."""
    cells = [estimate.cell for finding in told for estimate in finding.evidence if estimate.cell is not None]
    return tuple(dict.fromkeys(cells))[:MOST]


def places_of(heads: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Indices of layers and of heads, ascending."""
    layers, columns = (sorted(int(index) for index in heads[name].unique()) for name in ("layer", "head"))
    return layers, columns
