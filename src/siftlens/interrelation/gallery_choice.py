"""Which images a person will look at: those at the ends for the heads that findings name, and some by chance."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pandas as pd
import xarray as xr

from siftlens.data import ImageSource, chosen
from siftlens.interrelation.gallery_budget import Head
from siftlens.keypoints import KeypointCache
from siftlens.patchmaps import Prepared, PrepareSettings, prepare_images

GALLERY = 12
_EXTREME = 8  # of these, images that named heads are most or least pulled on
_RANKS = 3  # of each end of a head: no further from the end than the head's own page names


def choose_images(
    arrays: xr.Dataset, images: pd.DataFrame, named: Sequence[Head], by_chance: Sequence[str]
) -> tuple[int, ...]:
    """Choose the images, each content once.

    Args:
        arrays: with `semantic_pull` and `semantic_pull_null` of every image.
        images: a row per image: identity, content.
        named: (layer, head) that the findings call out, the first most.
        by_chance: identities in an order that chance gave; they fill up.

    Returns:
        Places in `images`: for each named head the image it is most pulled on and the one it is least pulled on, then
        the next at the ends, then those by chance.
    """
    ends = [_ends(arrays, head) for head in named]
    extreme = [end[rank] for rank in range(_RANKS) for head in ends for end in head if rank < len(end)]
    wanted = set(by_chance)
    places: dict[str, int] = {}
    for place, identity in enumerate(images["identity"]):
        if identity in wanted:
            places.setdefault(identity, place)
    chance = [places[identity] for identity in by_chance if identity in places]
    contents = images["content"]
    first: dict[str, int] = {}
    for part, most in ((extreme, _EXTREME), (chance, GALLERY)):
        for place in part:
            if len(first) < most:
                first.setdefault(str(contents.iloc[place]), int(place))
    return tuple(first.values())


def _ends(arrays: xr.Dataset, head: Head) -> tuple[list[int], list[int]]:
    """Images by a head's pull beyond null 1, from the largest down and from the smallest up."""
    pull, null = (
        arrays[name].isel(layer=head[0], head=head[1]).to_numpy().astype(np.float64)
        for name in ("semantic_pull", "semantic_pull_null")
    )
    effect = pull - null
    order = np.argsort(effect, kind="stable")[: np.isfinite(effect).sum()]  # NaN comes last
    half = len(order) // 2
    return order[::-1][:half][:_RANKS].tolist(), order[:half][:_RANKS].tolist()


def prepared_again(
    source: ImageSource, images: pd.DataFrame, settings: PrepareSettings, cache: KeypointCache | None
) -> Iterator[Prepared]:
    """Prepare images that were read before; one that is gone or has changed since is left out.

    Args:
        source: all images.
        images: those wanted, in the order wanted: identity, content.
        settings: how they are prepared.
        cache: of keypoints.
    """
    wanted = dict(zip(images["identity"], images["content"], strict=True))
    found: dict[str, Prepared] = {}
    with closing(prepare_images(chosen(source, wanted), settings, workers=0, cache=cache)) as prepared:
        for image in prepared:
            if isinstance(image, Prepared) and image.content == wanted[image.identity]:
                found[image.identity] = image
    return (found[identity] for identity in wanted if identity in found)
