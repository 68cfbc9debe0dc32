"""Cues in words that the numbers bear out: what their patches are, where they lie, what their verdict means."""

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from siftlens.report.numbers import enumeration, number

MEANING = {
    "confirmed spurious": "The answer hangs on these patches, errors go with them, and evidence from outside says that "
    "they are not the object.",
    "harmful reliance": "The answer hangs on these patches, and errors go with them. The tool cannot know whether they "
    "are the object: you see whether they are.",
    "relied on": "The answer hangs on these patches. That errors go with them was not shown.",
    "associated": "They go with the class; that the answer hangs on them was not shown.",
    "global": "They go with the class, but it cannot be told whether the answer hangs on patches: they fill the "
    "images, or a property in which the images differ everywhere does much of what swapping them does.",
    "not associated": "On the images that test, they do not go with the class.",
}
_FLAT, _BUSY = 6, 30  # standard deviation of brightness within a patch, of 255
MIXED = 60  # distance of patches' mean colours from their average, of 255
_MOSTLY, _CENTRE, _CORNERS = 0.65, 0.4, 0.75  # shares of a cue, against 1/3, 1/9 and 4/9 by chance
_GREY, _DULL, _VIVID = 24, 60, 110  # difference of the largest and the smallest of red, green and blue
_GREYS = ((40, "black"), (90, "dark grey"), (165, "grey"), (225, "light grey"), (256, "white"))
_HUES = (
    *((15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (195, "turquoise")),
    *((255, "blue"), (290, "violet"), (335, "magenta"), (360, "red")),
)
_DARK = {"orange": "brown", "yellow": "olive"}  # what dark or dull hues are called


def percent(value: float, *, signed: bool = False) -> str:
    """A share as "62 %", to a decimal where it is below 1 %; "n/a" where it is not finite."""
    if not math.isfinite(value):
        return "n/a"
    return f"{number(100 * value, 1 if 0 < abs(value) < 0.0095 else 0, signed=signed)}\u00a0%"


def p_value(p: float) -> str:
    """P as "p < 0.001" or "p = 0.042"."""
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{number(p, 3)}"


def what_it_is(cue: Any, layer: int) -> str:
    """One sentence on the patches of a cue.

    Args:
        cue: a row of the cues.
        layer: whose tokens make words.
    """
    if cue.kind == "colour":
        return f"Patches {colours(cue)}."
    if cue.kind == "sift":
        return "Patches around keypoints that look alike to SIFT."
    return f"Patches that the model itself makes alike: after layer {layer}, their tokens fall together."


def words_of(cue: Any) -> str:
    """Which words of which codebook."""
    numbers = [str(int(word)) for word in cue.words]
    return f"{cue.kind} {'word' if len(numbers) == 1 else 'words'} {enumeration(numbers)}"


def colours(cue: Any) -> str:
    """What patches of colour words look like, after "patches"."""
    if not math.isfinite(cue.spread):
        return "of like colours"
    name = colour_name(cue.red, cue.green, cue.blue)
    mixed = "of several colours" if cue.spread > MIXED else f"that are {name} on average"
    return f"{mixed} and {texture(cue.texture)}"


def where_it_is(cue: Any, rows: int, cols: int) -> str:
    """One sentence on place, area and keypoints.

    Args:
        cue: a row of the cues.
        rows: of patches.
        cols: of patches.
    """
    told = f"They lie {place(np.reshape(np.asarray(cue.map, np.float64), (rows, cols)))}"
    if math.isfinite(cue.area):
        told += f" and cover {percent(cue.area)} of an image that has them"
    if cue.kind != "sift" and math.isfinite(cue.keypoints):
        elsewhere = percent(cue.keypoints_elsewhere)
        told += f"; {percent(cue.keypoints)} of them hold a keypoint, against {elsewhere} of other patches"
    return f"{told}."


def place(mass: Float[np.ndarray, "rows cols"]) -> str:
    """Where in the image a cue lies, from how often it is at each patch."""
    if not mass.sum() > 0:
        return "nowhere in the images that test"
    mass = mass / mass.sum()
    down, across = (_thirds(mass.sum(axis=axis)) for axis in (1, 0))
    thirds = np.add.reduceat(np.add.reduceat(mass, _cuts(len(mass)), axis=0), _cuts(mass.shape[1]), axis=1)
    if thirds.shape == (3, 3) and thirds[1, 1] >= _CENTRE:
        return "mostly in the centre"
    words = [
        word
        for names, shares in ((("top", "bottom"), down), (("left", "right"), across))
        for word, share in zip(names, shares, strict=True)
        if share >= _MOSTLY
    ]
    if words:
        return f"mostly {'at the ' if len(words) == 1 else ''}{' '.join(words)}"
    if thirds.shape == (3, 3) and thirds[::2, ::2].sum() >= _CORNERS:
        return "mostly in the corners"
    return "in no particular place"


def colour_name(red: float, green: float, blue: float) -> str:
    """A plain name of a colour, of 255; empty where it is not known."""
    if not math.isfinite(red + green + blue):
        return ""
    spread, mean = max(red, green, blue) - min(red, green, blue), (red + green + blue) / 3
    if spread < _GREY:
        return next(name for limit, name in _GREYS if mean < limit)
    hue, lightness, _ = colorsys.rgb_to_hls(red / 255, green / 255, blue / 255)
    name = next(name for limit, name in _HUES if 360 * hue <= limit)
    if name in _DARK and (spread < _VIVID or lightness < 0.35):
        return f"{'light ' if lightness > 0.6 else ''}{_DARK[name]}"
    shade = "dark " if lightness < 0.25 else "light " if lightness > 0.75 else ""
    return f"{shade}{'greyish ' if spread < _DULL else ''}{name}"


def texture(deviation: float) -> str:
    """How much brightness varies within a patch."""
    return "nearly flat" if deviation < _FLAT else "strongly textured" if deviation > _BUSY else "lightly textured"


def _cuts(length: int) -> list[int]:
    """Where thirds begin; as many as there are."""
    return sorted({math.ceil(length * third / 3 - 0.5) for third in range(3)})


def _thirds(mass: Float[np.ndarray, " place"]) -> Sequence[float]:
    """Share of the first third and of the last."""
    centres = (np.arange(len(mass)) + 0.5) / len(mass)
    return float(mass[centres < 1 / 3].sum()), float(mass[centres > 2 / 3].sum())
