"""Numbers as they are printed: signs, decimals that the interval supports, lists of layers."""

import math
from collections.abc import Sequence

MINUS = "−"


def decimals(*values: float) -> int:
    """Decimals, 2 or 3, that keep the smallest of `values` (an effect, the ends of its interval) apart from 0."""
    return 3 if any(0 < abs(value) < 0.02 for value in values) else 2


def number(value: float, places: int = 2, *, signed: bool = False) -> str:
    """`value` with a real minus sign, and a plus sign if `signed`; "n/a" where it is not finite."""
    if not math.isfinite(value):
        return "n/a"
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return text
    return f"{MINUS if value < 0 else '+' if signed else ''}{text}"


def count(value: int) -> str:
    """`value` with a thin space between thousands."""
    return f"{value:,}".replace(",", "\u2009")


def counted(value: int, noun: str) -> str:
    """`value` with its noun, the plural with an s: "1 image", "307 images"."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def enumeration(items: Sequence[str]) -> str:
    """`items` as "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def layer_list(layers: Sequence[int]) -> str:
    """Layers as "layer 3" or "layers 2 to 4 and 7"."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words: list[str] = []
    for run in runs:
        words += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(layer) for layer in run]
    return f"{'layer' if len(layers) == 1 else 'layers'} {enumeration(words)}"
