"""Which logit belongs to which label, and a head for models that have none."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from siftlens.core import InputError
from siftlens.models import LoadedModel

_STEPS = 200
_DECAY = 1e-3


def match_logits(model: LoadedModel, labels: Sequence[str], logits: int) -> Int[np.ndarray, " class"]:
    """Index of the logit of each class.

    By name where the model's classes are known; by number where the labels are numbers; in the order of the names
    where there are as many as logits.

    Raises:
        InputError: none of those fits.
    """
    if model.classes is not None and set(labels) <= set(model.classes):
        return np.array([model.classes.index(label) for label in labels])
    if all(label.isdecimal() and int(label) < logits for label in labels):
        return np.array([int(label) for label in labels])
    if len(labels) == logits and model.classes is None:
        return np.arange(logits)
    unknown = [label for label in labels if label not in (model.classes or ())]
    known = f"classes {', '.join(model.classes[:3])}, ..." if model.classes else f"{logits} outputs"
    raise InputError(
        f"the labels {', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''} do not match the model's {known}; "
        "name the folders, or the labels, after these, or audit a model without a head with probe=True (--probe)"
    )


def with_probe(
    model: LoadedModel, features: Float[Tensor, "image feature"], labels: Int[Tensor, " image"], names: tuple[str, ...]
) -> LoadedModel:
    """The model with a linear classifier on its output, fitted by logistic regression.

    Args:
        model: returns features.
        features: of the images to fit on.
        labels: of these.
        names: of the classes.
    """
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    scaled = (features - mean) / std
    weight = torch.zeros(len(names), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)
    stepper = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        stepper.zero_grad()
        value = F.cross_entropy(scaled @ weight.T + bias, labels) + _DECAY * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        stepper.step(loss)
    head = nn.Linear(features.shape[1], len(names))
    head.weight.data = weight.detach() / std
    head.bias.data = bias.detach() - head.weight.data @ mean
    head.to(device=model.device, dtype=model.dtype).requires_grad_(False)
    return replace(model, module=nn.Sequential(model.module, head).eval(), classes=names)
