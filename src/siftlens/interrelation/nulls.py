"""Null maps: what attention would be read through if the keypoints were not this image's, or not where they are.

Source: METHOD section 5. Null 1 puts the maps of other images in place of the image's own: the average layout stays,
the tie to this image goes. Null 2 mirrors the own map: levels, smoothness and distance from the centre stay. Every
null map is given the image's own values by rank, so that the levels are equally frequent in all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from siftlens.interrelation.randomness import digest, stream

POOL_SIZE = 256
NULL_MAPS = 40
MIRRORS = 3


@dataclass(frozen=True)
class Pool:
    """The reference pool of null 1: a fixed set of other images' maps.

    Attributes:
        maps: raw weight per patch; only its order within a map matters.
        contents: content hash of each map's image.
        identities: identity of each map's image.
    """

    maps: Float[np.ndarray, "pool rows cols"]
    contents: tuple[str, ...]
    identities: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of different images in the pool."""
        return len(set(self.contents))

    @property
    def null_maps(self) -> int:
        """Number of pool maps that each image is compared with, K: 40, or one less than a smaller pool holds."""
        return min(NULL_MAPS, self.size - 1)

    def choose(self, content: str, seed: int) -> Int[np.ndarray, " null"]:
        """Indices of the K pool maps that an image is compared with; never a map of its own content."""
        order = np.argsort(stream(seed, "null maps", content).random(len(self.contents)))
        other = np.array([self.contents[index] != content for index in order], dtype=bool)
        chosen: np.ndarray = order[other][: self.null_maps]
        return chosen


def pool_identities(identities: Sequence[str], seed: int, size: int = POOL_SIZE) -> list[str]:
    """The images whose maps make the reference pool: lowest hashes of seed and identity, lowest first.

    Independent of the order of the images, and known before any of them is read.
    """
    return sorted(set(identities), key=lambda identity: (digest(seed, "pool", identity), identity))[:size]


def mirror_maps(weights: Float[np.ndarray, "rows cols"]) -> Float[np.ndarray, "3 rows cols"]:
    """The map mirrored left to right, top to bottom, and both."""
    return np.stack([weights[:, ::-1], weights[::-1], weights[::-1, ::-1]])


def rank_match(
    values: Float[np.ndarray, " patch"],
    maps: Float[np.ndarray, "map patch"],
    keep: Bool[np.ndarray, " patch"],
    random: np.random.Generator,
) -> Float[np.ndarray, "map patch"]:
    """Give each map the image's own values: its lowest patch the lowest value, and so on; ties in random order.

    Args:
        values: the image's own values.
        maps: the maps that say where they go.
        keep: patches that take part; the others get 0.
        random: breaks the ties.
    """
    kept = maps[:, keep]
    order = np.lexsort((random.random(kept.shape), kept), axis=-1)
    matched = np.empty_like(kept, dtype=values.dtype)
    np.put_along_axis(matched, order, np.sort(values[keep])[None], axis=-1)
    result = np.zeros(maps.shape, values.dtype)
    result[:, keep] = matched
    return result
