"""From what was measured to what may be said of each cue."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from siftlens.auditing.candidates import Candidate
from siftlens.auditing.causal import Effects
from siftlens.auditing.inference import association_p, effects_p
from siftlens.auditing.outside import Elsewhere
from siftlens.auditing.sample import Sample
from siftlens.auditing.sight import Seen
from siftlens.auditing.tables import cue_row
from siftlens.auditing.trials import CueTrial
from siftlens.auditing.verdicts import Evidence, harm_of, verdict_of
from siftlens.core import PatchGrid

_TESTABLE = 0.5  # share of the images with a cue that must leave room for a control


def claims(
    sample: Sample,
    seen: Seen,
    cues: Sequence[Candidate],
    there: Sequence[Bool[np.ndarray, "image patch"]],
    trials: Sequence[CueTrial],
    elsewhere: Elsewhere | None,
    properties: pd.DataFrame,
    medians: Float[np.ndarray, " class"],
    grid: PatchGrid,
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each cue, with its verdict.

    Args:
        sample: the images.
        seen: what the model says of them.
        cues: that were tried.
        there: where each is.
        trials: of each.
        elsewhere: what is in another environment; None without one.
        properties: of whole images, as `screen` has them.
        medians: margin of each class.
        grid: the patches.
        seed: of the null draws.
    """
    if not cues:
        return []
    confirm, effects = ~sample.discover, [trial.effects for trial in trials]
    shares = np.stack([place[confirm].mean(axis=1) for place in there], axis=1)
    classes = np.array([cue.label for cue in cues])
    z, p_association = association_p(shares, sample.labels[confirm], classes, seed)
    p_removal = effects_p([(e.images, e.removal) for e in effects], len(sample.refs), seed)
    p_swap = effects_p(
        [(e.images[known], e.swap[known]) for e in effects for known in [np.isfinite(e.swap)]],
        len(sample.refs),
        seed,
    )
    rows = []
    for i, (cue, place, trial) in enumerate(zip(cues, there, trials, strict=True)):
        effect, median, label = trial.effects, float(medians[cue.label]), sample.names[cue.label]
        carries = cue.carried(place)
        harm = harm_of(carries[confirm], sample.labels[confirm], seen.answers[confirm], cue.label)
        mine = confirm & (sample.labels == cue.label) & carries
        evidence = Evidence(
            p_association=float(p_association[i]),
            p_removal=float(p_removal[i]),
            p_swap=float(p_swap[i]),
            dependence=_weaker(effect) / median,
            p_harm=min(1.0, harm.p * len(cues)),
            off_object=trial.off_object,
            lift_elsewhere=elsewhere.lift(cue, label) if elsewhere else None,
            explained=_explained(properties, label, effect, median),
            has_control=effect.room >= _TESTABLE,
        )
        row = cue_row(cue, label, effect, median, harm, evidence, float(z[i]), place[mine], grid)
        rows.append(row | {"verdict": verdict_of(evidence), "place": i})
    return rows


def _explained(properties: pd.DataFrame, label: str, effect: Effects, median: float) -> float:
    """What the strongest property that is relied on, and of whole images, does for a class, over swapping the cue."""
    relied = properties[
        (properties["label"] == label) & (properties["verdict"] == "relied on") & properties["everywhere"].astype(bool)
    ]
    known = effect.swap[np.isfinite(effect.swap)]
    if relied.empty or not len(known):
        return 0.0
    return float(relied["change"].max()) * median / max(float(known.mean()), 1e-9)


def _weaker(effect: Effects) -> float:
    """The smaller of the two mean effects; 0 where one is not known."""
    known = effect.swap[np.isfinite(effect.swap)]
    return min(float(effect.removal.mean()), float(known.mean())) if len(known) > 1 else 0.0
