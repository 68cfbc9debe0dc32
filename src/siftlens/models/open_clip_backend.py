"""`open_clip/NAME[:TAG]`: the vision tower of a contrastive model."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
from open_clip.model import resize_pos_embed
from torch import Tensor, nn

from siftlens.core import ModelError
from siftlens.data import Normalization, Preprocessing
from siftlens.models.checkpoints import fill
from siftlens.models.errors import expect_whole_patches, first_line, not_to_be_had, unknown_model
from siftlens.models.loaded import Built, Request

_TOWER = "visual."
_FILTERS = ("bicubic", "bilinear")


def build(request: Request) -> Built:
    """Build the vision tower of an open_clip model; its output is the image embedding.

    Raises:
        ModelError: open_clip does not have the model or the tag, or its weights cannot be had or do not fit.
    """
    name, _, tag = request.name.partition(":")
    known = open_clip.list_models()
    if name not in known:
        raise unknown_model("open_clip", name, known)
    settings = _pretrained(name, tag) if request.pretrained else {}
    try:
        with _quiet():
            model = open_clip.create_model(
                name, force_image_size=request.size, pretrained_image=False, pretrained_text=False, **settings
            )
    except Exception as error:
        if request.pretrained:
            raise not_to_be_had(f"open_clip/{request.name}", error) from error
        raise ModelError(f"open_clip/{request.name} cannot be built: {first_line(error)}") from error
    if request.size is not None and hasattr(model.visual, "patch_size"):
        expect_whole_patches(f"open_clip/{name}", request.size, model.visual.patch_size)
    if request.state is not None:
        fill(model.visual, _tower_state(model, request.state, resize=request.size is not None))
    if hasattr(model.visual, "output_tokens"):
        model.visual.output_tokens = False
    config = model.visual.preprocess_cfg
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    preprocessing = Preprocessing(
        height,
        width,
        resize="squash" if config["resize_mode"] == "squash" else "shorter_side",
        interpolation=config["interpolation"] if config["interpolation"] in _FILTERS else "bicubic",
    )
    notes = ("open_clip pads to the input; the image is cut instead",) if config["resize_mode"] == "longest" else ()
    return Built(model.visual, preprocessing, Normalization(tuple(config["mean"]), tuple(config["std"])), notes=notes)


def _pretrained(name: str, tag: str) -> dict[str, Any]:
    """How to ask for the weights of a tag."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        came = f"has no weights {tag!r}" if tag else "needs a tag"
        some = ", ".join(tags) if tags else "none, so give --weights FILE or --random-init"
        raise ModelError(f"open_clip/{name} {came}: open_clip/{name}:TAG with TAG one of: {some}")
    # Some weights were trained with another activation than the name's configuration has; without it they are wrong.
    quick = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
    return {"pretrained": tag, "force_quick_gelu": quick}


def _tower_state(model: nn.Module, state: Mapping[str, Tensor], *, resize: bool) -> dict[str, Tensor]:
    """The vision tower's weights, from a file with the whole model or with the tower alone."""
    whole = {name: tensor for name, tensor in state.items() if name.startswith(_TOWER)}
    whole = whole or {_TOWER + name: tensor for name, tensor in state.items()}
    if resize:
        resize_pos_embed(whole, model)
    return {name.removeprefix(_TOWER): tensor for name, tensor in whole.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what open_clip tells the root logger off the terminal, and the root logger without a new handler."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
