"""Geometry: pixels to patches to tokens.

The image frame is continuous (x, y) in pixels of the tensor that the model sees. Its origin is the *outer*
top-left corner of the top-left pixel, so a pixel's centre lies at +0.5. Patches and tokens are row-major.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from siftlens.core.errors import InputError
from siftlens.core.values import keep_whole


@dataclass(frozen=True)
class PatchGrid:
    """How an image is cut into patches.

    Args:
        rows: patches from top to bottom.
        cols: patches from left to right.
        patch_height: height of one patch, px.
        patch_width: width of one patch, px.

    Raises:
        InputError: a number is not a positive integer.
    """

    rows: int
    cols: int
    patch_height: int
    patch_width: int

    def __post_init__(self) -> None:
        keep_whole(self, "rows", "cols", "patch_height", "patch_width", least=1)

    @property
    def patches(self) -> int:
        """Number of patches, N."""
        return self.rows * self.cols

    @property
    def height(self) -> int:
        """Height of the image that the grid covers, px."""
        return self.rows * self.patch_height

    @property
    def width(self) -> int:
        """Width of the image that the grid covers, px."""
        return self.cols * self.patch_width

    def expect_covers(self, height: int, width: int) -> None:
        """Refuse images of another size.

        Args:
            height: of the images, px.
            width: of the images, px.

        Raises:
            InputError: the grid covers more, or leaves more than an incomplete patch at the lower and right border,
                which a convolution may leave unseen.
        """
        if not (0 <= height - self.height < self.patch_height and 0 <= width - self.width < self.patch_width):
            raise InputError(
                f"the grid covers {self.width}x{self.height} px, but the model sees {width}x{height} px; give the grid "
                "of this input size"
            )

    def locate(self, x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> Int[np.ndarray, " point"]:
        """Index of the patch that holds each point (x, y), px; -1 where the point lies outside the grid.

        A point on the border between two patches belongs to the right or lower one.
        """
        col = np.floor(np.asarray(x, np.float64) / self.patch_width).astype(np.int64)
        row = np.floor(np.asarray(y, np.float64) / self.patch_height).astype(np.int64)
        inside = (col >= 0) & (col < self.cols) & (row >= 0) & (row < self.rows)
        return np.where(inside, row * self.cols + col, -1)

    def centres(self) -> Float[np.ndarray, "patch 2"]:
        """Centre (x, y) of every patch, px, row-major."""
        y, x = np.mgrid[: self.rows, : self.cols].reshape(2, -1)
        return np.stack([(x + 0.5) * self.patch_width, (y + 0.5) * self.patch_height], axis=1)


@dataclass(frozen=True)
class TokenLayout:
    """What stands at which place of a model's token sequence: class tokens, registers, then the patches.

    Args:
        grid: the patches.
        class_tokens: leading class and distillation tokens.
        registers: register tokens, after the class tokens.
    """

    grid: PatchGrid
    class_tokens: int = 0
    registers: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.grid, PatchGrid):
            raise InputError(f"grid must be a PatchGrid, got {self.grid!r}")
        keep_whole(self, "class_tokens", "registers", least=0)

    @property
    def prefix(self) -> int:
        """Number of tokens before the first patch."""
        return self.class_tokens + self.registers

    @property
    def tokens(self) -> int:
        """Length of the sequence, T."""
        return self.prefix + self.grid.patches
