"""Errors and geometry: what every other part builds on."""

from siftlens.core.errors import (
    TOLD_REASONS,
    CaptureError,
    InputError,
    ModelError,
    NothingReadableError,
    SiftlensError,
    StudyError,
    one_line,
)
from siftlens.core.grid import PatchGrid, TokenLayout
from siftlens.core.values import expect_whole, is_real, is_whole, keep_flags, keep_whole

__all__ = [
    "TOLD_REASONS",
    "CaptureError",
    "InputError",
    "ModelError",
    "NothingReadableError",
    "PatchGrid",
    "SiftlensError",
    "StudyError",
    "TokenLayout",
    "expect_whole",
    "is_real",
    "is_whole",
    "keep_flags",
    "keep_whole",
    "one_line",
]
