"""Exact attention maps, for the few images that a person wants to look at."""

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from siftlens.attention.calls import AttentionCall
from siftlens.attention.capture import Capture, capturing
from siftlens.attention.coverage import Roll, refuse_unreadable
from siftlens.attention.hooks import Hook
from siftlens.attention.layout import find_layout
from siftlens.attention.precision import full_precision
from siftlens.attention.session import expect_unread
from siftlens.attention.trial import on_trial
from siftlens.core import CaptureError, InputError, is_whole


def attention_maps(
    model: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    layers: Iterable[int] | None = None,
) -> dict[int, Float[Tensor, "batch head token token"]]:
    """Exact attention of chosen layers, built and kept: heads x tokens^2 numbers per image and layer.

    Args:
        model: a PyTorch vision transformer in evaluation mode.
        x: images, as the model takes them.
        layers: indices in call order, pooling heads not counted; all by default.

    Returns:
        By layer index, A with rows summing to one, in float32 or wider, on the model's device.

    Raises:
        CaptureError: attention that cannot be read or was missed, or is being read already.
        InputError: no model, or no batch of finite images; layers are no collection, or the model does not have them.
    """
    expect_unread()
    refuse_unreadable(model)
    if not isinstance(x, Tensor) or x.ndim != 4 or not len(x):
        came = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x must be a tensor of images, (batch, channel, height, width), got {came}")
    if not bool(torch.isfinite(x).all()):
        raise InputError("x holds NaN or infinite values; expected images as the model takes them")
    wanted = None if layers is None else _indices(layers)
    layout = find_layout(model, x)
    roll = Roll(layout, len(x))
    maps: dict[int, Tensor] = {}

    @full_precision()
    def keep(capture: Capture, call: AttentionCall) -> None:
        layer = roll.enter(capture.tracker, call)
        if layer is not None and (wanted is None or layer in wanted):
            maps[layer] = call.attention()

    running = ExitStack()
    captures: list[Capture] = []
    own = threading.get_ident()  # others may run the model meanwhile

    def begin(*_: Any) -> None:  # after the hooks of a prompt, whose trials are not to be seen
        if on_trial() or threading.get_ident() != own:
            return
        if captures:
            raise CaptureError("the model ran a second time in one pass, as under a contrast; such a pass is not read")
        captures.append(running.enter_context(capturing(model, len(x), keep)))

    hook = model.register_forward_pre_hook(Hook(begin))
    try:
        with running:
            model(x)
    finally:
        hook.remove()
    if not captures:
        raise CaptureError(f"{type(model).__name__} ran no forward pass; expected a module whose call runs its hooks")
    roll.check(captures[0])
    missing = sorted((wanted or set()) - maps.keys())
    if missing:
        raise InputError(f"the model has layers 0 to {roll.layers - 1}, got {', '.join(map(str, missing))}")
    return maps


def _indices(layers: Any) -> set[int]:
    found = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, Tensor) else None
    if found is None or not all(is_whole(index, least=0) for index in found):
        example = f", such as [{layers}]" if is_whole(layers, least=0) else ""
        raise InputError(f"layers must be a collection of indices from 0{example}, got {layers!r}")
    return {int(index) for index in found}
