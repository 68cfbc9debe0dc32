"""Memory that was freed, given back."""

import ctypes
import sys
from contextlib import suppress


def give_back() -> None:
    """Return freed memory to the system where glibc keeps it: between live blocks it grows batch by batch."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
