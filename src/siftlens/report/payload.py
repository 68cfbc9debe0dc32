"""What the report's figures draw: plain JSON values computed from the finished results."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from siftlens.interrelation.inference import RELEVANT
from siftlens.interrelation.results import Result
from siftlens.patchmaps import LEVELS
from siftlens.report.panels import Panel, panel
from siftlens.report.vocabulary import RIVALS, TESTED

DIGITS = 4  # significant digits of every number in the file
MAIN = TESTED[0]  # the pull toward keypoints
EXTREMES = 3  # images named at each end, per head
GRIDS = (
    "value low high null effect p q mirror_null mirror_effect mirror_low mirror_high".split()  # noqa: SIM905
)

Json = Any


@dataclass(frozen=True)
class Levels:
    """Attention between levels, log2 of the share over the even share.

    Attributes:
        columns: key levels.
        rows: query levels, then "any patch" (attention received) and, with one, "class token".
        n: patches of each level, over all images.
        lift: (layer, heads + 1, row, column), the last head the mean.
        low: lower end of the interval; None where there is none.
        high: upper end.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    n: list[int]
    lift: Json
    low: Json
    high: Json


def levels_of(result: Result) -> Levels:
    """The level-to-level matrices, with the received and the class token's rows below."""
    arrays, tables = result.arrays, []
    rows = [*LEVELS, "any patch"] + (["class token"] if "cls_level_lift" in arrays else [])
    for part, received in (("", "value"), ("_low", "low"), ("_high", "high")):
        matrix = np.asarray(arrays[f"level_lift{part}"].transpose("layer", "head", "query_level", "key_level"), float)
        lift = [matrix, _received(result, received, matrix.shape[:2])[:, :, None]]
        if "cls_level_lift" in arrays:
            row = arrays.get(f"cls_level_lift{part}", xr.full_like(arrays["cls_level_lift"], np.nan))
            lift.append(np.asarray(row.transpose("layer", "head", "key_level"), float)[:, :, None])
        stacked = np.concatenate(lift, axis=2)
        with_mean = np.concatenate([stacked, stacked.mean(axis=1, keepdims=True)], axis=1)
        tables.append(plain(with_mean))
    n = [int(count) for count in arrays["level_n"].values]
    return Levels(LEVELS, tuple(rows), n, *tables)


def _received(result: Result, column: str, shape: tuple[int, ...]) -> np.ndarray:
    table = result.heads.set_index(["statistic", "layer", "head"])[column].sort_index()
    known = table.index.get_level_values(0).unique()
    levels = [f"received_level_{level}" for level in range(len(LEVELS))]
    nothing = np.full(shape, np.nan)
    return np.stack([np.asarray(table[k].unstack(), float) if k in known else nothing for k in levels], axis=2)


def panel_json(panel: Panel) -> dict[str, Json]:
    """One panel as the figures read it."""
    statistic = {name: value for name, value in asdict(panel.statistic).items() if name != "root"}
    least = 2 * RELEVANT if panel.statistic.tested or panel.statistic in RIVALS else 0.0
    grids = {name: plain(getattr(panel, name)) for name in GRIDS if np.isfinite(getattr(panel, name)).any()}
    return {
        **statistic,
        "n": panel.n.astype(int).tolist(),
        "rival": panel.statistic in RIVALS,
        "reach": plain(_reach(panel.shown, least)),
        "verdicts": panel.verdicts.tolist(),
        **grids,
    }


def groups_json(heads: pd.DataFrame | None) -> Json:
    """The main statistic's heads in every group of images, on one scale; None where images were not grouped."""
    if heads is None:
        return None
    parts = {str(group): panel(rows, rows.iloc[:0], MAIN) for group, rows in heads.groupby("group", sort=True)}
    known = {group: part for group, part in parts.items() if part is not None}
    if not known:
        return None
    shown = np.concatenate([part.shown[:, :-1] for part in known.values()])
    reach = plain(_reach(shown, 2 * RELEVANT))
    return [panel_json(part) | {"group": group or "no folder", "reach": reach} for group, part in known.items()]


def extremes(arrays: xr.Dataset, names: Sequence[str]) -> Json:
    """For each layer and head (the mean last): images of largest and of smallest pull beyond the null, with it."""
    if "semantic_pull" not in arrays or "semantic_pull_null" not in arrays:
        return None
    effect = (arrays["semantic_pull"] - arrays["semantic_pull_null"]).transpose("layer", "head", "image")
    values = np.asarray(effect, np.float64)
    values = np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1)
    used: dict[int, int] = {}

    def ends(of: np.ndarray) -> dict[str, Json]:
        order = np.argsort(of, kind="stable")[: np.isfinite(of).sum()]  # NaN comes last
        shown = min(EXTREMES, len(order) // 2)
        named = {"most": order[::-1][:shown], "least": order[:shown]}
        return {
            end: [[used.setdefault(int(i), len(used)), plain(float(of[i]))] for i in indices]
            for end, indices in named.items()
        }

    cells = [[ends(of) for of in by_head] for by_head in values]
    return {"names": [names[i] for i in used], "cells": cells}


def plain(values: np.ndarray | float) -> Json:
    """Nested lists, numbers to `DIGITS` significant digits, None where not finite."""

    def rounded(value: Json) -> Json:
        if isinstance(value, list):
            return [rounded(part) for part in value]
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None

    return rounded(np.asarray(values, np.float64).tolist())


def as_script(payload: Mapping[str, Json]) -> str:
    """JSON that no text inside can turn into markup: <, > and & only as escapes."""
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _reach(shown: np.ndarray, least: float) -> float:
    """End of a colour scale: the largest magnitude, rounded up; at least `least`, so that what is tiny looks tiny."""
    finite = np.abs(shown[np.isfinite(shown)])
    largest = max(least, float(finite.max(initial=0)))
    if not largest:
        return 1.0
    step = 10.0 ** math.floor(math.log10(largest))
    return next(step * k for k in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * k >= largest * 0.9999)
