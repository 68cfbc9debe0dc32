"""What a person wants to know when the run is over, in a few lines."""

from pathlib import Path

import pandas as pd

from siftlens.interrelation.inference import LEAST_IMAGES
from siftlens.study import Study

_SHOWN = 5
_FEW = 256  # images in the pool below which intervals are rough


def summary(study: Study, out: Path) -> str:
    """The run in a few lines: where the report is, n, and the largest effects as effects.

    Args:
        study: the finished study.
        out: its folder.
    """
    run = study.run
    lines = [f"report     {out / 'index.html'}", f"images     {run.images}" + _aside(study, out)]
    lines.append(f"keypoints  in {run.covered:.0%} of the patches, on average over images")
    if run.covered == 0:
        return "\n".join([*lines, "", "Not one image has a keypoint: nothing can be told of where attention goes."])
    lines += ["", *_effects(study.heads)]
    if run.pool < _FEW:
        behind = "one image stands" if run.pool == 1 else f"{run.pool} images stand"
        lines += ["", f"Only {behind} behind the null: read this as a preview."]
    return "\n".join(lines)


def _aside(study: Study, out: Path) -> str:
    count = study.run.quarantined
    return f", and {count} set aside (reasons in {out / 'quarantine.csv'})" if count else ""


def _effects(heads: pd.DataFrame) -> list[str]:
    pull = heads[heads["statistic"] == "semantic_pull"].sort_values("effect", key=abs, ascending=False)
    clear = pull[pull["significant"]]
    relevant = clear[clear["relevant"]]
    small = len(clear) - len(relevant)
    if pull["effect"].isna().all():
        return ["No effect can be told: without a second image there is no null."]
    if pull["p"].isna().all():
        return [f"No effect can be told from chance: that takes {LEAST_IMAGES} images or more."]
    if relevant.empty:
        lines = [
            f"None of {len(pull)} heads pulls toward or away from keypoints by 0.1 SD or more (q < 0.05).",
            f"The largest effect: {_effect(pull.iloc[0], digits=3)}; q = {pull.iloc[0]['q']:.2g}",
        ]
    else:
        verb = "pulls" if len(relevant) == 1 else "pull"
        lines = [
            f"{len(relevant)} of {len(pull)} heads {verb} toward (+) or away from (-) keypoints by 0.1 SD or more,",
            "beyond other images' keypoints (q < 0.05). The largest, with 95 % intervals:",
            *(f"  {_effect(row)}" for _, row in relevant.head(_SHOWN).iterrows()),
        ]
    lines.append(f"Significant, but too small to matter: {small} {'head' if small == 1 else 'heads'}.")
    return lines


def _effect(row: pd.Series, digits: int = 2) -> str:
    effect, low, high = (f"{row[name]:+.{digits}f}" for name in ("effect", "low", "high"))
    return f"layer {row['layer']}, head {row['head']}: {effect} SD [{low}, {high}]"
