"""The few images that a person will look at: exact attention, small enough to keep."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from siftlens.attention import attention_maps
from siftlens.core import PatchGrid, TokenLayout
from siftlens.interrelation.forward import enough_memory, to_input
from siftlens.interrelation.gallery_budget import GALLERY_BYTES, IMAGE_BYTES, OVERVIEW_BYTES, Head
from siftlens.interrelation.kept_rows import KeptRows, quantised
from siftlens.interrelation.results import GalleryImage
from siftlens.models import LoadedModel
from siftlens.patchmaps import Prepared

STRONGEST = 16  # keys kept of a row that is not kept whole
_WHOLE_SHARE = 0.5  # of an image's bytes at most for whole maps, so that they do not crowd out all other heads
_MAPS_BYTES = 512 * 2**20  # attention that may be held at once; at least one layer is


@dataclass
class _Attention:
    """One image's attention, as it is read layer by layer."""

    received: list[Float[np.ndarray, "head patch"]] = field(default_factory=list)
    from_cls: list[Float[np.ndarray, "head patch"]] = field(default_factory=list)
    whole: dict[Head, KeptRows] = field(default_factory=dict)
    strongest: dict[Head, KeptRows] = field(default_factory=dict)

    def add(
        self, layer: int, maps: Float[Tensor, "head token token"], layout: TokenLayout, named: Sequence[Head]
    ) -> None:
        """Take what is shown of a layer."""
        patches = maps[..., layout.prefix :]
        between = patches[:, layout.prefix :]
        self.received.append(between.mean(dim=1).float().cpu().numpy())
        if layout.class_tokens:
            self.from_cls.append(patches[:, 0].float().cpu().numpy())
        for head in (head for of, head in named if of == layer):
            self.whole[layer, head] = quantised(between[head, None].float().cpu().numpy(), [(layer, head)])
        self.strongest |= _strongest(between, layer)


def gallery_images(
    images: Iterable[Prepared],
    model: LoadedModel,
    layout: TokenLayout,
    order: Sequence[Head],
    named: Sequence[Head],
    done: Callable[[int], None],
) -> tuple[GalleryImage, ...]:
    """Images with their keypoints, their concentration and their attention, as many as all together may weigh.

    Args:
        images: the images, most important first.
        model: the model.
        layout: what stands at which token.
        order: every head and mean over heads, most important first: what does not fit is left out from the end.
        named: heads whose maps are kept whole where they fit.
        done: called with the number of images done.

    Raises:
        InputError: no memory left.
    """
    layers, columns = (1 + max(index) for index in zip(*order, strict=True))
    layer_bytes = columns * layout.tokens**2 * 4
    at_once = max(1, _MAPS_BYTES // (layers * layer_bytes))
    step = max(1, _MAPS_BYTES // layer_bytes)
    left, size = iter(images), 0
    shown: list[GalleryImage] = []
    while part := list(islice(left, at_once)):
        for image, attention in zip(part, _read(part, model, layout, layers, step, named), strict=True):
            one, image_size = _shown(image, attention, layout, order)
            size += image_size
            if shown and size > GALLERY_BYTES:
                return tuple(shown)
            shown.append(one)
            done(len(shown))
    return tuple(shown)


def _read(
    images: Sequence[Prepared], model: LoadedModel, layout: TokenLayout, layers: int, step: int, named: Sequence[Head]
) -> list[_Attention]:
    """The attention of some images, so many layers at a time."""
    x = to_input([image.pixels for image in images], model.normalization, model.device, model.dtype)
    found = [_Attention() for _ in images]
    for first in range(0, layers, step):
        with torch.no_grad(), enough_memory(len(images)):
            maps = attention_maps(model.module, x, range(first, min(first + step, layers)))
        for layer in sorted(maps):
            for attention, of_image in zip(found, maps.pop(layer), strict=True):
                attention.add(layer, of_image, layout, named)
    return found


def _shown(
    image: Prepared, attention: _Attention, layout: TokenLayout, order: Sequence[Head]
) -> tuple[GalleryImage, int]:
    """One image, and the bytes of its attention."""
    received, from_cls = attention.received, attention.from_cls
    overview = min(OVERVIEW_BYTES, layout.grid.patches * sum(map(len, received + from_cls)))
    rows, size = _fitting(attention.whole, attention.strongest, order, IMAGE_BYTES - overview)
    seen, seen_scale = _quantise(np.stack(received), layout.grid)
    cls, cls_scale = _quantise(np.stack(from_cls), layout.grid) if from_cls else (None, None)
    points = image.keypoints
    shown = GalleryImage(
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
        **rows,
    )
    return shown, size + overview


def _strongest(between: Float[Tensor, "head query key"], layer: int) -> dict[Head, KeptRows]:
    """The strongest keys in every head of a layer, and in their mean."""
    everyone = torch.cat([between, between.mean(dim=0, keepdim=True)])
    places = [(layer, head) for head in range(len(everyone))]
    keys = everyone.topk(min(STRONGEST, everyone.shape[2]), dim=2).indices.sort(dim=2).values
    kept = quantised(everyone.gather(2, keys).float().cpu().numpy(), places, keys.cpu().numpy().astype(np.uint16))
    return {place: kept.map(index) for index, place in enumerate(places)}


def _fitting(
    whole: dict[Head, KeptRows], strongest: dict[Head, KeptRows], order: Sequence[Head], limit: int
) -> tuple[dict[str, KeptRows | None], int]:
    """What is kept of one image's maps in `limit` bytes, the first in order first; and its size."""
    kept: dict[str, list[KeptRows]] = {"whole": [], "strongest": []}
    size = size_of_whole = 0
    for place in order:
        if place in whole:
            own = len(whole[place].packed())
            if size_of_whole + own <= _WHOLE_SHARE * limit:
                kept["whole"].append(whole[place])
                size, size_of_whole = size + own, size_of_whole + own
                continue
        own = len(strongest[place].packed())
        if size + own > limit:
            break
        kept["strongest"].append(strongest[place])
        size += own
    return {name: KeptRows.join(maps) if maps else None for name, maps in kept.items()}, size


def _quantise(
    maps: Float[np.ndarray, "layer head patch"], grid: PatchGrid
) -> tuple[UInt8[np.ndarray, "layer head rows cols"], Float[np.ndarray, "layer head"]]:
    """To 0-255 of each head's own largest value."""
    scale = maps.max(axis=2)
    shares = maps / np.where(scale > 0, scale, 1)[:, :, None]
    quantised = np.rint(255 * shares).astype(np.uint8).reshape(*scale.shape, grid.rows, grid.cols)
    return quantised, scale.astype(np.float32)
