"""Batches of an audit's images, decoded anew whenever they are needed: memory does not grow with their number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from siftlens.data import ImageRef, decode
from siftlens.interrelation.forward import to_input
from siftlens.models import LoadedModel

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Batch:
    """Some images.

    Attributes:
        index: their places in the sample.
        pixels: what the model sees.
        x: the model's input.
    """

    index: Int[np.ndarray, " image"]
    pixels: list[Pixels]
    x: Float[Tensor, "image channel height width"]


@dataclass(frozen=True)
class SampleReader:
    """Reads images of a sample.

    Attributes:
        model: whose preprocessing they go through.
        refs: the images.
        batch_size: images at a time.
    """

    model: LoadedModel
    refs: Sequence[ImageRef]
    batch_size: int

    def batches(self, index: Int[np.ndarray, " image"]) -> Iterator[Batch]:
        """The images at these places of the sample, batch by batch."""
        for start in range(0, len(index), self.batch_size):
            part = index[start : start + self.batch_size]
            pixels = [decode(self.refs[int(place)], self.model.preprocessing) for place in part]
            yield Batch(part, pixels, self.input(pixels))

    def input(self, pixels: Sequence[Pixels]) -> Float[Tensor, "image channel height width"]:
        """The model's input."""
        model = self.model
        with torch.no_grad():
            return to_input(pixels, model.normalization, model.device, model.dtype)
