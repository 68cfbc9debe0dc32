"""A model that the caller built, with what it expects of its input."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from siftlens.core import InputError
from siftlens.data import NORMALIZATIONS, ImageSource, Normalization, Preprocessing, input_size
from siftlens.models.checkpoints import hash_weights
from siftlens.models.loaded import LoadedModel

AS_LOADED = "as loaded"

Normalize = str | tuple[Sequence[float], Sequence[float]] | None


def as_loaded(
    model: nn.Module | LoadedModel, source: ImageSource, normalize: Normalize, size: int | tuple[int, int] | None
) -> LoadedModel:
    """The model with what it expects of its input.

    Args:
        model: one's own, or from `load_model`.
        source: the images, of which the first in memory tells the size where none is given.
        normalize: a name, a (mean, std) pair, None for a model that normalises by itself, or `AS_LOADED`.
        size: px, or (height, width), of one's own model.

    Raises:
        InputError: something is missing, or said twice.
    """
    if isinstance(model, LoadedModel):
        if size is not None:
            raise InputError("a loaded model has its input size already; pass size to load_model instead")
        return model if normalize == AS_LOADED else replace(model, normalization=normalization_of(normalize))
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch module, or a model from load_model, got {type(model).__qualname__}")
    if normalize == AS_LOADED:
        raise InputError(
            f"normalize says what the model expects of its pixels: {', '.join(sorted(NORMALIZATIONS))}, a (mean, std) "
            "pair, or None where it normalises by itself"
        )
    height, width = _size_of(source) if size is None else input_size(size)
    name = type(model).__qualname__
    return LoadedModel(
        module=model,
        spec=f"{type(model).__module__}.{name}",
        name=name,
        preprocessing=Preprocessing(height, width),
        normalization=normalization_of(normalize),
        weights_hash=hash_weights(model),
    )


def normalization_of(normalize: Any) -> Normalization | None:
    """What a caller says of a model's input.

    Raises:
        InputError: an unknown name, or no pair of three numbers each.
    """
    if normalize is None:
        return None
    if isinstance(normalize, str):
        if normalize not in NORMALIZATIONS:
            raise InputError(f"normalize must be one of {', '.join(sorted(NORMALIZATIONS))}, got {normalize!r}")
        return NORMALIZATIONS[normalize]
    try:
        (red, green, blue), (red_std, green_std, blue_std) = (map(float, values) for values in normalize)
    except (TypeError, ValueError) as error:
        raise InputError(f"normalize must be a name, a (mean, std) pair of 3 numbers each, or None: {error}") from error
    return Normalization((red, green, blue), (red_std, green_std, blue_std))


def _size_of(source: ImageSource) -> tuple[int, int]:
    """Height and width, px, of the first image in memory."""
    pixels = next(iter(source)).fetched().source
    if not isinstance(pixels, np.ndarray):
        raise InputError("the input size of a model that load_model did not load is not known; pass size=PIXELS")
    return pixels.shape[0], pixels.shape[1]
