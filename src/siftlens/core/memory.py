"""What glibc does with memory that was freed; other C libraries are left alone."""

import ctypes
import sys
from typing import Any

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt, in bytes. What is free beyond the first goes back, so that one huge
# picture is not held for good; the second is the greatest that there is.
_TRIM, _MMAP = (-1, 2**28), (-3, 2**25)


def give_back_memory() -> None:
    """Return freed memory to the system: between live blocks it grows batch by batch."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def keep_memory() -> None:
    """Keep up to 256 MB of freed memory for what is asked for next: to take and zero it anew costs much of the time."""
    if mallopt := _glibc("mallopt"):
        for parameter, value in (_TRIM, _MMAP):
            mallopt(parameter, value)


def _glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
