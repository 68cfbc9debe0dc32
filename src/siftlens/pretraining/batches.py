"""What a step is computed from: views, what is seen of them and what is decoded."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from siftlens.core import PatchGrid
from siftlens.pretraining.choice import loss_weights, split
from siftlens.pretraining.guide import KeypointGuide
from siftlens.pretraining.images import HeldImages
from siftlens.pretraining.patches import grid_of
from siftlens.pretraining.randomness import image_keys
from siftlens.pretraining.sampler import epoch_order, share_of, steps_per_epoch
from siftlens.pretraining.settings import PretrainSettings
from siftlens.pretraining.views import Boxes, cut, draw_boxes

Guide = Callable[[Tensor, Tensor, Boxes, Tensor, PatchGrid], Tensor]


@dataclass(frozen=True)
class Batch:
    """A part of a step, on the CPU.

    Attributes:
        views: pixels.
        visible: patches that the encoder sees.
        decoded: patches that are predicted.
        weights: of those in the loss; None weighs all alike.
    """

    views: UInt8[Tensor, "batch 3 height width"]
    visible: Int64[Tensor, "batch visible"]
    decoded: Int64[Tensor, "batch decoded"]
    weights: Float[Tensor, "batch decoded"] | None


class Batches:
    """Every batch of a run, each a function of the settings and its step alone.

    Args:
        images: decoded.
        guide: what concentration is; None where it has no say.
        grid: patches of a view of full size.
        settings: of the run.

    Raises:
        InputError: there are fewer images than a batch takes.
    """

    def __init__(self, images: HeldImages, guide: Guide | None, grid: PatchGrid, settings: PretrainSettings):
        self._images = images
        self._guide = guide
        self._grid = grid
        self._settings = settings
        self.steps_per_epoch = steps_per_epoch(len(images), settings.batch_size)
        self.steps = self.steps_per_epoch * settings.epochs

    def describe(self) -> dict[str, Any]:
        """Everything that the batches depend on, as JSON values: settings, images, and how keypoints were detected."""
        about = {**self._settings.describe(), "images": self._images.digest}
        if isinstance(self._guide, KeypointGuide):
            about |= {f"keypoints.{name}": value for name, value in asdict(self._guide.store.settings).items()}
        return about

    def part(self, step: int, part: int, parts: int) -> Batch:
        """One of several equal parts of a step: for a process, or for accumulating gradients."""
        epoch, within = divmod(step, self.steps_per_epoch)
        size = self._settings.batch_size
        order = epoch_order(self._settings.seed, epoch, len(self._images))
        images = share_of(order[within * size : (within + 1) * size], part, parts)
        return self.views(images, epoch, progress=step / self.steps)

    def views(self, images: Int64[Tensor, " batch"], epoch: int, *, progress: float) -> Batch:
        """The views of some images in an epoch.

        Args:
            images: places in the data set.
            epoch: from 0.
            progress: of the training, from 0 to 1.
        """
        settings = self._settings
        size = settings.size_at(progress)
        grid = grid_of(size, size, self._grid)
        keys = image_keys(settings.seed, epoch, images)
        boxes = draw_boxes(keys, settings.side, settings.smallest_crop)
        views = cut(self._images.pixels[images], boxes, size)
        if self._guide is None:
            concentration = torch.zeros(len(images), grid.patches)
        else:
            concentration = self._guide(images, keys, boxes, views, grid)
        noise = settings.policy.noise(concentration, progress=progress, keys=keys)
        visible, masked = split(noise, settings.policy.visible(grid.patches))
        decoded = settings.decoding.choose(masked, concentration, keys)
        temperature = settings.loss_temperature
        weights = None if temperature is None else loss_weights(concentration, decoded, temperature)
        return Batch(views, visible, decoded, weights)
