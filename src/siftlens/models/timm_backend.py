"""`timm/NAME`: any model of timm, with the input that its own data configuration asks for."""

import warnings
from collections.abc import Mapping
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from siftlens.core import ModelError
from siftlens.data import Normalization, Preprocessing
from siftlens.models.checkpoints import fill
from siftlens.models.errors import expect_whole_patches, first_line, not_to_be_had, unknown_model
from siftlens.models.loaded import Built, Request

_ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")  # names that timm looks up outside its own list
_FILTERS = ("bicubic", "bilinear", "nearest", "lanczos")


def build(request: Request) -> Built:
    """Build a timm model.

    Raises:
        ModelError: timm does not have it, its weights cannot be had or do not fit, or its input size cannot change.
    """
    name = request.name
    if not name.startswith(_ELSEWHERE):
        _expect_known(name, pretrained=request.pretrained)
    settings = {} if request.state is None else _head(name, request.state)
    try:
        module = timm.create_model(name, pretrained=request.pretrained, **settings)
    except Exception as error:
        if request.pretrained:
            raise not_to_be_had(f"timm/{name}", error) from error
        raise ModelError(f"timm/{name} cannot be built: {first_line(error)}") from error
    if request.state is not None:
        # Weights of the model's own size are resized with it; others must be of the size asked for.
        resize_first = request.size is not None and not _same_shapes(module, request.state)
        if resize_first:
            _resize(module, name, request.size)
        fill(module, request.state)
    _resize(module, name, request.size)
    config = resolve_model_data_config(module)
    return Built(
        module,
        _preprocessing(config, request.size),
        Normalization(tuple(config["mean"]), tuple(config["std"])),
        notes=() if config["crop_mode"] != "border" else ("timm pads to the crop; the image is cut instead",),
    )


def _expect_known(name: str, *, pretrained: bool) -> None:
    if not timm.is_model(name):
        raise unknown_model("timm", name, timm.list_models())
    tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    if pretrained and "." in name and name not in tagged:
        raise unknown_model("timm", name, tagged)


def _head(name: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """As many classes as the weights have, so that a fine-tuned model needs no further setting."""
    config = timm.get_pretrained_cfg(name)
    classifier = config.classifier if config else None
    if not classifier:
        return {}
    first = classifier if isinstance(classifier, str) else classifier[0]
    weight = state.get(f"{first}.weight")
    return {"num_classes": 0 if weight is None else len(weight)}


def _same_shapes(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = module.state_dict()
    return all(own[name].shape == tensor.shape for name, tensor in state.items() if name in own)


def _resize(module: nn.Module, name: str, size: tuple[int, int] | None) -> None:
    # Models without this method, such as convolutional ones, either take any size or say so when they are tried.
    resize = getattr(module, "set_input_size", None)
    if size is None or not callable(resize):
        return
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if patch is not None:
        expect_whole_patches(f"timm/{name}", size, patch)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of how timm interpolates is no matter of the user's
            resize(img_size=size)
    except Exception as error:
        raise ModelError(f"timm/{name} cannot take {size[0]}x{size[1]} px: {first_line(error)}") from error


def _preprocessing(config: dict[str, Any], size: tuple[int, int] | None) -> Preprocessing:
    height, width = size or config["input_size"][1:]
    return Preprocessing(
        height,
        width,
        resize="squash" if config["crop_mode"] == "squash" else "shorter_side",
        resize_to=int(min(height, width) / config["crop_pct"]),
        interpolation=config["interpolation"] if config["interpolation"] in _FILTERS else "bicubic",
    )
