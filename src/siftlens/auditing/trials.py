"""The trial of each cue: what interventions do, and what is known from outside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Int

from siftlens.auditing.bench import Bench, Each
from siftlens.auditing.candidates import Candidate
from siftlens.auditing.causal import Effects, donors_of, measure_cue
from siftlens.auditing.outside import off_object
from siftlens.auditing.sample import Sample
from siftlens.auditing.settings import AuditSettings
from siftlens.interrelation.randomness import stream


@dataclass(frozen=True)
class CueTrial:
    """What came of one cue.

    Attributes:
        effects: of interventions.
        off_object: share of it that lies outside the objects; None where that is not known.
    """

    effects: Effects
    off_object: float | None


@dataclass(frozen=True)
class _Case:
    """A cue and the images that it is tried on.

    Attributes:
        cue: the cue.
        there: where it is, in every image of the sample.
        neutral: patches that may stand for it in a control.
        carrying: images of its class that carry it, in an order drawn by lot.
        donors: images that do not carry it, likewise.
        receiving: images of other classes that do not carry it, likewise.
        logit: of its class.
        most: images that it may be tested on.
    """

    cue: Candidate
    there: Bool[np.ndarray, "image patch"]
    neutral: Bool[np.ndarray, "image patch"]
    carrying: Int[np.ndarray, " carrier"]
    donors: Int[np.ndarray, " donor"]
    receiving: Int[np.ndarray, " other"]
    logit: int
    most: int


def try_cues(
    each: Each,
    sample: Sample,
    words: dict[str, Int[np.ndarray, "image patch"]],
    cues: Sequence[Candidate],
    logit: Int[np.ndarray, " class"],
    most: int,
    settings: AuditSettings,
    tried: Callable[[int], None],
) -> list[CueTrial]:
    """Try every cue on the confirm half.

    Args:
        each: does it.
        sample: the images.
        words: of every patch, by kind.
        cues: what is tried.
        logit: index of the logit of each class.
        most: images that a cue may be tested on.
        settings: of the audit.
        tried: called with the number of cues that were.
    """
    steps = (
        partial(
            _try,
            case=_case(sample, cue, words[cue.kind], int(logit[cue.label]), most, settings.seed),
            settings=settings,
        )
        for cue in cues
    )
    trials = []
    tried(0)
    for trial in each(steps):
        trials.append(trial)
        tried(len(trials))
    return trials


def _case(
    sample: Sample, cue: Candidate, words: Int[np.ndarray, "image patch"], logit: int, most: int, seed: int
) -> _Case:
    there, confirm, mine = cue.patches(words), ~sample.discover, sample.labels == cue.label
    carries = cue.carried(there)
    order = stream(seed, "order", f"{cue.label} {cue.kind} {cue.words}").permutation(len(carries))
    lacking = confirm & ~carries
    carrying, donors, receiving = (
        order[part[order]]
        for part in (confirm & mine & carries, donors_of(there.mean(axis=1), lacking, mine), lacking & ~mine)
    )
    return _Case(cue, there, cue.neutral(words), carrying, donors, receiving, logit, most)


def _try(bench: Bench, case: _Case, settings: AuditSettings) -> CueTrial:
    effects = measure_cue(
        bench,
        case.there,
        case.neutral,
        case.carrying,
        case.donors,
        case.receiving,
        logit=case.logit,
        most=case.most,
        seed=settings.seed,
    )
    return CueTrial(
        effects,
        off_object(settings.masks, bench, np.sort(case.carrying), case.there),
    )
