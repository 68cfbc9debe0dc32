"""The pass before the pass: fixing the reference pool of null 1."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from siftlens.core import TOLD_REASONS, NothingReadableError
from siftlens.data import ImageSource, chosen
from siftlens.engine import Engine
from siftlens.interrelation.nulls import POOL_SIZE, Pool, pool_identities
from siftlens.interrelation.settings import Measure
from siftlens.keypoints import KeypointCache
from siftlens.patchmaps import Prepared, PrepareSettings, Quarantined, standardize


@dataclass(frozen=True)
class _Member:
    identity: str
    z: Float[np.ndarray, "rows cols"]


def _member(image: Prepared, measure: Measure) -> tuple[str, _Member]:
    """Its content, and what the pool keeps of it."""
    return image.content, _Member(image.identity, z_map(image, measure))


def z_map(image: Prepared, measure: Measure) -> Float[np.ndarray, "rows cols"]:
    """The measure standardised within the image; log1p first, for counts."""
    return standardize(image.weights, measure == "count")


def reference_pool(
    source: ImageSource,
    settings: PrepareSettings,
    *,
    seed: int,
    engine: Engine,
    cache: KeypointCache | None,
    done: Callable[[int, int], None],
) -> Pool:
    """Prepare the images of lowest hash; one that cannot be read, or repeats another, gives way to the next.

    Args:
        source: all images; gone through again for every round of replacements.
        settings: how images are prepared.
        seed: the analysis' seed.
        engine: where they are prepared.
        cache: of keypoints.
        done: called with the images found and wanted.

    Raises:
        NothingReadableError: not one image can be read.
    """
    wanted = min(POOL_SIZE, len(source))
    members: dict[str, _Member] = {}
    failed: list[str] = []
    tried = 0
    while len(members) < wanted:
        # At least as many again as before, so that a folder of text files is not gone through a thousand times.
        order = pool_identities((ref.identity for ref in source), seed, tried + max(wanted, tried))
        rank = {identity: place for place, identity in enumerate(order[tried:])}
        tried += len(rank)
        if not rank:
            break
        in_round: dict[int, tuple[str, _Member]] = {}
        refs = chosen(source, rank)
        take = partial(_member, measure=settings.measure)
        with closing(engine.prepare(refs, settings, cache, take)) as prepared:
            for found in prepared:
                if isinstance(found, Quarantined):
                    if len(failed) < TOLD_REASONS:  # of a million text files not all
                        failed.append(f"{found.identity}: {found.reason}")
                    continue
                in_round[rank[found[1].identity]] = found
                done(min(len(members) + len(in_round), wanted), wanted)
        for place in sorted(in_round):
            content, member = in_round[place]
            if len(members) < wanted:
                members.setdefault(content, member)
    if not members:
        raise NothingReadableError.of(tried, failed)
    return Pool(
        z=np.stack([member.z for member in members.values()]),
        contents=tuple(members),
        identities=tuple(member.identity for member in members.values()),
    )
