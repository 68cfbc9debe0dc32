"""Drawn objects on textures that come with scikit-image: composites that need no data."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from siftlens.core import InputError

_GAINS = (0.75, 1.1)  # of red, green and blue, drawn for every scene: its texture tells it, not its colour
_CROP = (0.25, 0.6)  # of a texture's shorter side
_TRAINED = 0.7  # of a texture's width; the rest is held out
_STRIPE = 0.12  # of the object
_FINER = 4  # drawn so many times larger, for smooth borders


class DrawnMaterial:
    """Striped ellipses and plain stars of any colours, on grass and gravel.

    Raises:
        InputError: scikit-image, which brings the textures, is not installed.
    """

    classes = ("ellipse", "star")
    scenes = ("grass", "gravel")

    def __init__(self) -> None:
        spec = find_spec("skimage")
        if spec is None or spec.origin is None:
            raise InputError("the textures come with scikit-image; install it: pip install 'siftlens[demo]'")
        folder = Path(spec.origin).parent / "data"
        self._textures = [Image.open(folder / f"{name}.png").convert("L") for name in self.scenes]

    def cutout(
        self, label: int, held_out: bool, longest: int, random: np.random.Generator
    ) -> UInt8[np.ndarray, "height width 4"]:
        """One shape; held-out ones are drawn alike."""
        del held_out
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        if label:
            points, turn = int(random.integers(4, 7)), random.uniform(0, 2 * np.pi)
            radius = np.where(np.cos(points * angle + turn) > 0, 1.0, random.uniform(0.35, 0.5))
            x, y = radius * np.cos(angle), radius * np.sin(angle)
        else:
            x, y = np.cos(angle), random.uniform(0.55, 0.9) * np.sin(angle)
        side = longest * _FINER
        outline = Image.new("L", (side, side))
        ImageDraw.Draw(outline).polygon(
            [((a + 1) / 2 * side, (b + 1) / 2 * side) for a, b in zip(x, y, strict=True)], 255
        )
        opacity = np.asarray(outline.resize((longest, longest), Image.Resampling.BOX))
        first, second = random.integers(40, 220, (2, 3))
        y, x = np.mgrid[:longest, :longest]
        turn, width = random.uniform(0, np.pi), _STRIPE * random.uniform(0.8, 1.2) * longest
        stripes = np.floor((x * np.cos(turn) + y * np.sin(turn)) / width) % 2 if label == 0 else np.zeros_like(x)
        colour = np.where(stripes[:, :, None] == 1, second, first) + random.normal(0, 6, (longest, longest, 3))
        return np.dstack([np.clip(colour, 0, 255).astype(np.uint8), opacity])

    def scene(
        self, scene: int, held_out: bool, size: int, random: np.random.Generator
    ) -> UInt8[np.ndarray, "size size 3"]:
        """A piece of a texture, in any colour."""
        texture = self._textures[scene]
        border = round(_TRAINED * texture.width)
        left, right = (border, texture.width) if held_out else (0, border)
        side = round(random.uniform(*_CROP) * (texture.width - border))
        x, y = int(random.integers(left, right - side + 1)), int(random.integers(texture.height - side + 1))
        piece = texture.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
        return np.clip(np.asarray(piece)[:, :, None] * random.uniform(*_GAINS, 3), 0, 255).astype(np.uint8)
