"""The ladder: what may be said of a cue, and what must hold for it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy import stats

VERDICTS = ("not associated", "global", "associated", "relied on", "harmful reliance", "confirmed spurious")
SIGNIFICANT = 0.05
RELEVANT = 0.05  # of the median margin
OFF_OBJECT = 0.75  # share of the cue's patches that must lie outside the object
EXPLAINED = 0.15  # of a cue's effect, from which a property of the whole image is enough to explain it
NO_LIFT = 0.6  # chance that an image of the class has more of the cue than another, below which it is gone


@dataclass(frozen=True)
class Harm:
    """Errors with and without the cue (confirm).

    Attributes:
        false_present: share of the other classes' images with the cue that are taken for the class; NaN without any.
        false_absent: the same without the cue.
        missed_present: share of the class's images with the cue that are taken for another class.
        missed_absent: the same without the cue.
        p: one-sided, the smaller of both comparisons (Fisher's exact test), doubled.
    """

    false_present: float
    false_absent: float
    missed_present: float
    missed_absent: float
    p: float


def harm_of(
    carries: Bool[np.ndarray, " image"],
    labels: Int[np.ndarray, " image"],
    answers: Int[np.ndarray, " image"],
    label: int,
) -> Harm:
    """Compare errors where the cue is present and where it is absent.

    Args:
        carries: whether each image carries the cue.
        labels: classes.
        answers: the model's; -1 for a class that no image is labelled with.
        label: the cue's class.
    """
    other, mine = labels != label, labels == label
    taken, missed = other & (answers == label), mine & (answers != label)
    p_false = _more(taken[other & carries], taken[other & ~carries])
    p_missed = _more(missed[mine & ~carries], missed[mine & carries])
    return Harm(
        _share(taken[other & carries]),
        _share(taken[other & ~carries]),
        _share(missed[mine & carries]),
        _share(missed[mine & ~carries]),
        min(1.0, 2 * min(p_false, p_missed)),
    )


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        p_association: adjusted, on images that found nothing.
        p_removal: adjusted.
        p_swap: adjusted.
        dependence: the smaller of both mean effects, over the class's median margin.
        p_harm: adjusted.
        off_object: share of the cue's patches outside the objects; None without masks.
        lift_elsewhere: chance that an image of the class has more of the cue than one of another class, in the second
            environment; None without one.
        has_control: whether the cue leaves room for a control.
        explained: what moving a property of the whole image does to the margin, over what swapping the cue does; the
            largest of the properties that are relied on and differ everywhere in the images, 0 for none.
    """

    p_association: float
    p_removal: float
    p_swap: float
    dependence: float
    p_harm: float
    off_object: float | None
    lift_elsewhere: float | None
    has_control: bool
    explained: float


def verdict_of(evidence: Evidence) -> str:
    """The highest rung that the evidence reaches.

    "global" where patches cannot be tested against others, or where a property of the whole image does 15 % as
    much or more: then nothing is claimed about patches.
    """
    if not evidence.p_association < SIGNIFICANT:
        return "not associated"
    if not evidence.has_control:
        return "global"
    caused = max(evidence.p_removal, evidence.p_swap) < SIGNIFICANT
    if not (caused and evidence.dependence >= RELEVANT):
        return "associated"
    if evidence.explained >= EXPLAINED:
        return "global"
    if not evidence.p_harm < SIGNIFICANT:
        return "relied on"
    off = evidence.off_object is not None and evidence.off_object >= OFF_OBJECT
    gone = evidence.lift_elsewhere is not None and evidence.lift_elsewhere < NO_LIFT
    return "confirmed spurious" if off or gone else "harmful reliance"


def _share(values: Bool[np.ndarray, " image"]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _more(first: Bool[np.ndarray, " image"], second: Bool[np.ndarray, " other"]) -> float:
    """One-sided p that the first share is the larger one."""
    if not len(first) or not len(second):
        return 1.0
    table = [[first.sum(), (~first).sum()], [second.sum(), (~second).sum()]]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)
