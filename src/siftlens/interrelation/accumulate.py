"""Sums over images that merge: everything reported is a ratio of two of them, in every bootstrap replicate."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod

import numpy as np
import torch
from jaxtyping import Float

from siftlens.interrelation.bootstrap import REPLICATES
from siftlens.interrelation.nulls import MIRRORS
from siftlens.interrelation.statistics import BatchRecord


@dataclass(frozen=True)
class Accumulator:
    """Weighted sums over images, float64, updated in place; replicate 0 is the data.

    Memory does not depend on the number of images: about 110 numbers per replicate, layer and head.

    Attributes:
        layers: dotted name of every layer's module.
        tested_names: statistics that are tested against nulls.
        described_names: statistics that are not.
        pool_size: different images in the reference pool.
        images: sum of the images' weights.
        tested: the own map's statistic.
        others: mean statistic of the K maps of other images, each map weighted as its image is; 0 where K is 0.
        mirrors: mean statistic of the mirror images.
        tested_count: weights of the images where the statistic is defined.
        described: statistics that have no null.
        described_count: weights of the images where they are defined.
        level_mass: attention from level to level, summed over queries.
        level_expected: what it would be if every query spread its attention on patches evenly.
        cls_level_mass: the class token's attention by level; no class token, no entries.
        cls_level_expected: what it would be, spread evenly.
        level_count: patches of each level.
    """

    layers: tuple[str, ...]
    tested_names: tuple[str, ...]
    described_names: tuple[str, ...]
    pool_size: int
    images: Float[np.ndarray, " replicate"]
    tested: Float[np.ndarray, "replicate layer head tested"]
    others: Float[np.ndarray, "replicate layer head tested"]
    mirrors: Float[np.ndarray, "replicate layer head tested"]
    tested_count: Float[np.ndarray, "replicate layer head tested"]
    described: Float[np.ndarray, "replicate layer head described"]
    described_count: Float[np.ndarray, "replicate layer head described"]
    level_mass: Float[np.ndarray, "replicate layer head 5 5"]
    level_expected: Float[np.ndarray, "replicate layer head 5 5"]
    cls_level_mass: Float[np.ndarray, "replicate layer head cls 5"]
    cls_level_expected: Float[np.ndarray, "replicate layer head cls 5"]
    level_count: Float[np.ndarray, "replicate 5"]

    @classmethod
    def empty(cls, like: BatchRecord, pool_size: int, replicates: int = REPLICATES) -> "Accumulator":
        """Sums over no images yet.

        Args:
            like: any batch of the analysis: tells layers, heads and statistics.
            pool_size: different images in the reference pool, `Pool.size`.
            replicates: bootstrap replicates, R.
        """
        tested, described = like.tested.shape[1:-1], like.described.shape[1:]
        shapes = {
            "images": (),
            "level_count": like.level_count.shape[1:],
            **dict.fromkeys(("tested", "others", "mirrors", "tested_count"), tested),
            **dict.fromkeys(("described", "described_count"), described),
            **dict.fromkeys(("level_mass", "level_expected"), like.level_mass.shape[1:]),
            **dict.fromkeys(("cls_level_mass", "cls_level_expected"), like.cls_level_mass.shape[1:]),
        }
        sums = {name: np.zeros((1 + replicates, *shape)) for name, shape in shapes.items()}
        return cls(like.layers, like.tested_names, like.described_names, pool_size, **sums)

    def add(
        self,
        record: BatchRecord,
        weights: Float[np.ndarray, "replicate image"],
        pool_weights: Float[np.ndarray, "replicate pool"],
    ) -> None:
        """Add one batch.

        Args:
            record: the batch.
            weights: `image_weights` of its images.
            pool_weights: `image_weights` of the pool's images, in the pool's order.

        Raises:
            ValueError: the batch has other layers or statistics.
        """
        self._expect(record.layers, record.tested_names, record.described_names, self.pool_size)
        own, others, mirrors = np.split(record.tested, [1, record.tested.shape[-1] - MIRRORS], axis=-1)
        defined = np.isfinite(record.tested).all(axis=-1)
        described = np.isfinite(record.described)
        even = record.level_count / record.level_count.sum(axis=1, keepdims=True).clip(min=1)
        even = even[:, None, None, None]
        self.images[:] += weights.sum(axis=1)
        _add(self.level_count, weights, record.level_count)
        _add(self.tested, weights, np.where(defined, own[..., 0], 0))
        _add(self.tested_count, weights, defined)
        _add(self.mirrors, weights, np.where(defined, mirrors.mean(axis=-1), 0))
        pairs = np.moveaxis(np.where(defined[..., None], others, 0), -1, 1)
        pair_weights = weights[:, :, None] * _shares(pool_weights[:, record.pool_index])
        _add(self.others, pair_weights.reshape(len(weights), -1), pairs.reshape(-1, *pairs.shape[2:]))
        _add(self.described, weights, np.where(described, record.described, 0))
        _add(self.described_count, weights, described)
        _add(self.level_mass, weights, record.level_mass)
        _add(self.level_expected, weights, record.level_mass.sum(axis=-1, keepdims=True) * even)
        _add(self.cls_level_mass, weights, record.cls_level_mass)
        _add(self.cls_level_expected, weights, record.cls_level_mass.sum(axis=-1, keepdims=True) * even)

    def merge(self, other: "Accumulator") -> None:
        """Add the sums over other images of the same analysis.

        Raises:
            ValueError: they are sums of other layers or statistics.
        """
        self._expect(other.layers, other.tested_names, other.described_names, other.pool_size)
        for name in _SUMS:
            getattr(self, name)[:] += getattr(other, name)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything, as plain arrays for `numpy.savez`."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Accumulator":
        """The inverse of `to_arrays`."""
        layers, tested, described = (tuple(str(label) for label in arrays[name]) for name in _LABELS)
        sums = {name: np.array(arrays[name]) for name in _SUMS}
        return cls(layers, tested, described, int(arrays["pool_size"]), **sums)

    def _expect(self, *labels: object) -> None:
        mine = (self.layers, self.tested_names, self.described_names, self.pool_size)
        if labels != mine:
            raise ValueError(f"expected layers, statistics and pool size {mine}, got {labels}")


_LABELS = ("layers", "tested_names", "described_names")
_SUMS = tuple(field.name for field in fields(Accumulator) if field.name not in (*_LABELS, "pool_size"))


def _add(sums: np.ndarray, weights: Float[np.ndarray, "replicate image"], values: np.ndarray) -> None:
    """Add sum_i w_i x_i to the sums of every replicate."""
    flat = sums.reshape(len(sums), prod(sums.shape[1:]))
    terms = values.reshape(len(values), flat.shape[1]).astype(np.float64)
    # By PyTorch: threads of NumPy's own would spin for a while after each product, on cores that detect.
    torch.from_numpy(flat).addmm_(torch.from_numpy(weights), torch.from_numpy(terms))


def _shares(weights: Float[np.ndarray, "replicate image null"]) -> Float[np.ndarray, "replicate image null"]:
    """Weights of an image's null maps, summing to one; even in a replicate that drew none of them."""
    total = weights.sum(axis=-1, keepdims=True)
    shares: np.ndarray = np.where(total > 0, weights, 1) / np.where(total > 0, total, max(weights.shape[-1], 1))
    return shares
