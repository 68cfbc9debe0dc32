"""Errors and geometry: what every other part builds on."""

from siftlens.core.errors import (
    CaptureError,
    InputError,
    ModelError,
    NothingReadableError,
    SiftlensError,
    StudyError,
    one_line,
)
from siftlens.core.grid import PatchGrid, TokenLayout
from siftlens.core.values import is_real, is_whole

__all__ = [
    "CaptureError",
    "InputError",
    "ModelError",
    "NothingReadableError",
    "PatchGrid",
    "SiftlensError",
    "StudyError",
    "TokenLayout",
    "is_real",
    "is_whole",
    "one_line",
]
