"""The tables of an audit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from siftlens.auditing.candidates import Candidate
from siftlens.auditing.causal import Effects
from siftlens.auditing.inference import interval
from siftlens.auditing.sample import Sample
from siftlens.auditing.verdicts import VERDICTS, Evidence, Harm
from siftlens.core import PatchGrid

RELIED_ON = ("relied on", "harmful reliance", "confirmed spurious")
HARMFUL = RELIED_ON[1:]
_FIRST = ["cue", "verdict", "label", "kind", "dependence", "p", "n", "place"]  # there are even where no cue is


def cue_row(
    candidate: Candidate,
    label: str,
    effects: Effects,
    median: float,
    harm: Harm,
    evidence: Evidence,
    z: float,
    there: Bool[np.ndarray, "image patch"],
    grid: PatchGrid,
) -> dict[str, Any]:
    """One cue as a row.

    Args:
        candidate: the cue.
        label: its class.
        effects: what was measured.
        median: margin of the class, which effects are shares of.
        harm: errors with and without it.
        evidence: what the verdict rests on.
        z: of the association on the confirm half.
        there: where it is, in the images of the class that carry it.
        grid: the patches.
    """
    row: dict[str, Any] = {
        "label": label,
        "kind": candidate.kind,
        "words": list(candidate.words),
        "threshold": candidate.threshold,
        "dependence": evidence.dependence,
        "p": max(evidence.p_association, evidence.p_removal, evidence.p_swap),
        "n": len(effects.images),
        "area": float(there.mean()) if len(there) else float("nan"),
        "association": z,
        "p_association": evidence.p_association,
        "attributed": candidate.attributed,
        "matched_use": candidate.matched_use,
        "median_margin": median,
    }
    for name, values in (("removal", effects.removal), ("swap", effects.swap), ("transplant", effects.transplant)):
        row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(values[np.isfinite(values)])
    row |= {"p_removal": evidence.p_removal, "p_swap": evidence.p_swap, "explained": evidence.explained}
    row |= {name: getattr(harm, name) for name in ("false_present", "false_absent", "missed_present", "missed_absent")}
    row |= {"p_harm": evidence.p_harm}
    row |= {name: np.nan if (v := getattr(evidence, name)) is None else v for name in ("off_object", "lift_elsewhere")}
    centres = grid.centres() / (grid.width, grid.height)
    weight = there.mean(axis=0) if len(there) else np.zeros(grid.patches)
    x, y = centres.T @ weight / weight.sum() if weight.any() else (np.nan, np.nan)
    return row | {"x": float(x), "y": float(y)}


def ranked(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The cues, the strongest claims first, and of equal claims the largest dependence."""
    order = sorted(rows, key=lambda row: (-VERDICTS.index(row["verdict"]), -row["dependence"]))
    seen: dict[str, int] = {}
    for row in order:
        seen[row["label"]] = seen.get(row["label"], 0) + 1
        row["cue"] = f"{row['label']} {seen[row['label']]} ({row['kind']})"
    if not order:
        return pd.DataFrame(columns=_FIRST)
    table = pd.DataFrame(order)
    return table[[*_FIRST, *(name for name in table.columns if name not in _FIRST)]]


def image_table(
    sample: Sample,
    answers: Int[np.ndarray, " image"],
    margins: Float[np.ndarray, " image"],
    rows: Sequence[dict[str, Any]],
    there: Sequence[Bool[np.ndarray, "image patch"]],
) -> pd.DataFrame:
    """A row per image: what it is taken for, how much of it is cue, and how much that speaks against its label.

    Both count harmful cues alone. The risk is the summed dependence on cues of other classes that it carries and on
    cues of its own that it lacks.
    """
    area, risk = np.zeros(len(margins)), np.zeros(len(margins))
    names = np.array([*sample.names, ""])
    for row in rows:
        if row["verdict"] in HARMFUL:
            share = there[row["place"]].mean(axis=1)
            area = np.maximum(area, share)
            risk += row["dependence"] * ((share >= row["threshold"]) != (names[sample.labels] == row["label"]))
    return pd.DataFrame(
        {
            "identity": [ref.identity for ref in sample.refs],
            "label": names[sample.labels],
            "predicted": names[answers],
            "half": np.where(sample.discover, "discover", "confirm"),
            "margin": margins,
            "cue_share": area,
            "risk": risk,
        }
    )
