"""The scores of a classifier that can be taken off one another."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from siftlens.core import InputError

_PARALLEL = 0.999  # cosine of rows that differ by a factor and by rounding


def class_scores(model: nn.Module, output: Any, images: int) -> Float[Tensor, "image class"]:
    """Log-softmax of a classifier's output, in float32 or wider.

    Raises:
        InputError: the output is not a row of logits for each image.
    """
    classes = getattr(model, "num_classes", None)
    logits = isinstance(output, Tensor) and output.ndim == 2 and len(output) == images and output.shape[1] > 1
    if not logits or (isinstance(classes, int) and classes != output.shape[1]):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        said = f" from a model of {classes} classes" if isinstance(classes, int) else ""
        raise InputError(
            f"expected a class head, logits of shape ({images}, at least 2 classes), got {got}{said}{hint_of(output)}"
        )
    scores: Tensor = (output if output.dtype == torch.float64 else output.float()).log_softmax(dim=1)
    return scores


def without_class_head(part: nn.Module) -> bool:
    """Whether a part of a model returns features by what it says of itself: backbones, and towers of open_clip."""
    classes, library = getattr(part, "num_classes", None), type(part).__module__.split(".")[0]
    if isinstance(classes, int):
        return classes == 0
    return library == "open_clip" or (library == "transformers" and type(part).__name__.endswith("Model"))


def only_scaled(features: Any, output: Any) -> bool:
    """Whether a model's output is what a part of it returned, each row as it was, scaled or normalised."""
    if not isinstance(output, Tensor):
        return False
    parts = features.values() if isinstance(features, dict) else features if isinstance(features, tuple) else [features]
    return any(
        isinstance(part, Tensor)
        and part.shape == output.shape
        and bool((F.cosine_similarity(part.double(), output.double(), dim=-1).abs() > _PARALLEL).all())
        for part in parts
    )


def hint_of(output: Any) -> str:
    """What to do about a model that returns its logits among other things."""
    if not isinstance(getattr(output, "logits", None), Tensor):
        return ""
    return "; wrap the model in a module that returns .logits, or use what siftlens.load_model('hf/...') returns"
