"""Which images a step sees: a pure function of seed, epoch and step, so that a resumed run sees the same."""

from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from siftlens.core import InputError
from siftlens.pretraining.randomness import Purpose, image_keys, uniform


@lru_cache(maxsize=2)  # of two epochs, where batches are made ahead
def epoch_order(seed: int, epoch: int, images: int) -> Int64[Tensor, " image"]:
    """All images in the order of an epoch; kept, so not to be changed."""
    keys = image_keys(seed, epoch, torch.arange(images))
    return torch.argsort(uniform(keys, Purpose.ORDER, 1)[:, 0])


def steps_per_epoch(images: int, batch: int) -> int:
    """Steps that full batches make; the rest of an epoch, other images each time, is left out.

    Raises:
        InputError: there are not even enough images for one.
    """
    if images < batch:
        raise InputError(f"a batch of {batch} needs as many images, got {images}; choose a smaller --batch-size")
    return images // batch


def share_of(step: Int64[Tensor, " batch"], part: int, parts: int) -> Int64[Tensor, " share"]:
    """The images of a step that one of several equal parts sees."""
    return step[part::parts]
