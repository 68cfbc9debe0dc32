"""One number per image and layer: what is compared."""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from siftlens.core import StudyError
from siftlens.interrelation.results import Result

TESTED = ("semantic_pull", "partial_pull", "assortativity", "cls_pull")
DISTANCE = "root_mean_squared_distance"
_RIVALS = ("gradient_pull", "centre_pull", "fast_pull", "orb_pull")
_DESCRIBED = ("class_mass", "register_mass", "entropy", DISTANCE, *_RIVALS)
_SOURCE = {DISTANCE: "mean_squared_distance"}  # in arrays.nc
_SAME_TOKENS = ("class_mass", "register_mass", "entropy")  # an even share depends on the number of tokens
_SAME_SIZE = (DISTANCE,)  # px of the model's input


def comparable(results: Sequence[Result]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The statistics that can be compared, and sentences about those that cannot.

    Args:
        results: the studies.
    """
    found, notes = [], []
    models = [result.run.model for result in results]
    tokens = len({tuple(model.get(key) for key in ("rows", "cols", "class_tokens", "registers")) for model in models})
    sizes = len({(model.get("height"), model.get("width")) for model in models})
    for name in (*TESTED, *_DESCRIBED):
        present = [_SOURCE.get(name, name) in result.arrays for result in results]
        if not any(present):
            continue
        printed = name.replace("_", " ").replace("cls", "class token's")
        if not all(present):
            notes.append(f"Not compared: {printed}, which some of the studies lack.")
        elif name in _SAME_TOKENS and tokens > 1:
            notes.append(f"Not compared: {printed}, as the models have different numbers of tokens.")
        elif name in _SAME_SIZE and sizes > 1:
            notes.append(f"Not compared: {printed}, in pixels of inputs of different sizes.")
        else:
            found.append(name)
    return tuple(found), tuple(notes)


def per_image(result: Result, statistic: str, rows: Int64[np.ndarray, " image"]) -> Float64[np.ndarray, "image layer"]:
    """Mean over heads of an image's effect beyond null 1, or of its value where the statistic has no null.

    Heads without a value are left out; NaN where no head has one.

    Args:
        result: a study.
        statistic: one that `comparable` names.
        rows: the images.

    Raises:
        StudyError: the arrays on disk are damaged.
    """
    values = _read(result, _SOURCE.get(statistic, statistic))[rows]
    if statistic in TESTED:
        values = values - _read(result, f"{statistic}_null")[rows]
    elif statistic == DISTANCE:
        values = np.sqrt(values)
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=2)
    return np.where(known.any(axis=2), total / np.maximum(known.sum(axis=2), 1), np.nan)


def unit_of(result: Result, statistic: str) -> str:
    """Unit of value and difference."""
    if statistic == DISTANCE:
        return "px"
    return str(result.heads.loc[result.heads["statistic"] == statistic, "unit"].iloc[0])


def _read(result: Result, variable: str) -> Float64[np.ndarray, "image layer head"]:
    try:
        return result.arrays[variable].transpose("image", "layer", "head").to_numpy().astype(np.float64)
    except (OSError, KeyError, zlib.error) as error:
        where = result.arrays.encoding.get("source", "the study's arrays")
        raise StudyError(f"{variable} in {where} cannot be read; copy it again, or run the analysis again") from error
