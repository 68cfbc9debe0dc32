"""Labelled images, to test encoders on."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from siftlens.core import InputError
from siftlens.models import LoadedModel
from siftlens.pretraining.images import HeldImages, hold
from siftlens.pretraining.neighbours import labels_of


@dataclass(frozen=True)
class LabelledImages:
    """Images to learn from and images to be tested on, of the same classes.

    Attributes:
        train: to learn from.
        labels: their classes, from 0.
        validation: to be tested on.
        answers: their classes.
        classes: names.
    """

    train: HeldImages
    labels: Int64[Tensor, " train"]
    validation: HeldImages
    answers: Int64[Tensor, " validation"]
    classes: tuple[str, ...]


def hold_labelled(model: LoadedModel, train: Any, validation: Any, *, spill: Path, workers: int = 0) -> LabelledImages:
    """Decode two folders with a folder per class each, as a model wants them.

    Warns where images to be tested on are among those to learn from.

    Raises:
        InputError: a folder has not two classes, an image lies in none, or the validation images have others.
        NothingReadableError: not one image can be used.
    """
    held = [
        hold(images, model.preprocessing, spill=spill / f"{name}.npy", workers=workers)
        for name, images in (("train", train), ("validation", validation))
    ]
    labels, classes = labels_of(held[0].groups)
    if len(classes) < 2:
        raise InputError(
            f"a probe needs a folder per class, got {len(classes)} in {train}; sort the images into folders"
        )
    for part, folder in zip(held, (train, validation), strict=True):
        if "" in part.groups:
            stray = part.identities[part.groups.index("")]
            raise InputError(f"{part.groups.count('')} images of {folder} lie in no class folder, the first {stray}")
    unknown = sorted(set(held[1].groups) - set(classes))
    if unknown:
        raise InputError(f"the validation images have classes that training has not: {', '.join(unknown[:3])}")
    answers = torch.tensor([classes.index(group) for group in held[1].groups])
    known = set(held[0].contents)
    if both := sum(content in known for content in held[1].contents):
        warnings.warn(f"{both} of {len(held[1])} validation images are among those to learn from", stacklevel=2)
    return LabelledImages(held[0], labels, held[1], answers, classes)
