"""`torchvision/NAME`: torchvision's classifiers, with the transforms of their default weights."""

from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings
from torchvision.transforms._presets import ImageClassification

from siftlens.core import ModelError
from siftlens.data import Normalization, Preprocessing
from siftlens.models.checkpoints import fill
from siftlens.models.errors import expect_whole_patches, first_line, not_to_be_had, unknown_model
from siftlens.models.loaded import Built, Request

_HEAD = "heads.head.weight"  # of its vision transformers


def build(request: Request) -> Built:
    """Build a torchvision classifier.

    Raises:
        ModelError: torchvision does not have it, its weights cannot be had or do not fit, or the size is not square.
    """
    name, size = request.name, request.size
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_model("torchvision", name, known)
    published = torchvision.models.get_model_weights(name).DEFAULT
    state = request.state
    if request.pretrained:
        try:
            state = published.get_state_dict(progress=False, check_hash=True)
        except Exception as error:
            raise not_to_be_had(f"torchvision/{name}", error) from error
    settings: dict[str, Any] = {}
    if state is not None and _HEAD in state:
        settings["num_classes"] = len(state[_HEAD])
    module = torchvision.models.get_model(name, weights=None, **settings)
    if size is not None and isinstance(module, VisionTransformer):
        module, state = _resized(name, module.patch_size, size, state, settings)
    if state is not None:
        fill(module, state)
    classes = tuple(published.meta["categories"]) if request.pretrained else None
    transforms = published.transforms()
    return Built(module, _preprocessing(transforms, size), _normalization(transforms), classes)


def _resized(
    name: str, patch: int, size: tuple[int, int], state: Mapping[str, Tensor] | None, settings: dict[str, Any]
) -> tuple[nn.Module, Mapping[str, Tensor] | None]:
    """The vision transformer at another input size, and the weights interpolated to it."""
    if size[0] != size[1]:
        raise ModelError(
            f"torchvision/{name} takes square inputs, got {size[0]}x{size[1]}; "
            "timm and transformers have models for other shapes"
        )
    expect_whole_patches(f"torchvision/{name}", size, patch)
    module = torchvision.models.get_model(name, weights=None, image_size=size[0], **settings)
    if state is None:
        return module, None
    try:
        return module, interpolate_embeddings(size[0], patch, dict(state))
    except (KeyError, ValueError) as error:
        raise ModelError(f"the weights do not fit the model: no position embedding ({first_line(error)})") from error


def _preprocessing(transforms: ImageClassification, size: tuple[int, int] | None) -> Preprocessing:
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    height, width = size or (crop, crop)
    return Preprocessing(
        height,
        width,
        resize_to=min(height, width) * resize // crop,
        interpolation=transforms.interpolation.value,
    )


def _normalization(transforms: ImageClassification) -> Normalization:
    return Normalization(tuple(transforms.mean), tuple(transforms.std))
