"""One forward pass with everything on that sees its attention, and off again afterwards."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siftlens.attention.calls import AttentionCall
from siftlens.attention.intercept import Interceptor
from siftlens.attention.modules import ModuleTracker


@dataclass(frozen=True)
class Capture:
    """What sees a forward pass: the modules that run, and the operators in them."""

    model: nn.Module
    tracker: ModuleTracker
    interceptor: Interceptor


@contextmanager
def capturing(
    model: nn.Module,
    batch: int | None,
    on_call: Callable[[Capture, AttentionCall], None],
    *,
    keep_norms: tuple[int, int] | None = None,
    unfold: bool = True,
    isolated: bool = False,
    instead: Sequence[tuple[Tensor, Tensor]] = (),
) -> Iterator[Capture]:
    """Hand every attention of the forward pass that runs inside to `on_call`, with what else was seen so far."""
    tracker = ModuleTracker(model, keep_norms)
    interceptor = Interceptor(
        lambda call: on_call(capture, call),
        batch,
        lambda: tracker.current,
        unfold=unfold,
        isolated=isolated,
        instead=instead,
    )
    capture = Capture(model, tracker, interceptor)
    tracker.attach()
    try:
        with without_fast_path(), interceptor:
            yield capture
    finally:
        tracker.detach()


_fast_path_lock = threading.Lock()
_fast_path_users = 0
_fast_path_before = True


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Turn off the inference fast paths of `nn.MultiheadAttention`, which hide their attention.

    The switch is process-wide, so it is counted: the last reader to leave restores it.
    """
    global _fast_path_users, _fast_path_before
    with _fast_path_lock:
        if _fast_path_users == 0:
            _fast_path_before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _fast_path_users += 1
    try:
        yield
    finally:
        with _fast_path_lock:
            _fast_path_users -= 1
            if _fast_path_users == 0:
                torch.backends.mha.set_fastpath_enabled(_fast_path_before)
