"""What an audit found in plain sentences, written from its numbers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlens.auditing import AuditResult
from siftlens.auditing.tables import HARMFUL, RELIED_ON
from siftlens.report.audit_cards import Effect, dependence
from siftlens.report.audit_tiles import rows_of
from siftlens.report.audit_words import colours, percent, place
from siftlens.report.numbers import counted, number

NAMED = 3  # cues with figures beside a sentence
_SETS = {"sift": "patches around keypoints that look alike", "token": "patches that the model makes alike"}


@dataclass(frozen=True)
class ClassFinding:
    """What one answer hangs on.

    Attributes:
        label: the class.
        sentences: what was found.
        evidence: dependence on the strongest cues.
    """

    label: str
    sentences: tuple[str, ...]
    evidence: tuple[Effect, ...]


def verdict(audit: AuditResult) -> tuple[str, ...]:
    """The whole audit in two or three sentences."""
    cues, tested = audit.cues, audit.info["cues_tested"]
    counts = {name: int((cues["verdict"] == name).sum()) for name in RELIED_ON}
    if not tested:
        return (
            "No set of patches was found that both goes with a class and is used for it. There was nothing to test, "
            "and nothing is claimed.",
        )
    looked = f"{counted(tested, 'set')} of patches that {'goes' if tested == 1 else 'go'} with a class"
    looked = f"{looked} {'was' if tested == 1 else 'were'} tested"
    if not sum(counts.values()):
        return (f"None was found that its answers hang on. {looked[0].upper()}{looked[1:]}.", *_hidden(audit))
    relied, harmful = sum(counts.values()), sum(counts[name] for name in HARMFUL)
    them = "it" if relied == 1 else "them"
    errors = f"errors go with {them if harmful == relied else f'{harmful} of them'}"
    if not harmful:
        errors = f"errors that go with {them} were not shown"
    sets = "the one set" if tested == 1 else f"{relied} of the {tested} sets"
    told = [f"Its answers hang on {sets} of patches that {'was' if tested == 1 else 'were'} tested, and {errors}."]
    if confirmed := counts["confirmed spurious"]:
        told.append(
            f"By the evidence given, {confirmed} of these {'is' if confirmed == 1 else 'are'} not the object: "
            "confirmed spurious."
        )
    if counts["harmful reliance"]:
        told.append(
            "Whether a set is the object or something beside it, the tool cannot know: you see it in the pictures."
        )
    return tuple(told)


def by_class(audit: AuditResult) -> tuple[ClassFinding, ...]:
    """A finding for every class whose answer hangs on cues, the strongest claim first."""
    rows = [(row, cue) for row, cue in enumerate(rows_of(audit.cues)) if cue.verdict in RELIED_ON]
    grid = audit.vocabulary.grid
    found = []
    for label in dict.fromkeys(cue.label for _, cue in rows):
        mine = [(row, cue) for row, cue in rows if cue.label == label]
        first = mine[0][1]
        where = place(np.reshape(np.asarray(first.map, np.float64), (grid.rows, grid.cols)))
        look = f"{_set(first)}, {where}"
        hangs = f"on {look}" if len(mine) == 1 else f"on {len(mine)} sets of patches, first of all on {look}"
        told = [f"The answer “{label}” hangs {hangs}. Taking these away or swapping them costs {_cost(first)}."]
        if first.verdict in HARMFUL:
            told.append(_harm(first))
        evidence = tuple(dependence(row, cue, cue.cue) for row, cue in mine[:NAMED])
        found.append(ClassFinding(str(label), tuple(told), evidence))
    return tuple(found)


def _cost(cue: Any) -> str:
    """Of a lead that is small to begin with, more can be lost than there is: the ratio then says little."""
    if cue.dependence <= 1:
        return f"{percent(cue.dependence)} of its usual lead"
    return f"more than its whole usual lead of {number(cue.median_margin)} in log-odds"


def _harm(cue: Any) -> str:
    """The larger of both differences."""
    false, missed = cue.false_present - cue.false_absent, cue.missed_absent - cue.missed_present
    if missed != missed or false >= missed:
        return (
            f"Of other classes' images that hold them, {percent(cue.false_present)} are taken for “{cue.label}”; of "
            f"those that do not, {percent(cue.false_absent)}."
        )
    return (
        f"Of its own images that lack them, {percent(cue.missed_absent)} are missed; of those that hold them, "
        f"{percent(cue.missed_present)}."
    )


def _hidden(audit: AuditResult) -> Sequence[str]:
    """How large a dependence the intervals of the tested cues leave room for."""
    ends = [dependence(0, cue, "").high for cue in rows_of(audit.cues)]
    known = [end for end in ends if end == end]
    told = []
    if known:
        told.append(
            f"The intervals leave room for a dependence of up to {percent(max(0.0, *known))} of the usual lead on one "
            "of them; more is unlikely."
        )
    if whole := int((audit.cues["verdict"] == "global").sum()):
        told.append(f"For {whole} of them it cannot be told whether patches count or the whole image.")
    if len(known) < len(ends):
        unknown = len(ends) - len(known)
        told.append(f"For {unknown} of them no control was possible, so nothing is known.")
    return told


def _set(cue: Any) -> str:
    return f"patches {colours(cue)}" if cue.kind == "colour" else _SETS[cue.kind]
