"""Reading a model's attention while it runs: A @ W for every layer, and the model untouched."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from siftlens.attention import coverage
from siftlens.attention.calls import AttentionCall
from siftlens.attention.intercept import Interceptor, without_fast_path
from siftlens.attention.layout import find_layout, first_attention, split_prefix
from siftlens.attention.modules import ModuleTracker
from siftlens.attention.weights import KeyWeights, mean_squared_distance
from siftlens.core import CaptureError, InputError, PatchGrid, TokenLayout


@dataclass(frozen=True)
class LayerReading:
    """One attention of the model, read through the channels W.

    Attributes:
        name: dotted name of the module that ran it.
        values: A @ W; prefix tokens weigh zero as keys. Float32, or float64 for a float64 model.
        prefix_mass: attention on class (and distillation) tokens, and on registers.
        mean_squared_distance: of each patch to the patches that it attends to, px^2, attention renormalised over
            patches; NaN for prefix queries.
        entropy: of each row of A over all tokens, nat; None where it was not asked for.
        backend: the kernel that computed it, or "eager".
    """

    name: str
    values: Float[Tensor, "batch head token channel"]
    prefix_mass: Float[Tensor, "batch head token 2"]
    mean_squared_distance: Float[Tensor, "batch head token"]
    entropy: Float[Tensor, "batch head token"] | None
    backend: str


@dataclass
class Reading:
    """What was read in one forward pass.

    Attributes:
        layers: in call order.
        pool: attention pooling heads, whose queries are not the tokens: `mean_squared_distance` is NaN.
        layout: what stands at which token.
        token_norms: norm of each token after each layer's block, (batch, token), by layer; a layer is missing
            where no module's output has a token axis.
    """

    layers: list[LayerReading] = field(default_factory=list)
    pool: list[LayerReading] = field(default_factory=list)
    layout: TokenLayout | None = None
    token_norms: dict[int, Float[Tensor, "batch token"]] = field(default_factory=dict)


OnLayer = Callable[[int, LayerReading], None]
_active = threading.local()


@contextmanager
def read_attention(
    model: nn.Module,
    channels: Float[Tensor, "*batch patch channel"],
    *,
    grid: PatchGrid | TokenLayout | None = None,
    entropy: bool = False,
    weighting: str = "attention",
) -> Iterator[Reading]:
    """Read every attention of the one forward pass that runs inside, through channels of weights on the keys.

    A is never built where the model runs a fused kernel: A @ W is a further call of the same kernel with W as the
    value. The model's output is bit-identical where it already calls fused attention, and agrees to rounding where
    a fast path of `nn.MultiheadAttention` had to be turned off.

    Args:
        model: a PyTorch vision transformer in evaluation mode; any code that ends in torch's attention operators.
        channels: weights W on the patches as keys, (patch, channel), or (batch, patch, channel).
        grid: how the image is cut into patches; found on the model itself where it is called on images. A
            `TokenLayout` also tells class tokens from registers.
        entropy: also compute the entropy of every row, by one more call.
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
    reading = Reading()

    def keep(_: int, layer: LayerReading) -> None:
        reading.layers.append(layer)

    with observe(model, channels, grid=grid, entropy=entropy, weighting=weighting, on_layer=keep, into=reading):
        yield reading


@contextmanager
def observe(
    model: nn.Module,
    channels: Float[Tensor, "*batch patch channel"],
    *,
    on_layer: OnLayer,
    grid: PatchGrid | TokenLayout | None = None,
    entropy: bool = False,
    weighting: str = "attention",
    token_norms: bool = False,
    into: Reading | None = None,
) -> Iterator[Reading]:
    """Like `read_attention`, but hand each layer over as soon as it is read, and keep none: memory stays flat."""
    if getattr(_active, "session", None) is not None:
        raise CaptureError("attention is being read already in this thread; leave that context first")
    session = _Session(model, channels, grid, entropy, weighting, on_layer, token_norms, into or Reading())
    _active.session = session
    try:
        with session.attached():
            yield session.reading
        session.expect_forward()
    finally:
        _active.session = None


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
        reading: Reading,
    ):
        coverage.refuse_unreadable(model)
        self.model, self.channels, self.grid = model, channels, grid
        self.entropy, self.weighting, self.on_layer = entropy, weighting, on_layer
        self.reading = reading
        self.calls = 0
        self.tracker = ModuleTracker(model, lambda: self.calls, keep_norms=token_norms)
        self.thread = threading.get_ident()
        self.forwards = 0
        self.weights: KeyWeights | None = None
        self.interceptor: Interceptor | None = None
        self.running = ExitStack()
        self.image_batch: int | None = None
        self.busy = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        before = self.model.register_forward_pre_hook(self._begin, with_kwargs=True)
        after = self.model.register_forward_hook(self._end, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            self._switch_off()

    def expect_forward(self) -> None:
        if self.forwards == 0:
            raise CaptureError("no forward pass of the model ran inside the context; call model(images) in it")

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.busy:  # the layout is being found by a forward pass of our own
            return
        if threading.get_ident() != self.thread:
            raise CaptureError("the model was called from another thread than the one that reads it")
        if self.forwards:
            raise CaptureError("a second forward pass in one reading; open a new context for every forward pass")
        self.forwards = 1
        images = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        self.image_batch = images.shape[0] if images is not None and images.ndim == 4 else None
        self.reading.layout = self._layout(model, images, args, kwargs)
        self.weights = KeyWeights(self.channels, self.reading.layout, self.weighting)
        if self.image_batch is not None and self.weights.batch not in (1, self.image_batch):
            raise InputError(f"channels are for {self.weights.batch} images, but the model got {self.image_batch}")
        self.interceptor = Interceptor(self._on_call, self.image_batch, lambda: self.tracker.current)
        self.tracker.sequence = (self.image_batch or 0, self.reading.layout.tokens)
        self.tracker.attach()
        self.running.enter_context(without_fast_path())
        self.running.enter_context(self.interceptor)

    def _layout(
        self, model: nn.Module, images: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TokenLayout:
        if isinstance(self.grid, TokenLayout):
            return self.grid
        self.busy = True
        try:
            if self.grid is not None:
                call, where = first_attention(model, lambda: model(*args, **kwargs), batch=self.image_batch or 1)
                prefix = call.shape[3] - self.grid.patches
                if prefix < 0:
                    raise CaptureError(
                        f"{where}: attention over {call.shape[3]} keys, but the grid has {self.grid.patches} patches; "
                        "windowed, channel or pooled attention cannot be read"
                    )
                return split_prefix(model, self.grid, prefix)
            if images is None or images.ndim != 4:
                raise CaptureError(
                    f"{type(model).__name__} is not called on images (batch, channel, height, width); "
                    "pass grid=PatchGrid(rows, cols, patch_height, patch_width)"
                )

            def forward(probes: Tensor) -> Any:
                swap = partial(_for_probes, images=images, probes=probes)
                return model(*map(swap, args), **{name: swap(value) for name, value in kwargs.items()})

            return find_layout(model, images, forward=forward)
        finally:
            self.busy = False

    def _end(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self.busy or self.interceptor is None:
            return
        interceptor, self.interceptor = self.interceptor, None
        self._switch_off()
        if output is not None:  # None: the forward pass raised, and its own error matters more
            assert self.reading.layout is not None
            coverage.check(self.model, self.tracker, interceptor, self.reading.layout)
            self.reading.token_norms = self.tracker.token_norms

    def _switch_off(self) -> None:
        self.running.close()
        self.tracker.detach()

    def _on_call(self, call: AttentionCall) -> None:
        layout, weights, name = self.reading.layout, self.weights, self.tracker.current
        assert layout is not None and weights is not None
        batch, _, queries, keys = call.shape
        pooling = coverage.classify(name, call.shape, layout, self.image_batch)
        self.calls += 1
        self.tracker.mark_captured()
        if pooling and keys == layout.grid.patches != layout.tokens:
            weights = KeyWeights(self.channels, TokenLayout(layout.grid), self.weighting)
        carried = weights.apply(call)
        distance = (
            carried.patch_mass.new_full((batch, call.shape[1], queries), torch.nan)
            if pooling
            else mean_squared_distance(carried, layout)
        )
        layer = LayerReading(
            name,
            carried.values,
            carried.prefix_mass,
            distance,
            call.entropy() if self.entropy else None,
            call.backend,
        )
        if pooling:
            self.reading.pool.append(layer)
        else:
            self.on_layer(self.calls - 1 - len(self.reading.pool), layer)


def _for_probes(argument: Any, *, images: Tensor, probes: Tensor) -> Any:
    """A forward argument for the probe images: the images themselves, or the first image's share of a batch."""
    if argument is images:
        return probes
    if isinstance(argument, Tensor) and argument.shape[:1] == images.shape[:1]:
        return argument[:1].expand(probes.shape[0], *argument.shape[1:])
    return argument
