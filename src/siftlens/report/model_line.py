"""The model that a page is about, in one line."""

from collections.abc import Mapping
from typing import Any


def model_line(model: Mapping[str, Any]) -> str:
    """Where it comes from, its weights, the size of its input, and its patches, as far as they are known.

    Args:
        model: what the record of a run says of it.
    """
    spec, weights = model.get("spec"), model.get("weights")
    parts = [str(spec)] if spec and spec != model.get("name") else []
    parts += [f"weights: {weights}"] if weights else []
    if {"height", "width"} <= set(model):
        parts.append(f"input {model['height']} × {model['width']} px")
    if {"rows", "cols"} <= set(model):
        parts.append(f"{model['rows']} × {model['cols']} patches")
    return " · ".join(parts)
