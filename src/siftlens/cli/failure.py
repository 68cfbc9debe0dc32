"""From what went wrong to one line and an exit code."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unicodedata import category

import typer

from siftlens.core import InputError, NothingReadableError, SiftlensError, one_line

NOTHING_READABLE, BAD_INPUT, INTERRUPTED = 1, 2, 130
_NO_HINT = ("resume", "remove", "another run")  # an error that says what to do about the state
_PRETRAINING = "state.safetensors"  # what a pre-training goes on from


@contextmanager
def reported(out: Path, *, resumes: bool = False) -> Iterator[None]:
    """Print warnings and expected errors as one line each on stderr, and exit with the error's code.

    Args:
        out: folder of the results, where an interrupted run is kept.
        resumes: whether the command has a --resume.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _expect_a_name(out)
            yield
    except SiftlensError as error:
        told = _line(error)
        hint = "" if not resumes or any(words in told for words in _NO_HINT) else _go_on(out)
        typer.echo(f"siftlens: error: {told}{hint}", err=True)
        raise typer.Exit(NOTHING_READABLE if isinstance(error, NothingReadableError) else BAD_INPUT) from error
    except KeyboardInterrupt as stop:
        typer.echo(f"\nsiftlens: stopped{_go_on(out) if resumes else ''}", err=True)
        raise typer.Exit(INTERRUPTED) from stop


def _line(told: object) -> str:
    return printable(one_line(told))


def printable(text: str) -> str:
    """Text fit for a terminal: what would move its cursor, ring or turn letters round is written out."""
    return "".join(
        repr(letter)[1:-1] if letter != "\n" and category(letter) in ("Cc", "Cf", "Cs") else letter for letter in text
    )


def _expect_a_name(out: Path) -> None:
    try:
        str(out).encode()
        out.exists()
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write to {out}: its name is not UTF-8; choose another") from error
    except OSError as error:  # a name too long
        raise InputError(f"cannot write to {out}: {one_line(error.strerror).lower()}; choose another") from error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"siftlens: warning: {_line(message)}", err=True)


def _go_on(out: Path) -> str:
    from siftlens.data import has_progress  # not at import: numpy takes a while

    partial = out.parent / f"{out.name}.partial"  # `with_name` raises where the folder is this one
    with suppress(OSError):  # a name too long
        if has_progress(out) or (out / _PRETRAINING).is_file():
            return f"; --resume goes on from the last state in {out}"
        if partial.is_dir():
            return f"; the same command goes on from {partial}"
    return ""
