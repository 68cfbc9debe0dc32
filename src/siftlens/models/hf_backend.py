"""`hf/REPO-OR-DIRECTORY`: vision transformers of transformers, and the vision towers of its two-tower models."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PretrainedConfig

from siftlens.core import ModelError
from siftlens.models.checkpoints import expect_same
from siftlens.models.errors import expect_whole_patches, first_line, not_to_be_had
from siftlens.models.hf_preprocessing import preprocessing_of
from siftlens.models.loaded import Built, Request

_INTERPOLATE = "interpolate_pos_encoding"


class VisionTower(nn.Module):
    """Calls a transformers model on images alone and returns one tensor.

    Args:
        tower: the model.
        interpolate: have position embeddings interpolated, because the input is not of the configured size.
    """

    def __init__(self, tower: nn.Module, *, interpolate: bool):
        super().__init__()
        self.tower = tower
        # Models with rotary or always interpolated positions do not have the option, and need none.
        takes = any(_INTERPOLATE in signature(part.forward).parameters for part in tower.modules())
        self.options = {_INTERPOLATE: True} if interpolate and takes else {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits, else the tokens of the last layer."""
        output = self.tower(images, **self.options, **self.inputs(images))
        for name in ("logits", "last_hidden_state"):
            value = output.get(name)
            if isinstance(value, Tensor):
                return value
        raise TypeError(f"{type(self.tower).__name__} returns neither logits nor features")

    def inputs(self, images: Tensor) -> dict[str, Tensor]:  # noqa: ARG002 - for subclasses
        """What else the model is called with."""
        return {}


class MaskedAutoencoder(VisionTower):
    """ViT-MAE's encoder with nothing masked, and with its patches kept in row-major order by increasing noise."""

    def __init__(self, tower: nn.Module, *, interpolate: bool):
        super().__init__(tower, interpolate=interpolate)
        self.patch: int = tower.config.patch_size  # type: ignore[union-attr, assignment]

    def inputs(self, images: Tensor) -> dict[str, Tensor]:
        """Noise (batch, patch) that sorts to the order that is there."""
        patch = self.patch
        patches = (images.shape[2] // patch) * (images.shape[3] // patch)
        noise = torch.arange(patches, device=images.device, dtype=torch.float32)
        return {"noise": noise.expand(len(images), -1)}


def build(request: Request) -> Built:
    """Build a model of transformers from a repository's name or a directory.

    A directory with a configuration alone does for random weights, and for weights from a file.

    Raises:
        ModelError: there is no such model, it is not one for images, or its weights cannot be had or do not fit.
    """
    with _quiet():
        config, auto = _config(request.name)
        tower = _tower(request, config, auto)
        preprocessing, normalization, notes = preprocessing_of(request.name, config, request.size)
    kind = MaskedAutoencoder if config.model_type == "vit_mae" else VisionTower
    sides = (preprocessing.height, preprocessing.width)
    expect_whole_patches(f"hf/{request.name}", sides, config.patch_size)
    module = kind(tower, interpolate=sides != _configured_size(config))
    labels = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    named = auto is AutoModelForImageClassification and not all(label.startswith("LABEL_") for label in labels)
    return Built(module, preprocessing, normalization, labels if named else None, notes)


def _config(name: str) -> tuple[PretrainedConfig, Any]:
    """The configuration of the vision part, and the class that builds it."""
    if name.startswith(("/", ".", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(f"hf/NAME must be a repository or a directory with a config.json, there is none at {name}")
    try:
        config = AutoConfig.from_pretrained(name)
    except Exception as error:
        raise ModelError(
            f"hf/{name} cannot be had ({first_line(error)}); give a directory with a config.json, "
            "or the name of a repository and a connection to the network"
        ) from error
    if any("ForImageClassification" in architecture for architecture in config.architectures or ()):
        return config, AutoModelForImageClassification
    config = getattr(config, "vision_config", config)
    if not (hasattr(config, "patch_size") and hasattr(config, "image_size")):
        raise ModelError(
            f"hf/{name} is a {config.model_type}, which has no fixed grid of patches; choose a vision transformer"
        )
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    return config, AutoModel


def _tower(request: Request, config: PretrainedConfig, auto: Any) -> Any:
    if request.random_init:
        return _empty(request.name, config, auto)
    settings = {
        "config": config,
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are named below, instead of in a table on the terminal
    }
    if request.state is not None:
        # Through from_pretrained, which knows the names that weights had in older versions.
        with torch.device("meta"):
            kind = type(_empty(request.name, config, auto))
        tower, info = kind.from_pretrained(None, state_dict=dict(request.state), **settings)
        _expect_fit(tower, info, _of_the_tower(tower, info["unexpected_keys"]))
        return tower
    try:
        tower, info = auto.from_pretrained(request.name, **settings)
    except Exception as error:
        raise not_to_be_had(f"hf/{request.name}", error) from error
    _expect_fit(tower, info, ())  # a tower leaves the rest of its repository behind
    return tower


def _empty(name: str, config: PretrainedConfig, auto: Any) -> Any:
    try:
        return auto.from_config(config)
    except Exception as error:
        raise ModelError(f"hf/{name} cannot be built: {first_line(error)}") from error


def _of_the_tower(tower: Any, unexpected: Iterable[str]) -> list[str]:
    """Unexpected names in a part that the tower has, and not in a text tower, a decoder or a head."""
    parts = {name.partition(".")[0] for name in tower.state_dict()} | {tower.base_model_prefix}
    return [name for name in unexpected if name.partition(".")[0] in parts]


def _expect_fit(tower: nn.Module, info: Mapping[str, Any], unexpected: Iterable[str]) -> None:
    """Refuse weights that leave a part of the model at random, but for a pooler, which reads no attention."""
    own = tower.state_dict()
    expect_same(
        missing=[name for name in info["missing_keys"] if "pooler" not in name],
        unexpected=unexpected,
        mismatched=[(name, tuple(own[name].shape), tuple(came)) for name, came, *_ in info["mismatched_keys"]],
    )


def _configured_size(config: PretrainedConfig) -> tuple[int, int]:
    size = config.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tables and progress bars of transformers off the terminal, and leave its settings as they were."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.utils.logging.enable_progress_bar()
