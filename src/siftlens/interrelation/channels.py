"""The weights that one batch's attention is read through: levels, the map itself, its rivals and its nulls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from siftlens.interrelation.nulls import Pool, mirror_maps
from siftlens.patchmaps import LEVELS, RIVALS

_FIRST_MAP = len(LEVELS) + len(RIVALS)


@dataclass(frozen=True)
class MapBatch:
    """Maps of one batch of images, as channels on the keys.

    Attributes:
        channels: 5 level indicators, 4 rivals, then the maps: z, K null maps of other images, 3 mirror images of z.
            Float32, on the model's device; zero for patches left out.
        residual: (1, gradient, centre) coefficients of the least-squares fit to each map, per image.
        level_count: patches of each level, among those that are kept.
        pool_index: which maps of the pool the null maps are.
        keep: patches that take part, as queries and as keys.
    """

    channels: Float[Tensor, "batch patch channel"]
    residual: Float[Tensor, "batch map 3"]
    level_count: Float[np.ndarray, "batch 5"]
    pool_index: Int[np.ndarray, "batch null"]
    keep: Bool[Tensor, "batch patch"]

    @property
    def levels(self) -> Float[Tensor, "batch patch 5"]:
        """One indicator per level."""
        return self.channels[..., : len(LEVELS)]

    @property
    def rivals(self) -> Float[Tensor, "batch patch 4"]:
        """Standardised rival maps: gradient energy, centre prior, FAST, ORB."""
        return self.channels[..., len(LEVELS) : _FIRST_MAP]

    @property
    def maps(self) -> Float[Tensor, "batch patch map"]:
        """z, the K null maps of other images, and the 3 mirror images: 1 + K + 3 maps."""
        return self.channels[..., _FIRST_MAP:]


def map_batch(
    contents: Sequence[str],
    z: Float[np.ndarray, "batch rows cols"],
    levels: Int[np.ndarray, "batch rows cols"],
    rivals: Float[np.ndarray, "batch 4 rows cols"],
    pool: Pool,
    *,
    seed: int,
    keep: Bool[np.ndarray, "batch rows cols"] | None = None,
    device: torch.device | str = "cpu",
) -> MapBatch:
    """Everything that a batch's attention is read through, from the images' maps.

    Args:
        contents: content hash of each image; seeds its choice of pool maps.
        z: the measure, standardised within each image.
        levels: level of each patch, 0 to 4.
        rivals: rival maps, in any unit: they are standardised here.
        pool: the reference pool of null 1.
        seed: the analysis' seed.
        keep: patches that take part; all without it. Every map is standardised anew over those kept.
        device: where the model is.
    """
    index = np.stack([pool.choose(content, seed) for content in contents])
    maps = np.stack(
        [np.concatenate([own[None], pool.z[chosen], mirror_maps(own)]) for own, chosen in zip(z, index, strict=True)]
    )
    return assemble(maps, levels, rivals, pool_index=index, keep=keep, device=device)


def assemble(
    maps: Float[np.ndarray, "batch map rows cols"],
    levels: Int[np.ndarray, "batch rows cols"],
    rivals: Float[np.ndarray, "batch 4 rows cols"],
    *,
    pool_index: Int[np.ndarray, "batch null"],
    keep: Bool[np.ndarray, "batch rows cols"] | None = None,
    device: torch.device | str = "cpu",
) -> MapBatch:
    """Channels of any maps; see `map_batch`, which chooses them."""
    batch, _, rows, cols = maps.shape
    kept = np.ones((batch, rows * cols), bool) if keep is None else keep.reshape(batch, -1)
    read = _standardise(maps.reshape(batch, -1, rows * cols), kept)
    rival = _standardise(rivals.reshape(batch, len(RIVALS), -1), kept)
    indicator = (levels.reshape(batch, 1, -1) == np.arange(len(LEVELS))[:, None]) & kept[:, None]
    channels = np.concatenate([indicator.astype(np.float32), rival, read], axis=1).swapaxes(1, 2)
    return MapBatch(
        channels=torch.from_numpy(np.ascontiguousarray(channels)).to(device),
        residual=torch.from_numpy(_coefficients(read, rival[:, :2], kept)).to(device),
        level_count=indicator.sum(axis=2).astype(np.float64),
        pool_index=pool_index,
        keep=torch.from_numpy(kept).to(device),
    )


def _standardise(
    maps: Float[np.ndarray, "batch map patch"], keep: Bool[np.ndarray, "batch patch"]
) -> Float[np.ndarray, "batch map patch"]:
    """Mean 0 and variance 1 over the kept patches of each map; all zero where nothing varies, 0 where left out."""
    where = np.broadcast_to(keep[:, None], maps.shape)
    count = np.maximum(where.sum(axis=-1, keepdims=True), 1)
    wide = np.where(where, maps, 0).astype(np.float64)
    centred = np.where(where, wide - wide.sum(axis=-1, keepdims=True) / count, 0)
    deviation = np.sqrt(np.square(centred).sum(axis=-1, keepdims=True) / count)
    varies = deviation > 1e-6 * (1 + np.abs(wide).max(axis=-1, keepdims=True))
    return np.where(varies, centred / np.where(varies, deviation, 1), 0).astype(np.float32)


def _coefficients(
    maps: Float[np.ndarray, "batch map patch"],
    rivals: Float[np.ndarray, "batch 2 patch"],
    keep: Bool[np.ndarray, "batch patch"],
) -> Float[np.ndarray, "batch map 3"]:
    """Least-squares coefficients of (1, gradient, centre) for every map, per image."""
    design = np.concatenate([keep[:, None], rivals], axis=1).astype(np.float64)
    gram = design @ design.swapaxes(1, 2)
    # Where a rival is constant, or both are the same, the smallest coefficients are taken.
    inverse = np.linalg.pinv(gram, rcond=1e-6, hermitian=True)
    return (maps @ design.swapaxes(1, 2) @ inverse).astype(np.float32)
