"""The preprocessing that a transformers model's own `preprocessor_config.json` asks for."""

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig
from transformers.image_processing_base import ImageProcessingMixin

from siftlens.data import NORMALIZATIONS, Normalization, Preprocessing

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_USUAL = {"clip": "clip", "siglip": "inception", "vit": "inception", "beit": "inception"}


def preprocessing_of(
    name: str, config: PretrainedConfig, size: tuple[int, int] | None
) -> tuple[Preprocessing, Normalization | None, tuple[str, ...]]:
    """Read a model's preprocessing; where it has none, assume what is usual for its kind.

    Args:
        name: repository or directory.
        config: of the vision part.
        size: input height and width, px, that replace the model's own.

    Returns:
        Preprocessing, normalisation, and notes on what was assumed.
    """
    try:
        own, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        own = {}
    if own:
        return _preprocessing(own, config, size), _normalization(own), ()
    usual = _USUAL.get(config.model_type.partition("_")[0], "imagenet")
    notes = (f"no preprocessor_config.json: normalisation '{usual}' and a centre crop were assumed",)
    return _preprocessing({}, config, size), NORMALIZATIONS[usual], notes


def _preprocessing(own: Mapping[str, Any], config: PretrainedConfig, size: tuple[int, int] | None) -> Preprocessing:
    interpolation = _FILTERS.get(own.get("resample", 3), "bicubic")
    resized = _sides(own.get("size"), config.image_size)
    if own.get("do_center_crop") or not own:
        crop = _sides(own.get("crop_size"), config.image_size)
        height, width = size or crop
        # An input of another size is cut from an image that is larger in proportion.
        resize_to = max(min(resized), min(crop)) * min(height, width) // min(crop)
        return Preprocessing(height, width, resize_to=resize_to, interpolation=interpolation)
    height, width = size or resized
    squash = isinstance(own.get("size"), int) or "height" in (own.get("size") or {})
    return Preprocessing(height, width, resize="squash" if squash else "shorter_side", interpolation=interpolation)


def _sides(size: Any, otherwise: Any) -> tuple[int, int]:
    """Height and width, px, in any of the ways that configurations have written them."""
    if isinstance(size, Mapping):
        shortest = size.get("shortest_edge")
        return (shortest, shortest) if shortest else (size["height"], size["width"])
    size = size or otherwise
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _normalization(own: Mapping[str, Any]) -> Normalization | None:
    if own.get("do_normalize", True) and "image_mean" in own:
        return Normalization(tuple(own["image_mean"]), tuple(own["image_std"]))
    return NORMALIZATIONS["none"]
