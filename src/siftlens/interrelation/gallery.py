"""The few images that a person will look at: exact attention, small enough to keep."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8

from siftlens.attention import attention_maps
from siftlens.core import PatchGrid, TokenLayout
from siftlens.interrelation.forward import enough_memory, to_input
from siftlens.interrelation.results import GalleryImage
from siftlens.models import LoadedModel
from siftlens.patchmaps import Prepared

_ATTENTION_BYTES = 512 * 2**20  # attention that may be held at once; at least one layer is


def gallery_images(
    images: Sequence[Prepared], model: LoadedModel, layout: TokenLayout, layers: int, heads: int
) -> tuple[GalleryImage, ...]:
    """Images with their keypoints, their concentration and their attention.

    Args:
        images: the images.
        model: the model.
        layout: what stands at which token.
        layers: number of layers.
        heads: heads per layer.

    Raises:
        InputError: no memory left.
    """
    layer_bytes = heads * layout.tokens**2 * 4
    at_once = max(1, min(len(images), _ATTENTION_BYTES // layer_bytes))
    step = max(1, _ATTENTION_BYTES // (at_once * layer_bytes))
    shown: list[GalleryImage] = []
    for start in range(0, len(images), at_once):
        part = images[start : start + at_once]
        x = to_input([image.pixels for image in part], model.normalization, model.device, model.dtype)
        from_cls, received = [], []
        for first in range(0, layers, step):
            with torch.no_grad(), enough_memory(len(part)):
                maps = attention_maps(model.module, x, range(first, min(first + step, layers)))
            for layer in sorted(maps):
                patches = maps[layer][..., layout.prefix :]
                received.append(patches[:, :, layout.prefix :].mean(dim=2).float().cpu().numpy())
                if layout.class_tokens:
                    from_cls.append(patches[:, :, 0].float().cpu().numpy())
            del maps
        of_image = [np.stack(found, axis=1) for found in (received, from_cls) if found]
        shown += [_shown(image, layout, *maps) for image, *maps in zip(part, *of_image, strict=True)]
    return tuple(shown)


def _shown(
    image: Prepared,
    layout: TokenLayout,
    received: Float[np.ndarray, "layer head patch"],
    from_cls: Float[np.ndarray, "layer head patch"] | None = None,
) -> GalleryImage:
    grid = layout.grid
    points = image.keypoints
    seen, seen_scale = _quantise(received, grid)
    cls, cls_scale = (None, None) if from_cls is None else _quantise(from_cls, grid)
    return GalleryImage(
        identity=image.identity,
        pixels=image.pixels,
        keypoint_x=points.x,
        keypoint_y=points.y,
        keypoint_size=points.size,
        concentration=image.weights,
        cls_attention=cls,
        cls_scale=cls_scale,
        received=seen,
        received_scale=seen_scale,
    )


def _quantise(
    maps: Float[np.ndarray, "layer head patch"], grid: PatchGrid
) -> tuple[UInt8[np.ndarray, "layer head rows cols"], Float[np.ndarray, "layer head"]]:
    """To 0-255 of each head's own largest value."""
    scale = maps.max(axis=2)
    shares = maps / np.where(scale > 0, scale, 1)[:, :, None]
    quantised = np.rint(255 * shares).astype(np.uint8).reshape(*scale.shape, grid.rows, grid.cols)
    return quantised, scale.astype(np.float32)
