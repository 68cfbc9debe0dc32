"""What loading a model asks for and gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from siftlens.data import Normalization, Preprocessing


@dataclass(frozen=True)
class Request:
    """What a backend is asked to build.

    Args:
        name: the spec without its backend.
        random_init: leave the weights as initialised; the caller has seeded the generator.
        state: weights that a file gave instead of the pretrained ones, on the CPU; None without a file.
        size: input height and width, px, that differ from the model's own; None for its own.
    """

    name: str
    random_init: bool
    state: Mapping[str, Tensor] | None
    size: tuple[int, int] | None

    @property
    def pretrained(self) -> bool:
        """Whether the weights are those that the model's authors published."""
        return not self.random_init and self.state is None


@dataclass(frozen=True)
class Built:
    """What a backend gives back.

    Args:
        module: called as `module(x)`, x (batch, 3, height, width) normalised; returns one tensor: logits where the
            model has a head, else features.
        preprocessing: from an image to the pixels of x.
        normalization: from those pixels, in [0, 1], to x; None for a model that normalises by itself.
        classes: names of the logits, where known.
        notes: what had to be assumed.
    """

    module: nn.Module
    preprocessing: Preprocessing
    normalization: Normalization | None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


# What of a model's description every number depends on.
_OF_NUMBERS = (
    *("height", "width", "resize", "resize_to", "interpolation", "mean", "std"),
    *("dtype", "weights_hash"),  # last: another size makes other weights, and is what should be told
)


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to look at images.

    Args:
        module: in evaluation mode, on its device, called as `module(x)`, x (batch, 3, height, width) normalised.
        spec: what it was loaded from.
        name: its name, for people.
        preprocessing: from an image to the pixels of x.
        normalization: from those pixels, in [0, 1], to x; None for a model that normalises by itself.
        weights_hash: `hash_weights` of the module before it was cast.
        classes: names of the logits, where known.
        weights: where they come from.
        size: input height and width, px, that were asked for; None where they are the model's own.
        notes: what had to be assumed.
    """

    module: nn.Module
    spec: str
    name: str
    preprocessing: Preprocessing
    normalization: Normalization | None
    weights_hash: str
    classes: tuple[str, ...] | None = None
    weights: str = "as given"
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights and of x."""
        parameter = next(self.module.parameters(), None)
        return torch.float32 if parameter is None else parameter.dtype

    def numbers(self) -> dict[str, Any]:
        """What of the model every number depends on, as JSON values: a run goes on only with the same."""
        described = self.describe()
        return {"model": self.spec} | {name: described[name] for name in _OF_NUMBERS}

    def describe(self) -> dict[str, Any]:
        """Everything about the model that belongs on the record, as JSON values."""
        normalization = self.normalization
        return {
            "spec": self.spec,
            "name": self.name,
            "weights": self.weights,
            "weights_hash": self.weights_hash,
            "parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "height": self.preprocessing.height,
            "width": self.preprocessing.width,
            "size": None if self.size is None else list(self.size),
            "resize": self.preprocessing.resize,
            "resize_to": self.preprocessing.resize_to,
            "interpolation": self.preprocessing.interpolation,
            "mean": None if normalization is None else list(normalization.mean),
            "std": None if normalization is None else list(normalization.std),
            "classes": None if self.classes is None else len(self.classes),
            "notes": list(self.notes),
        }
