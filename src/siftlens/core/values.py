"""What may stand for a number, where the caller has no type checker."""

from numbers import Integral, Real
from typing import Any

from siftlens.core.errors import InputError


def is_whole(value: Any, *, least: int) -> bool:
    """Whether the value is a whole number, Python's own or NumPy's, of at least so much."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def expect_whole(name: str, value: Any, *, least: int) -> int:
    """The value of an argument that must be a whole number, as Python's own: a record holds no others.

    Raises:
        InputError: it is not, or less than the least.
    """
    if not is_whole(value, least=least):
        raise InputError(f"{name} must be a whole number, at least {least}, got {value!r}")
    return int(value)


def keep_whole(owner: object, *names: str, least: int) -> None:
    """Hold attributes of a frozen dataclass to `expect_whole`.

    Raises:
        InputError: one is no whole number, or less than the least.
    """
    for name in names:
        object.__setattr__(owner, name, expect_whole(name, getattr(owner, name), least=least))


def keep_flags(owner: object, *names: str) -> None:
    """Check that attributes are True or False.

    Raises:
        InputError: one is not.
    """
    for name in names:
        if not isinstance(value := getattr(owner, name), bool):
            raise InputError(f"{name} must be True or False, got {value!r}")


def is_real(value: Any) -> bool:
    """Whether the value is a real number, Python's own or NumPy's; NaN and infinity are."""
    return not isinstance(value, bool) and isinstance(value, Real)
