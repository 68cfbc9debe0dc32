"""Trial runs: the model as its user calls it, but on images of our own."""

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from siftlens.attention.calls import AttentionCall, token_change
from siftlens.attention.capture import Capture, capturing
from siftlens.attention.coverage import Roll, no_attention
from siftlens.core import CaptureError, SiftlensError, TokenLayout

_APART = 0.1  # share of a token's size that equal images may differ by: rounding, not another head's values
_trials = threading.local()


class _Stop(BaseException):
    """Ends a forward pass at its first attention; not an Exception, so that no model catches it."""


def on_trial() -> bool:
    """Whether the model that runs in this thread is on a trial: nobody else should read it, or change what it does."""
    return getattr(_trials, "depth", 0) > 0


@contextmanager
def trying() -> Iterator[None]:
    """Mark the forward passes inside as trials."""
    _trials.depth = getattr(_trials, "depth", 0) + 1
    try:
        yield
    finally:
        _trials.depth -= 1


def _made_like(own: Tensor, other: Tensor) -> Shaped[Tensor, "..."]:
    """A copy that is an inference tensor if the model's own is one: views of it must be of that kind."""
    with torch.inference_mode(own.is_inference()):
        return other.clone()


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_meta


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Parameters that a trial sees instead must not be what autocast remembers of the model's own."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave random numbers as they are that are not torch's."""
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state(legacy=False)
    try:
        yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)


class CallForm:
    """The arguments of a call of a model, of which the first tensor is the images.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.

    Attributes:
        images: (batch, channel, height, width); None where the model is called on something else.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self._args, self._kwargs = args, kwargs
        first = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        self.images = first if first is not None and first.ndim == 4 else None

    @property
    def arguments(self) -> list[tuple[int | str, Any]]:
        """By place or name."""
        return [*enumerate(self._args), *self._kwargs.items()]

    def on(self, images: Tensor | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for other images, or for these themselves; copies, for a model may write to them."""
        args, kwargs = tree_map(lambda given: self._replaced(given, images), (self._args, self._kwargs))
        return args, kwargs

    def _replaced(self, argument: Any, images: Tensor | None) -> Any:
        """A part of the arguments for other images: these themselves, or the first image's share of a batch."""
        if not isinstance(argument, Tensor):
            return argument
        if images is None or self.images is None:
            return argument.clone()
        if argument is self.images:
            return images.clone()
        if argument.shape[:1] == self.images.shape[:1]:
            return argument[:1].repeat(len(images), *[1] * (argument.ndim - 1))
        return argument.clone()


class Trial:
    """A model and how it is called.

    Args:
        model: the model.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.

    Attributes:
        form: of the call.
        images: of it; None where the model is called on something else.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.model, self.form = model, CallForm(args, kwargs)
        self.images = self.form.images

    def noise(self, count: int) -> Float[Tensor, "image channel height width"]:
        """Images of Gaussian noise, always the same, in the size, type and place of the call's own."""
        assert self.images is not None
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, *self.images.shape[1:], generator=generator).to(self.images)

    def first_attention(
        self, images: Tensor | None = None, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[AttentionCall, str]:
        """Run up to the first attention and return that and its module's name.

        Args:
            images: in place of the call's own.
            parameters: in place of the model's own, by name.

        Raises:
            CaptureError: no attention runs.
        """
        found: list[tuple[AttentionCall, str]] = []

        def stop(capture: Capture, call: AttentionCall) -> None:
            _, _, queries, keys = call.shape
            lost = capture.interceptor.unused_softmaxes()
            if any(queries != keys or record.keys == keys for record in lost):
                raise no_attention(capture)  # the first that can be read, but not the first that ran
            found.append((call, capture.tracker.current))
            raise _Stop

        try:
            capture = self.run(images, stop, parameters or {})
        except _Stop:
            return found[0]
        raise no_attention(capture)

    def check_images_apart(self, layout: TokenLayout) -> None:
        """Check on two equal images that every attention is read, and keeps images and heads on axes of their own.

        A model may fold them into one axis, heads first, or attend along the batch: nothing in a shape shows it.

        Raises:
            CaptureError: equal images get different attention; attention that is not over the whole grid, or missed.
        """
        roll = Roll(layout, 2)

        def compare(capture: Capture, call: AttentionCall) -> None:
            roll.enter(capture.tracker, call)
            first, second = call.value.split(1)
            size = token_change(first, torch.zeros_like(first)).max()
            if bool(token_change(first, second).max() > _APART * size):
                raise CaptureError(
                    f"{capture.tracker.current}: two equal images get different attention; expected (batch, head, "
                    "query, key), or both in one axis with the batch first, and no random numbers; such attention "
                    "cannot be read"
                )

        roll.check(self.run(self.noise(1).repeat(2, 1, 1, 1), compare, {}))

    def run(
        self,
        images: Tensor | None,
        on_call: Callable[[Capture, AttentionCall], None],
        parameters: Mapping[str, Tensor],
        *,
        isolated: bool = False,
    ) -> Capture:
        """One forward pass without gradients that hands every attention to `on_call`.

        Args:
            images: in place of the call's own; None for these.
            on_call: receives each attention.
            parameters: in place of the model's own, by name.
            isolated: let each token attend to itself alone.
        """
        args, kwargs = self.form.on(images)
        batch = self.images if images is None else images
        devices = [p.device for p in self.model.parameters() if p.device.type == "cuda"][:1]
        buffers = dict(self.model.named_buffers())
        own = {**dict(self.model.named_parameters()), **buffers}
        # Of its buffers the model sees copies, because some models count or measure in them.
        seen = {name: buffer for name, buffer in buffers.items() if _is_plain(buffer)} | dict(parameters)
        instead = [(own[name], _made_like(own[name], other)) for name, other in seen.items()]
        images_in_batch = None if batch is None else len(batch)
        with (
            torch.random.fork_rng(devices),
            _same_random_numbers(),
            torch.no_grad(),
            _without_autocast_cache(),
            capturing(self.model, images_in_batch, on_call, isolated=isolated, instead=instead) as capture,
            trying(),
        ):
            try:
                self.model(*args, **kwargs)
            except Exception as error:
                if images is not None and not isinstance(error, SiftlensError):
                    error.add_note(
                        f"siftlens was trying {type(self.model).__name__} on {images_in_batch} images of its own, in "
                        "place of yours, and with other arguments of your batch's length repeated; read_attention does "
                        "not with grid=TokenLayout(PatchGrid(...), class_tokens=..., registers=...)"
                    )
                raise
        return capture
