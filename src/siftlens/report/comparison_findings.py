"""What a comparison found, in sentences that are written from the numbers alone, each with its evidence.

A layer is said to differ only where the difference is clear (q < 0.05), and to matter only where it is at least 0.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from siftlens.comparison.results import Comparison
from siftlens.interrelation.inference import RELEVANT, SIGNIFICANT
from siftlens.report.evidence import Estimate, Finding
from siftlens.report.numbers import enumeration
from siftlens.report.vocabulary import Statistic

NAMED = 2  # places shown on each side
FURTHEST = "The place whose interval reaches furthest: how large a difference may hide."


@dataclass(frozen=True)
class _Words:
    """What a difference is called: "VERB more OBJECT than ..."; `opening` goes before."""

    verb: str
    more: str
    less: str
    object: str
    opening: str = ""


_TOWARD = "toward keypoint-rich patches"
_WORDS = {
    "semantic_pull": _Words("pulls", "further", "less far", _TOWARD),
    "partial_pull": _Words(
        "pulls", "further", "less far", _TOWARD, "Beyond what gradient energy and closeness to the centre explain, "
    ),
    "assortativity": _Words("has patches attend", "more", "less", "to patches of like concentration"),
    "cls_pull": _Words("has its class token pulled", "further", "less far", _TOWARD),
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
    reference, *others = comparison.studies
    found = []
    for study in others:
        for statistic in statistics:
            finding = _finding(
                comparison.rows(study.name, statistic.key), study.name, reference.name, statistic, places
            )
            found.append(finding if len(others) == 1 else replace(finding, title=f"{study.name}: {finding.title}"))
    return tuple(found)


def _finding(rows: pd.DataFrame, study: str, reference: str, statistic: Statistic, places: Sequence[str]) -> Finding:
    change = rows["difference"].to_numpy(np.float64)
    order = [int(i) for i in np.argsort(-np.abs(change), kind="stable") if np.isfinite(change[i])]
    clear = [i for i in order if rows["significant"][i]]
    words, unit = _WORDS[statistic.key], f" {statistic.unit}".rstrip()
    if not clear:
        sentence = f"No layer differs: nowhere can {study} be told from {reference} (q\u00a0≥\u00a0{SIGNIFICANT})."
        estimates = [_estimate(rows, i, places[i], statistic.unit) for i in order]
        furthest = sorted(estimates, key=lambda estimate: estimate.reach)[-1:]
        return Finding(statistic.label, sentence, tuple(furthest), FURTHEST)
    parts: list[str] = []
    shown: list[int] = []
    for sign, degree in ((1, words.more), (-1, words.less)):
        side = [i for i in clear if np.sign(change[i]) == sign]
        shown += side[:NAMED]
        for relevant, size in ((True, ""), (False, f" by less than {RELEVANT}{unit}, too little to matter,")):
            if here := [i for i in side if rows["relevant"][i] == relevant]:
                what = degree if parts else f"{words.verb} {degree} {words.object} than {reference}"
                parts.append(f"{what}{size} {where(here, places)}")
    sentence = f"{words.opening}{study} {enumeration(parts)} (q\u00a0<\u00a0{SIGNIFICANT})."
    evidence = tuple(_estimate(rows, i, places[i], statistic.unit) for i in shown)
    note = "" if len(shown) == len(clear) else "The largest differences on each side."
    return Finding(statistic.label, sentence, evidence, note)


def where(indices: Sequence[int], places: Sequence[str]) -> str:
    """Places as "in layer 3", "in layers 2 to 4 and 7" or "at depths 0.36 to 0.55"."""
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
    return f"{'at' if kind == 'depth' else 'in'} {kind}{'' if len(indices) == 1 else 's'} {enumeration(words)}"


def _estimate(rows: pd.DataFrame, index: int, place: str, unit: str) -> Estimate:
    value, low, high = (float(rows[name][index]) for name in ("difference", "difference_low", "difference_high"))
    return Estimate(f"{place}, difference", value, low, high, unit, int(rows["n"][index]))
