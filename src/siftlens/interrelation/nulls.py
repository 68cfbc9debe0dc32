"""Null maps: what attention would be read through if the keypoints were not this image's, or not where they are.

Source: METHOD section 5. Null 1 puts the maps of other images in place of the image's own: the average layout stays,
the tie to this image goes. Null 2 mirrors the own map: levels, smoothness and distance from the centre stay.

Maps of null 1 are taken as they are, not given the image's own values by rank: most patches have no keypoint, so ties
in random order would make null maps rougher than any real map, and attention that sees no content at all (by distance
only) got a false assortativity of 0.05 to 0.09. Maps as they are leave it at zero: where attention does not depend on
the keypoints, the own map and another image's are exchangeable.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from jaxtyping import Float, Int

from siftlens.interrelation.randomness import digest, stream

POOL_SIZE = 256
NULL_MAPS = 40
MIRRORS = 3


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The reference pool of null 1: a fixed set of images' maps.

    Attributes:
        z: the measure standardised within each image, exactly as for the images that are compared with the pool
            (log1p first, for counts).
        contents: content hash of each map's image.
        identities: identity of each map's image.
    """

    z: Float[np.ndarray, "pool rows cols"]
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


def pool_identities(identities: Iterable[str], seed: int, size: int = POOL_SIZE) -> list[str]:
    """The images whose maps make the reference pool: lowest hashes of seed and identity, lowest first.

    Independent of the order of the images, and known before any of them is read. Memory depends on `size` alone.
    """
    lowest: list[tuple[int, str]] = []  # a heap, of which the highest hash is on top
    known: set[str] = set()
    for identity in identities:
        if identity not in known:
            known.add(identity)
            heappush(lowest, (-int.from_bytes(digest(seed, "pool", identity), "big"), identity))
            if len(lowest) > size:
                known.remove(heappop(lowest)[1])
    return [identity for _, identity in sorted(lowest, reverse=True)]


def mirror_maps(z: Float[np.ndarray, "rows cols"]) -> Float[np.ndarray, "3 rows cols"]:
    """The map mirrored left to right, top to bottom, and both."""
    return np.stack([z[:, ::-1], z[::-1], z[::-1, ::-1]])
