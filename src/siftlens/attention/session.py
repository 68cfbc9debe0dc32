"""Reading attention while it runs: A @ W for every layer, and the model untouched."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from siftlens.attention.calls import AttentionCall
from siftlens.attention.capture import Capture, capturing
from siftlens.attention.coverage import Roll, refuse_unreadable
from siftlens.attention.hooks import Hook
from siftlens.attention.intercept import Interceptor
from siftlens.attention.layout import given_grid, layout_of
from siftlens.attention.memory import forget
from siftlens.attention.precision import full_precision
from siftlens.attention.reading import LayerReading, Reading
from siftlens.attention.trial import Trial, on_trial
from siftlens.attention.weights import KeyWeights
from siftlens.core import CaptureError, InputError, PatchGrid, TokenLayout

OnLayer = Callable[[LayerReading], None]
_active = threading.local()


@contextmanager
def read_attention(
    model: nn.Module,
    channels: Shaped[Tensor, "*batch patch channel"],
    *,
    grid: PatchGrid | TokenLayout | None = None,
    entropy: bool = False,
    weighting: str = "attention",
) -> Iterator[Reading]:
    """Read every attention of the one forward pass that runs inside, through channels of weights on the keys.

    A as a whole is never built where the model runs a fused kernel: A @ W is a further call of the same kernel with W
    as the value, or goes through a few rows of A at a time where the entropy is asked for too. The model's output is
    bit-identical where it already calls fused attention, and agrees to rounding where a fast path of
    `nn.MultiheadAttention` had to be turned off.

    Args:
        model: a PyTorch vision transformer in evaluation mode; any code that ends in torch's attention operators.
        channels: weights W on the patches as keys, (patch, channel), or (batch, patch, channel).
        grid: how the image is cut into patches; found on the model itself where it is called on images. A
            `TokenLayout` also tells class tokens from registers, and is taken as it is. Otherwise the first context on
            a model, and one after each change of it, costs trial runs of some tens of images.
        entropy: also compute the entropy of every row.
        weighting: "attention", or "value_norm" to weight each key by the norm of its value vector.

    Yields:
        The reading; its `layers` are complete when the forward pass has returned.

    Raises:
        InputError: channels that do not fit.
        CaptureError: attention that cannot be read or was missed, named by module; a second forward pass.

    Example:
        >>> with siftlens.read_attention(model, channels) as reading:
        ...     logits = model(images)
        >>> reading.layers[0].values.shape
        torch.Size([2, 12, 197, 5])
    """
    layers: list[LayerReading] = []
    with observe(model, channels, grid=grid, entropy=entropy, weighting=weighting, on_layer=layers.append) as reading:
        reading.layers = layers
        yield reading


@contextmanager
def observe(
    model: nn.Module,
    channels: Shaped[Tensor, "*batch patch channel"],
    *,
    on_layer: OnLayer,
    grid: PatchGrid | TokenLayout | None = None,
    entropy: bool = False,
    weighting: str = "attention",
    token_norms: bool = False,
) -> Iterator[Reading]:
    """Like `read_attention`, but hand each layer over as soon as it is read, and keep none: memory stays flat."""
    expect_unread()
    session = _Session(model, channels, grid, entropy, weighting, on_layer, token_norms)
    _active.session = session
    try:
        with session.attached():
            yield session.reading
        session.expect_forward()
    finally:
        _active.session = None


def expect_unread() -> None:
    """Check that no reading is open in this thread.

    Raises:
        CaptureError: one is.
    """
    if getattr(_active, "session", None) is not None:
        raise CaptureError("attention is being read already in this thread; leave that context first")


def expect_no_pass_read() -> None:
    """Check that no pass is being read in this thread: whoever changes what the model does must begin before that.

    Raises:
        CaptureError: one is.
    """
    if any(isinstance(mode, Interceptor) for mode in _get_current_dispatch_mode_stack()):
        raise CaptureError(
            "a prompt cannot begin in a forward pass whose attention is being read; read inside of it: "
            "with siftlens.prompt(model, policy, maps): with siftlens.read_attention(model, channels): model(images), "
            "the same model in both; of what siftlens.prompted returned, take .model, .policy and .maps(images)"
        )


class _Session:
    """One context: hooks on the root module switch the interceptor on for exactly one forward pass."""

    def __init__(
        self,
        model: nn.Module,
        channels: Tensor,
        grid: PatchGrid | TokenLayout | None,
        entropy: bool,
        weighting: str,
        on_layer: OnLayer,
        token_norms: bool,
    ):
        refuse_unreadable(model)
        if not isinstance(entropy, bool):
            raise InputError(f"entropy must be True or False, got {entropy!r}")
        if grid is not None and not isinstance(grid, PatchGrid | TokenLayout):
            raise InputError(f"grid must be a PatchGrid or a TokenLayout, got {grid!r}")
        self.model, self.channels, self.grid = model, channels, grid
        self.entropy, self.weighting, self.on_layer = entropy, weighting, on_layer
        self.token_norms, self.reading = token_norms, Reading()
        self.thread = threading.get_ident()
        self.running = ExitStack()
        self.state = "waiting"  # then: probing, reading, done
        self.capture: Capture

    @contextmanager
    def attached(self) -> Iterator[None]:
        hooks = [
            self.model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True),
            self.model.register_forward_hook(Hook(self._finish)),
            self.model.register_forward_hook(Hook(self._switch_off), always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.running.close()
            if self.state != "done":
                forget(self.model)  # what was found may not hold any more

    def expect_forward(self) -> None:
        if self.state == "waiting":
            raise CaptureError("no forward pass of the model ran inside the context; call model(images) in it")
        if self.state != "done":
            raise CaptureError("the forward pass raised an error, so the reading is not complete; open a new context")

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.own_thread:
            raise CaptureError("the model was called from another thread than the one that reads it")
        if on_trial():
            return
        if self.state != "waiting":
            raise CaptureError("a second forward pass in one reading; open a new context for every forward pass")
        if torch._C._are_functorch_transforms_active():
            raise CaptureError(
                f"{type(model).__name__} runs inside a transform of torch.func (vmap, grad, jvp); call it outside"
            )
        refuse_unreadable(model)  # again: it may have been changed meanwhile
        self.state = "probing"
        trial = Trial(model, args, kwargs)
        batch = None if trial.images is None else len(trial.images)
        layout = self.reading.layout = self._layout(trial)
        self.state = "reading"
        self.weights = KeyWeights(self.channels, layout, self.weighting)
        if batch is not None and self.weights.batch not in (1, batch):
            raise InputError(f"channels are for {self.weights.batch} images, but the model got {batch}")
        self.roll = Roll(layout, batch)
        self.capture = self.running.enter_context(
            capturing(
                model,
                batch,
                full_precision()(self._on_call),
                keep_norms=(batch or 0, layout.tokens) if self.token_norms else None,
                unfold=not isinstance(self.grid, TokenLayout),  # for which no trial was made
            )
        )

    @property
    def own_thread(self) -> bool:
        """Whether this is the thread that reads."""
        return threading.get_ident() == self.thread

    def _layout(self, trial: Trial) -> TokenLayout:
        if isinstance(self.grid, TokenLayout):
            return self.grid
        if self.grid is not None:
            return given_grid(trial, self.grid)
        if trial.images is None:
            raise CaptureError(
                f"{type(trial.model).__name__} is not called on images (batch, channel, height, width); "
                "pass grid=PatchGrid(rows, cols, patch_height, patch_width)"
            )
        return layout_of(trial)

    def _finish(self, *_: Any) -> None:
        # Not called where the forward pass raised: its own error matters more.
        if self.state == "reading" and not on_trial():
            self.running.close()
            self.roll.check(self.capture)
            self.reading.token_norms = self.capture.tracker.token_norms
            self.state = "done"

    def _switch_off(self, *_: Any) -> None:
        if self.own_thread and not on_trial():  # a refused call of another one must not end the pass under way here
            self.running.close()

    def _on_call(self, capture: Capture, call: AttentionCall) -> None:
        layout, weights = self.weights.layout, self.weights
        batch, heads, queries, keys = call.shape
        layer = self.roll.enter(capture.tracker, call)
        if layer is None and keys == layout.grid.patches != layout.tokens:
            weights = KeyWeights(self.channels, TokenLayout(layout.grid), self.weighting)
        carried = weights.apply(call, entropy=self.entropy)
        distance = (
            carried.patch_mass.new_full((batch, heads, queries), torch.nan)
            if layer is None
            else weights.mean_squared_distance(carried)
        )
        reading = LayerReading(
            capture.tracker.current,
            carried.values,
            carried.prefix_mass,
            distance,
            carried.entropy,
            call.backend,
        )
        if layer is None:
            self.reading.pool.append(reading)
        else:
            self.on_layer(reading)
