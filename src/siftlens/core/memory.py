"""What glibc does with memory that was freed; other C libraries are left alone."""

import ctypes
import sys
from typing import Any

_TRIM, _MMAP = (-1, 2**31 - 1), (-3, 2**25)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of mallopt, at their greatest


def give_back_memory() -> None:
    """Return freed memory to the system: between live blocks it grows batch by batch."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def keep_memory() -> None:
    """Keep freed memory for what is asked for next: given back, taken and zeroed anew, it costs much of the time."""
    if mallopt := _glibc("mallopt"):
        for parameter, value in (_TRIM, _MMAP):
            mallopt(parameter, value)


def _glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
