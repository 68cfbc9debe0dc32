"""The few images that a person will look at: exact attention, small enough to keep."""

import numpy as np
import torch
from jaxtyping import Float, UInt8

from siftlens.attention import attention_maps
from siftlens.core import TokenLayout
from siftlens.interrelation.forward import enough_memory, to_input
from siftlens.interrelation.results import GalleryImage
from siftlens.models import LoadedModel
from siftlens.patchmaps import Prepared

_ATTENTION_BYTES = 512 * 2**20  # attention that may be held at once; at least one layer is


def gallery_image(prepared: Prepared, model: LoadedModel, layout: TokenLayout, layers: int, heads: int) -> GalleryImage:
    """One image with its keypoints, its concentration and its attention.

    Args:
        prepared: the image.
        model: the model.
        layout: what stands at which token.
        layers: number of layers.
        heads: heads per layer.

    Raises:
        InputError: no memory left.
    """
    x = to_input([prepared.pixels], model.normalization, model.device, model.dtype)
    grid = layout.grid
    step = max(1, _ATTENTION_BYTES // (heads * layout.tokens**2 * 4))
    from_cls, received = [], []
    for start in range(0, layers, step):
        with torch.no_grad(), enough_memory(1):
            maps = attention_maps(model.module, x, range(start, min(start + step, layers)))
        for layer in sorted(maps):
            patches = maps[layer][0, :, :, layout.prefix :]
            received.append(patches[:, layout.prefix :].mean(dim=1).float().cpu().numpy())
            if layout.class_tokens:
                from_cls.append(patches[:, 0].float().cpu().numpy())
        del maps
    shape = (layers, heads, grid.rows, grid.cols)
    shown, shown_scale = _quantise(np.stack(received).reshape(shape))
    cls, cls_scale = _quantise(np.stack(from_cls).reshape(shape)) if from_cls else (None, None)
    points = prepared.keypoints
    return GalleryImage(
        identity=prepared.identity,
        pixels=prepared.pixels,
        keypoint_x=points.x,
        keypoint_y=points.y,
        keypoint_size=points.size,
        concentration=prepared.weights,
        cls_attention=cls,
        cls_scale=cls_scale,
        received=shown,
        received_scale=shown_scale,
    )


def _quantise(
    maps: Float[np.ndarray, "layer head rows cols"],
) -> tuple[UInt8[np.ndarray, "layer head rows cols"], Float[np.ndarray, "layer head"]]:
    """To 0-255 of each head's own largest value."""
    scale = maps.max(axis=(2, 3))
    safe = np.where(scale > 0, scale, 1)[:, :, None, None]
    return np.rint(maps / safe * 255).astype(np.uint8), scale.astype(np.float32)
