"""What the report's figures draw: plain JSON values computed from the finished results."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from siftlens.interrelation.inference import RELEVANT
from siftlens.interrelation.results import GalleryImage, Result
from siftlens.patchmaps import LEVELS
from siftlens.report.panels import Panel
from siftlens.report.vocabulary import RIVALS

DIGITS = 4  # significant digits of every number in the file
EXTREMES = 3  # images named at each end, per head
GRIDS = (
    "value low high null effect p q mirror_null mirror_effect mirror_low mirror_high mirror_p mirror_q".split()  # noqa: SIM905
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


def gallery_json(image: GalleryImage) -> dict[str, Json]:
    """One image with its overlays; attention as bytes in base64, 255 standing for `scale` (a share)."""
    height, width = image.pixels.shape[:2]
    rows, cols = image.concentration.shape
    attention = [("received", "Attention each patch receives", image.received, image.received_scale)]
    if image.cls_attention is not None and image.cls_scale is not None:
        attention.insert(0, ("class", "Attention of the class token", image.cls_attention, image.cls_scale))
    points = np.stack([image.keypoint_x, image.keypoint_y, image.keypoint_size], axis=1)
    return {
        "name": image.identity,
        "width": width,
        "height": height,
        "rows": rows,
        "cols": cols,
        "source": _picture(image.pixels),
        "points": np.round(points.astype(np.float64), 1).tolist(),
        "concentration": plain(image.concentration.ravel()),
        "attention": [
            {
                "key": key,
                "label": label,
                "bytes": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode(),
                "scale": plain(scale),
            }
            for key, label, values, scale in attention
        ],
    }


def _picture(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


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
