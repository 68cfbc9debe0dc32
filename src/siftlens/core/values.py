"""What may stand for a number, where the caller has no type checker."""

from numbers import Integral, Real
from typing import Any


def is_whole(value: Any, *, least: int) -> bool:
    """Whether the value is a whole number, Python's own or NumPy's, of at least so much."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def is_real(value: Any) -> bool:
    """Whether the value is a real number, Python's own or NumPy's; NaN and infinity are."""
    return not isinstance(value, bool) and isinstance(value, Real)
