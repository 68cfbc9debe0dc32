"""What an encoder makes of images, as one vector each."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from siftlens.data import Normalization
from siftlens.models import LoadedModel
from siftlens.pretraining.streamed import StreamedPixels
from siftlens.pretraining.views import normalised

CHUNK = 256  # images at once, where nothing is trained


def features(module: nn.Module, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channel"]:
    """The mean patch token where a module has patches as timm's have, else what it returns."""
    if not hasattr(module, "forward_features") or not hasattr(module, "num_prefix_tokens"):
        returned: Tensor = module(x)
        return returned
    vit: Any = module
    tokens: Tensor = vit.forward_features(x)
    return tokens[:, vit.num_prefix_tokens :].mean(dim=1)


@torch.inference_mode()
def frozen_features(
    model: LoadedModel,
    pixels: UInt8[Tensor, "image 3 height width"] | StreamedPixels,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> Float[Tensor, "image channel"]:
    """Features of images, on the CPU."""
    found = []
    for start in range(0, len(pixels), CHUNK):
        x = as_input(pixels[start : start + CHUNK], model.normalization).to(model.device, model.dtype)
        found.append(features(model.module, x).float().cpu())
        progress("images", min(start + CHUNK, len(pixels)), len(pixels))
    return torch.cat(found)


def as_input(
    pixels: UInt8[Tensor, "image 3 height width"], normalization: Normalization | None
) -> Float[Tensor, "image 3 height width"]:
    """Pixels as a model wants them; in [0, 1] where it wants no normalisation."""
    return pixels / 255 if normalization is None else normalised(pixels, normalization.mean, normalization.std)
