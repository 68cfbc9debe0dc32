"""What one chunk of images adds to an analysis: the model's part of the work, wherever it is done."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siftlens.core import TokenLayout
from siftlens.core.memory import give_back_memory
from siftlens.interrelation.channels import map_batch
from siftlens.interrelation.clock import Clock
from siftlens.interrelation.forward import Scratch, outlier_patches, read_batch, to_input
from siftlens.interrelation.nulls import Pool
from siftlens.interrelation.reference import z_map
from siftlens.interrelation.settings import Settings
from siftlens.interrelation.statistics import BatchRecord
from siftlens.models import LoadedModel
from siftlens.patchmaps import Prepared, Quarantined, auroc, levels


@dataclass(frozen=True)
class Part:
    """What a chunk of images adds.

    Attributes:
        images: a row of images.parquet for each image read.
        record: statistics of these; None where there are none.
        quarantine: images set aside.
        seconds: by stage.
    """

    images: list[dict[str, Any]]
    record: BatchRecord | None
    quarantine: list[Quarantined]
    seconds: dict[str, float]


@dataclass(frozen=True)
class ChunkReader:
    """Runs the model on a chunk of images. The same images give the same part, in any process.

    Args:
        model: the model.
        layout: what stands at which token.
        settings: what to compute.
        pool: the reference pool of null 1.
    """

    model: LoadedModel
    layout: TokenLayout
    settings: Settings
    pool: Pool
    _scratch: Scratch = field(default_factory=Scratch, init=False, repr=False, compare=False)

    def __call__(self, chunk: Sequence[Prepared | Quarantined]) -> Part:
        """The part of one chunk.

        Raises:
            CaptureError: attention that cannot be read.
            InputError: no memory left.
            ModelError: the model computes NaN or infinity.
        """
        clock = Clock()
        images = [image for image in chunk if isinstance(image, Prepared)]
        aside = [image for image in chunk if isinstance(image, Quarantined)]
        record, outlier_tokens = self._read(images, clock) if images else (None, np.zeros(0, int))
        lines = [_line(*pair) for pair in zip(images, outlier_tokens.tolist(), strict=True)]
        give_back_memory()
        return Part(lines, record, aside, dict(clock.seconds))

    def _read(self, images: list[Prepared], clock: Clock) -> tuple[BatchRecord, np.ndarray]:
        settings, model, grid = self.settings, self.model, self.layout.grid
        keep = None
        with clock("model"):
            pixels = [image.pixels for image in images]
            x = to_input(pixels, model.normalization, model.device, model.dtype, self._scratch)
            if settings.exclude_outliers:
                keep = ~outlier_patches(model.module, x, self.layout).reshape(-1, grid.rows, grid.cols)
        with clock("maps"):
            maps = map_batch(
                [image.content for image in images],
                np.stack([z_map(image, settings.measure) for image in images]),
                np.stack([levels(image.count) for image in images]),
                np.stack([image.rivals for image in images]),
                self.pool,
                seed=settings.seed,
                keep=keep,
                device=model.device,
            )
        with clock("model"):
            return read_batch(
                model.module, x, maps, self.layout, weighting=settings.weighting, entropy=settings.entropy
            )


def _line(image: Prepared, outlier_tokens: int) -> dict[str, Any]:
    """The row of one image in images.parquet."""
    return {
        "identity": image.identity,
        "content": image.content,
        "group": image.group,
        "keypoints": len(image.keypoints),
        "covered": float((image.count > 0).mean()),
        "outlier_tokens": outlier_tokens,
        "mask_auroc": None if image.mask is None else auroc(image.weights, image.mask),
    }
