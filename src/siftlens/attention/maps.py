"""Exact attention maps, for the few images that a person wants to look at."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn

from siftlens.attention import coverage
from siftlens.attention.calls import AttentionCall
from siftlens.attention.intercept import Interceptor, without_fast_path
from siftlens.attention.layout import find_layout
from siftlens.attention.modules import ModuleTracker
from siftlens.core import InputError


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
        CaptureError: attention that cannot be read or was missed.
        InputError: a layer that the model does not have.
    """
    coverage.refuse_unreadable(model)
    wanted = None if layers is None else set(layers)
    layout = find_layout(model, x)
    maps: dict[int, Tensor] = {}
    calls = seen = 0

    def keep(call: AttentionCall) -> None:
        nonlocal calls, seen
        calls += 1
        pooling = coverage.classify(tracker.current, call.shape, layout, x.shape[0])
        tracker.mark_captured()
        if pooling:
            return
        if wanted is None or seen in wanted:
            maps[seen] = call.attention()
        seen += 1

    tracker = ModuleTracker(model, lambda: calls)
    interceptor = Interceptor(keep, x.shape[0], lambda: tracker.current)
    tracker.attach()
    try:
        with without_fast_path(), interceptor:
            model(x)
    finally:
        tracker.detach()
    coverage.check(model, tracker, interceptor, layout)
    missing = sorted((wanted or set()) - maps.keys())
    if missing:
        raise InputError(f"the model has layers 0 to {seen - 1}, got {', '.join(map(str, missing))}")
    return maps
