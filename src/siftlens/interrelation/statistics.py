"""Statistics of one layer's attention, per image and head, from A @ W alone.

Source: METHOD section 4; symbols as there. Queries are the kept patches, m_i is the attention that query i gives to
them (prefix tokens and patches left out take the rest), z the image's map or a null map in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from siftlens.attention import LayerReading
from siftlens.core import CaptureError, TokenLayout
from siftlens.interrelation.channels import MapBatch
from siftlens.interrelation.nulls import MIRRORS
from siftlens.patchmaps import RIVALS

SEMANTIC, PARTIAL, ASSORTATIVITY, CLS = "semantic_pull", "partial_pull", "assortativity", "cls_pull"
# Below this spread over queries (in SD of z) a correlation would be one with rounding noise.
_LEAST_SPREAD = 1e-4
_LEAST_Z_VARIANCE = 1e-6  # a difference of squares, exact to some 1e-7
_CHUNK_BYTES = {"cpu": 4 * 2**20}  # of values at once
_DEVICE_CHUNK = 512 * 2**20  # where launching a kernel costs more than its temporaries
_PER_IMAGE = ("tested", "described", "level_mass", "cls_level_mass")
_Batch = TypeVar("_Batch", LayerReading, MapBatch)


@dataclass(frozen=True)
class LayerRecord:
    """What one layer's attention says about each image of a batch, on the model's device.

    Attributes:
        name: dotted name of the layer's module.
        tested_names: the statistics of `tested`.
        described_names: the statistics of `described`.
        tested: each statistic of the own map, then of the K maps of other images and the 3 mirror images; NaN where
            no attention falls on patches.
        described: means over queries; NaN likewise.
        level_mass: sum over the queries of a level of their attention on the patches of a level.
        cls_level_mass: the class token's attention on the patches of a level; no class token, no entries.
    """

    name: str
    tested_names: tuple[str, ...]
    described_names: tuple[str, ...]
    tested: Float[Tensor, "batch head tested map"]
    described: Float[Tensor, "batch head described"]
    level_mass: Float[Tensor, "batch head 5 5"]
    cls_level_mass: Float[Tensor, "batch head cls 5"]


def layer_record(reading: LayerReading, maps: MapBatch, layout: TokenLayout) -> LayerRecord:
    """Every statistic of one layer.

    Args:
        reading: the layer's attention, read through `maps.channels`.
        maps: what it was read through.
        layout: where the patches stand among the tokens.
    """
    # Some images at a time: what is computed on the way would otherwise outgrow the model's own activations.
    bytes_of_one = reading.values[0].numel() * reading.values.element_size()
    step = max(1, _CHUNK_BYTES.get(reading.values.device.type, _DEVICE_CHUNK) // bytes_of_one)
    images = len(reading.values)
    parts = [
        _layer_record(_images_of(reading, part), _images_of(maps, part), layout)
        for part in (slice(start, start + step) for start in range(0, images, step))
    ]
    # Joined even where there is one part: a copy does not keep the layer's values alive, as a view would.
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _PER_IMAGE}
    return replace(parts[0], **joined)


def _images_of(batch: _Batch, images: slice) -> _Batch:
    """Some of the images of a batch."""
    fields: dict[str, Any] = {
        name: _single(value[images]) for name, value in vars(batch).items() if isinstance(value, Tensor | np.ndarray)
    }
    return replace(batch, **fields)


def _single(value: Any) -> Any:
    """What a model in float64 gives, in float32 as the maps are."""
    return value.float() if value.dtype == torch.float64 else value


def _layer_record(reading: LayerReading, maps: MapBatch, layout: TokenLayout) -> LayerRecord:
    levels = maps.levels.shape[-1]
    first_map = maps.channels.shape[-1] - maps.maps.shape[-1]
    values = reading.values[:, :, layout.prefix :]
    mass = values[..., :levels].sum(dim=-1)
    reads = maps.keep[:, None] & (mass > 0)

    by_level = maps.levels.mT[:, None] @ values
    total = by_level.sum(dim=2)
    pull = total / total[..., :levels].sum(dim=-1, keepdim=True)
    rivals = pull[..., levels:first_map]
    tested = {SEMANTIC: pull[..., first_map:]}
    explained = torch.cat([torch.ones_like(rivals[..., :1]), rivals[..., :2]], dim=-1) @ maps.residual.mT
    tested[PARTIAL] = tested[SEMANTIC] - explained
    tested[ASSORTATIVITY] = _assortativity(values[..., first_map:], maps.maps, mass, reads)

    cls = reading.values[:, :, : min(layout.class_tokens, 1)]
    cls_mass = cls[..., :levels]
    if layout.class_tokens:
        tested[CLS] = cls[:, :, 0, first_map:] / cls_mass.sum(dim=-1)

    described = {}
    if layout.class_tokens:
        described["class_mass"] = _mean(reading.prefix_mass[:, :, layout.prefix :, 0], maps.keep[:, None])
    if layout.registers:
        described["register_mass"] = _mean(reading.prefix_mass[:, :, layout.prefix :, 1], maps.keep[:, None])
    if reading.entropy is not None:
        described["entropy"] = _mean(reading.entropy[:, :, layout.prefix :], maps.keep[:, None])
    described["mean_squared_distance"] = _mean(reading.mean_squared_distance[:, :, layout.prefix :], reads)
    described |= {f"{rival}_pull": rivals[..., index] for index, rival in enumerate(RIVALS)}
    return LayerRecord(
        reading.name,
        tuple(tested),
        tuple(described),
        torch.stack(list(tested.values()), dim=2),
        torch.stack(list(described.values()), dim=2),
        by_level[..., :levels],
        cls_mass,
    )


def _mean(
    values: Float[Tensor, "batch head patch"], where: Bool[Tensor, "batch #head patch"]
) -> Float[Tensor, "batch head"]:
    """Mean over the chosen queries; NaN where there are none."""
    return torch.where(where, values, 0).sum(dim=-1) / where.sum(dim=-1)


def _assortativity(
    values: Float[Tensor, "batch head patch map"],
    maps: Float[Tensor, "batch patch map"],
    mass: Float[Tensor, "batch head patch"],
    reads: Bool[Tensor, "batch head patch"],
) -> Float[Tensor, "batch head map"]:
    """Correlation over queries of z_i with (A z)_i / m_i; 0 where either is constant, NaN without a query."""
    where = reads.to(values.dtype)
    count = where.sum(dim=-1, keepdim=True)
    z_mean = where @ maps / count
    z_variance = where @ maps.square() / count - z_mean.square()
    per_mass = torch.where(reads, 1 / mass, 0)[..., None]
    mean = (per_mass.mT @ values) / count[..., None]
    ratio = torch.addcmul(-mean, values, per_mass)  # centred
    if not bool(reads.all()):
        ratio *= where[..., None]
    variance = ratio.square().sum(dim=2) / count
    covariance = ratio.mul_(maps[:, None]).sum(dim=2) / count
    varies = (variance >= _LEAST_SPREAD**2) & (z_variance >= _LEAST_Z_VARIANCE)
    return torch.where(varies | (count == 0), covariance / (variance * z_variance).sqrt(), 0)


@dataclass(frozen=True)
class BatchRecord:
    """What all layers say about each image of a batch, on the host: the unit that is recorded and merged.

    Attributes:
        layers: dotted name of every layer's module, in call order.
        tested_names: the statistics of `tested`.
        described_names: the statistics of `described`.
        tested: see `LayerRecord`.
        described: see `LayerRecord`.
        level_mass: see `LayerRecord`.
        cls_level_mass: see `LayerRecord`.
        level_count: patches of each level, among those kept.
        pool_index: which maps of the pool each image was compared with.
    """

    layers: tuple[str, ...]
    tested_names: tuple[str, ...]
    described_names: tuple[str, ...]
    tested: Float[np.ndarray, "image layer head tested map"]
    described: Float[np.ndarray, "image layer head described"]
    level_mass: Float[np.ndarray, "image layer head 5 5"]
    cls_level_mass: Float[np.ndarray, "image layer head cls 5"]
    level_count: Float[np.ndarray, "image 5"]
    pool_index: Int[np.ndarray, "image null"]

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of what `rows` holds."""
        return (*self.tested_names, *(f"{name}_null" for name in self.tested_names), *self.described_names)

    def rows(self) -> Float[np.ndarray, "image variable layer head"]:
        """Per image: every tested statistic, its mean over the K maps of other images, and the described ones."""
        others = self.tested[..., 1:-MIRRORS]
        null = others.mean(axis=-1) if others.shape[-1] else np.full(others.shape[:-1], np.nan)
        rows = np.concatenate([self.tested[..., 0], null, self.described], axis=-1)
        return np.moveaxis(rows, -1, 1).astype(np.float32)


def stack_records(records: Sequence[LayerRecord], maps: MapBatch) -> BatchRecord:
    """Join the layers of one forward pass.

    Args:
        records: one per layer, in call order.
        maps: what the layers were read through.

    Raises:
        CaptureError: layers differ in their number of heads.
    """
    heads = [record.tested.shape[1] for record in records]
    for record, count in zip(records, heads, strict=True):
        if count != heads[0]:
            raise CaptureError(
                f"{record.name} has {count} heads and {records[0].name} {heads[0]}; "
                "layers with the same number of heads are expected"
            )

    def join(name: str) -> np.ndarray:
        return torch.stack([getattr(record, name) for record in records], dim=1).cpu().numpy().astype(np.float64)

    return BatchRecord(
        tuple(record.name for record in records),
        records[0].tested_names,
        records[0].described_names,
        join("tested"),
        join("described"),
        join("level_mass"),
        join("cls_level_mass"),
        maps.level_count,
        maps.pool_index,
    )
