"""What backends say when something cannot be had, in one line."""

from collections.abc import Iterable
from difflib import get_close_matches

from siftlens.core import ModelError


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name where it has none; without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def unknown_model(backend: str, name: str, known: Iterable[str]) -> ModelError:
    """The error for a name that the backend does not have, with the names nearest to it."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(f'{backend}/{match}' for match in close)}?" if close else "check its name"
    return ModelError(f"{backend} has no model {name!r}; {advice}")


def not_to_be_had(spec: str, error: Exception) -> ModelError:
    """The error for pretrained weights that could not be read or downloaded."""
    return ModelError(
        f"the pretrained weights of {spec} cannot be had ({first_line(error)}); "
        "give --weights FILE or --random-init, or connect to the network"
    )


def expect_whole_patches(spec: str, size: tuple[int, int], patch: int | tuple[int, int]) -> None:
    """Refuse an input whose last pixels would be in no patch.

    Raises:
        ModelError: names the nearest size that does.
    """
    sides = (patch, patch) if isinstance(patch, int) else patch
    if any(length % side for length, side in zip(size, sides, strict=True)):
        near = [max(side, round(length / side) * side) for length, side in zip(size, sides, strict=True)]
        raise ModelError(
            f"{spec} takes sizes that are multiples of its patches of {sides[0]}x{sides[1]} px, "
            f"got {size[0]}x{size[1]}; the nearest is {near[0]}x{near[1]}"
        )
