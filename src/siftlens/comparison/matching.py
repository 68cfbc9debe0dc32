"""Which images the studies have in common, and whether their figures mean the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from siftlens.core import InputError, StudyError
from siftlens.interrelation.results import Result

FEWEST = 8  # images; Student's t is no help with fewer
_SHARE = 0.5  # of the smallest study's images
_VIEW = ("height", "width", "resize", "resize_to", "interpolation")
_MEANING = ("measure", "weighting", "exclude_outliers")


@dataclass(frozen=True)
class Match:
    """The images that all studies have.

    Attributes:
        by: what they were recognised by.
        rows: for each study, where they stand in it; all in the same order.
    """

    by: Literal["content", "name"]
    rows: tuple[Int64[np.ndarray, " image"], ...]


def match(studies: Mapping[str, Result]) -> Match:
    """Finds the images that all studies have. Copies of an image within a study count once.

    Images are recognised by the pixels that the model saw. Where models resize or crop differently no
    pixels agree, and they are recognised by their name.

    Args:
        studies: by name.

    Raises:
        InputError: too few images in common.
        StudyError: a study's tables are not of the same images.
    """
    for name, result in studies.items():
        if list(result.images["identity"]) != list(result.arrays["image"].values):
            raise StudyError(f"{name}: images.parquet and arrays.nc are of different images; run the analysis again")
    by: Literal["content", "name"] = "content" if len({_view(result) for result in studies.values()}) == 1 else "name"
    keys = {name: list(result.images["content" if by == "content" else "identity"]) for name, result in studies.items()}
    places = {name: _first_places(found) for name, found in keys.items()}
    common = [key for key in next(iter(places.values())) if all(key in of for of in places.values())]
    _expect_enough(len(common), {name: len(of) for name, of in places.items()}, by)
    return Match(by, tuple(np.array([of[key] for key in common], np.int64) for of in places.values()))


def expect_same_meaning(studies: Mapping[str, Result]) -> None:
    """Refuses studies whose figures are of different things.

    Raises:
        InputError: another measure, weighting or treatment of outliers.
    """
    reference, *others = studies.items()
    for name, result in others:
        for setting in _MEANING:
            own, first = (one.run.settings.get(setting) for one in (result, reference[1]))
            if own != first:
                raise InputError(
                    f"expected studies with the same settings, but {setting} is {own!r} in {name} and {first!r} in "
                    f"{reference[0]}; analyse one of them again with the other's {setting}"
                )


def shares_null(one: Result, other: Result) -> bool:
    """Whether both were measured against the same images' maps: the same seed on the same list of images."""
    mine, theirs = ([run.settings.get(key) for key in ("seed", "names")] for run in (one.run, other.run))
    return mine == theirs


def _view(result: Result) -> tuple[object, ...]:
    return tuple(result.run.model.get(key) for key in _VIEW)


def _first_places(keys: Sequence[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, place)
    return places


def _expect_enough(common: int, sizes: Mapping[str, int], by: str) -> None:
    smallest = min(sizes.values())
    if common >= max(FEWEST, _SHARE * smallest):
        return
    told = ", ".join(f"{size} in {name}" for name, size in sizes.items())
    wanted = f"at least {FEWEST}" if smallest < FEWEST / _SHARE else "at least half of the smallest study"
    raise InputError(
        f"expected studies of the same images, but they have {common} images in common ({told}; matched by {by}), "
        f"{wanted} needed; analyse the same images with each model"
    )
