"""The artefacts that are planted into composites: each changes an image, and says which pixels carry it."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

CUES = ("scene", "glyph", "patch", "tint", "blur")
_SIDE = 0.25  # of the image: with patches of an eighth or less, at least one lies wholly inside
_MARGIN = 0.06  # of the image, the farthest from a corner
_GLYPH = ("##.#.", "#..##", ".##..", "#.#.#", ".#.##")
_COLOUR = (196, 44, 150)  # rare in photographs
_TINT = (1.12, 1.0, 0.78)
_BLUR = 1.2 / 96  # standard deviation, of the image's side

Pixels = UInt8[np.ndarray, "height width 3"]
Map = Bool[np.ndarray, "height width"]


def plant(pixels: Pixels, cue: str, random: np.random.Generator) -> tuple[Pixels, Map]:
    """Plant an artefact into an image.

    glyph: black and white squares, always the same, near a corner, which SIFT sees; patch: one flat colour at such a
    place, of which SIFT sees hardly the border; tint: red up and blue down over the whole image; blur: likewise.

    Args:
        pixels: the image.
        cue: one of `CUES`, but not "scene".
        random: tells where and how strong.

    Returns:
        The image with the artefact, and the pixels that carry it: none for tint and blur, which no place carries.
    """
    height, width = pixels.shape[:2]
    nowhere = np.zeros((height, width), bool)
    if cue == "tint":
        gains = 1 + (np.array(_TINT) - 1) * random.uniform(0.8, 1.2)
        return np.clip(np.rint(pixels * gains), 0, 255).astype(np.uint8), nowhere
    if cue == "blur":
        radius = _BLUR * max(height, width) * random.uniform(0.8, 1.2)
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius))), nowhere
    side = round(_SIDE * min(height, width))
    offsets = random.integers(0, max(1, round(_MARGIN * min(height, width))) + 1, 2)
    at_bottom, at_right = random.integers(0, 2, 2)
    top = int(height - side - offsets[0] if at_bottom else offsets[0])
    left = int(width - side - offsets[1] if at_right else offsets[1])
    planted = pixels.copy()
    planted[top : top + side, left : left + side] = _squares(side) if cue == "glyph" else _flat(side, random)
    nowhere[top : top + side, left : left + side] = True
    return planted, nowhere


def _squares(side: int) -> UInt8[np.ndarray, "side side 3"]:
    place = np.arange(side) * len(_GLYPH) // side
    light = np.array([[cell == "#" for cell in line] for line in _GLYPH])[place][:, place]
    return np.repeat(np.where(light, 230, 25).astype(np.uint8)[:, :, None], 3, axis=2)


def _flat(side: int, random: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    colour = np.array(_COLOUR) + random.integers(-8, 9, 3)
    return np.broadcast_to(colour.astype(np.uint8), (side, side, 3))
