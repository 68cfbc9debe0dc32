"""What can go wrong, as one family.

    SiftlensError
    ├── InputError            an argument, file or setting is not what was expected
    │   ├── ModelError        the model cannot be built, loaded or run
    │   └── StudyError        a saved study is missing, damaged or of another version
    ├── CaptureError          the model's attention cannot be read, or not all of it
    └── NothingReadableError  not one image of the input could be read

Every message says what was expected, what came, and what to do next, in one line.
"""

from collections.abc import Sequence

TOLD_REASONS = 5  # of the images that cannot be read, so many say why in an error


def one_line(told: object) -> str:
    """What a library's error says, for a message of ours."""
    return " ".join(str(told).split())


class SiftlensError(Exception):
    """Base of every error that siftlens raises on purpose."""


class InputError(SiftlensError, ValueError):
    """An argument, a file or a setting is not what was expected."""


class ModelError(InputError):
    """The model cannot be built, loaded or run."""


class StudyError(InputError):
    """A saved study is missing, damaged or of another version."""


class CaptureError(SiftlensError, RuntimeError):
    """The model's attention cannot be read, or not all of it."""


class NothingReadableError(SiftlensError):
    """Not one image of the input could be read."""

    @classmethod
    def of(cls, tried: int, reasons: Sequence[str], done: str = "read") -> "NothingReadableError":
        """Says so, and why: the run leaves no list of reasons.

        Args:
            tried: images.
            reasons: "name: reason" of some of them, of which the first few are told.
            done: what could not be done with them.
        """
        more = f"; and {tried - TOLD_REASONS} more" if tried > TOLD_REASONS else ""
        return cls(f"none of the {tried} images could be {done}; the first: {'; '.join(reasons[:TOLD_REASONS])}{more}")
