"""What a comparison found, in sentences that are written from the numbers alone, each with its evidence.

A layer is said to differ only where the difference is clear (q < 0.05), and to matter only where it is at least 0.1.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from siftlens.comparison.results import Comparison
from siftlens.interrelation.inference import RELEVANT, SIGNIFICANT
from siftlens.report.evidence import Estimate, Finding
from siftlens.report.numbers import enumeration
from siftlens.report.vocabulary import Statistic

NAMED = 2  # places shown on each side
FURTHEST = "The place whose interval reaches furthest: how large a difference may hide."
# What a positive and a negative difference mean.
_WORDS = {
    "semantic_pull": ("pulls further toward keypoint-rich patches", "pulls less far"),
    "partial_pull": (
        "beyond what gradient energy and closeness to the centre explain, pulls further toward keypoint-rich patches",
        "less far",
    ),
    "assortativity": ("has patches attend more to patches of like concentration", "less"),
    "cls_pull": ("has its class token pulled further toward keypoint-rich patches", "less far"),
}


def comparison_findings(
    comparison: Comparison, statistics: Sequence[Statistic], places: Sequence[str]
) -> tuple[Finding, ...]:
    """Every sentence that the numbers support, study by study.

    Args:
        comparison: the finished comparison.
        statistics: those with a null.
        places: what each place over depth is called.
    """
    return tuple(
        _finding(comparison.rows(study.name, statistic.key), study.name, comparison.reference.name, statistic, places)
        for study in comparison.studies[1:]
        for statistic in statistics
    )


def _finding(rows: pd.DataFrame, study: str, reference: str, statistic: Statistic, places: Sequence[str]) -> Finding:
    change = rows["difference"].to_numpy(np.float64)
    order = [int(i) for i in np.argsort(-np.abs(change), kind="stable") if np.isfinite(change[i])]
    clear, relevant = rows["significant"].to_numpy(bool), rows["relevant"].to_numpy(bool)

    def chosen(mask: np.ndarray) -> list[int]:
        return [i for i in order if mask[i]]

    def evidence(indices: Sequence[int]) -> tuple[Estimate, ...]:
        return tuple(_estimate(rows, i, places[i], statistic.unit) for i in indices)

    title = f"{statistic.label}: {study}"
    unit = f" {statistic.unit}".rstrip()
    up, down = chosen(clear & relevant & (change > 0)), chosen(clear & relevant & (change < 0))
    small = chosen(clear & ~relevant)
    if up or down:
        more, less = _WORDS[statistic.key]
        parts = [f"{more} than {reference} by at least {RELEVANT}{unit} in {where(up, places)}"] if up else []
        if down:
            less = less if up else more.replace("further", "less far").replace("more", "less")
            than = "" if up else f" than {reference} by at least {RELEVANT}{unit}"
            parts.append(f"{less}{than} in {where(down, places)}")
        sentence = f"{study} {' and '.join(parts)} (q < {SIGNIFICANT})."
        if small:
            sentence += f" In {where(small, places)} it differs by less: too little to matter."
        return Finding(title, sentence, evidence(up[:NAMED] + down[:NAMED]), statistic.key, "The largest differences.")
    if small:
        sentence = (
            f"Where {study} differs from {reference}, in {where(small, places)}, it is by less than {RELEVANT}{unit}: "
            "clear, but too small to matter."
        )
        return Finding(title, sentence, evidence(small[:NAMED]), statistic.key, "The largest differences.")
    sentence = f"No layer differs: nowhere can {study} be told from {reference} (q ≥ {SIGNIFICANT})."
    furthest = max(evidence(order), key=lambda estimate: estimate.reach, default=None)
    return Finding(title, sentence, () if furthest is None else (furthest,), statistic.key, FURTHEST)


def where(indices: Sequence[int], places: Sequence[str]) -> str:
    """Places as "layer 3", "layers 2 to 4 and 7" or "depths 0.36 to 0.55"."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    kind, _, _ = places[0].partition(" ")
    names = [place.partition(" ")[2] for place in places]
    words: list[str] = []
    for run in runs:
        words += [f"{names[run[0]]} to {names[run[-1]]}"] if len(run) > 2 else [names[index] for index in run]
    return f"{kind}{'' if len(indices) == 1 else 's'} {enumeration(words)}"


def _estimate(rows: pd.DataFrame, index: int, place: str, unit: str) -> Estimate:
    value, low, high = (float(rows[name][index]) for name in ("difference", "difference_low", "difference_high"))
    return Estimate(f"{place}, difference", value, low, high, unit, int(rows["n"][index]))
