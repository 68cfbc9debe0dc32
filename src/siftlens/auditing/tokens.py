"""Taking hold of a model's tokens: reading them between two blocks, dropping and replacing them before the first."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import ref

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from siftlens.attention.calls import AttentionCall
from siftlens.attention.capture import Capture, capturing
from siftlens.attention.coverage import Roll, refuse_unreadable
from siftlens.attention.trial import CallForm
from siftlens.auditing.positions import CutBiases, Positions
from siftlens.core import CaptureError, TokenLayout

_SAME = 1e-3  # share of the logits' spread that rounding may change them by
_HALVES = (torch.bfloat16, torch.float16)

Change = Callable[[Float[Tensor, "image token dim"]], Float[Tensor, "image kept dim"]]


class _Stop(BaseException):
    """Ends a forward pass before the first block; not an Exception, so that no model catches it."""


class _InSingle(TorchDispatchMode):
    """Every operator computes in float32 where it would in halves; what it writes into must be no half."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(_single, (args, kwargs or {}))
        return func(*args, **kwargs)


def _single(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.float() if given.dtype in _HALVES else given
    return torch.float32 if isinstance(given, torch.dtype) and given in _HALVES else given


class TokenAccess:
    """The places of a model where its tokens can be taken hold of.

    Found and tried on noise: before the first block, tokens may be dropped or put in another order, and the model must
    not care about the order. Positions that come in inside the blocks, as rotary embeddings or biases of fused
    attention, go along. What fails is a model that has them elsewhere, or that needs every token.

    Args:
        model: a vision transformer in evaluation mode.
        layout: what stands at which token.
        example: images of the shape, type and device that the model sees; their content does not matter.
        form: of a call, where the model takes more than images.

    Attributes:
        blocks: names of the modules around each layer's attention.

    Raises:
        CaptureError: its tokens cannot be dropped, or its attention cannot be read.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: TokenLayout,
        example: Float[Tensor, "image channel height width"],
        form: CallForm | None = None,
    ):
        refuse_unreadable(model)
        self._of, self._layout, self._form = ref(model), layout, form or CallForm((example,), {})
        noise = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
        frames = _frames(model, layout, noise, self._form)
        candidates = (tuple(names[min(depth, len(names) - 1)] for names in frames) for depth in range(len(frames[0])))
        found = next((blocks for blocks in candidates if self._can_change(blocks, noise)), None)
        if found is None:
            raise CaptureError(
                f"{type(model).__name__}: its tokens cannot be dropped one by one (positions that come in where they "
                "cannot be followed, or a head that needs every token); expected positions that are added before the "
                "first block, or given to blocks or to fused attention"
            )
        self.blocks = found

    @property
    def _model(self) -> nn.Module:
        """Not held: what is known of a model must not keep it alive."""
        model = self._of()
        assert model is not None
        return model

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_of": self._model}  # to another process, whoever holds this sends the model, too

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_of": ref(state["_of"])}

    @contextmanager
    def changed(self, change: Change) -> Iterator[None]:
        """Change the tokens before the first block, in every forward pass inside."""
        with self._changed(self.blocks[0], change):
            yield

    def replacing(self, patches: Bool[Tensor, "image patch"], donors: Float[Tensor, "image token dim"]) -> Change:
        """The change that takes these patches of each image from another image, at the same places."""
        prefix = self._layout.prefix

        def swap(tokens: Tensor) -> Tensor:
            swapped = torch.where(patches.to(tokens.device)[:, :, None], donors[:, prefix:], tokens[:, prefix:])
            return torch.cat([tokens[:, :prefix], swapped], dim=1)

        return swap

    @contextmanager
    def keeping(self, kept: Int[Tensor, "image patch"]) -> Iterator[None]:
        """Keep the prefix and, of each image, only these patches, in every forward pass inside: sequences shrink."""
        with self._keeping(self.blocks, kept):
            yield

    @torch.no_grad()
    def embed(self, x: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image token dim"]:
        """Tokens before the first block; the model runs no further than that."""
        held: list[Tensor] = []

        def stop(tokens: Tensor) -> Tensor:
            held.append(tokens)
            raise _Stop

        try:
            with self.changed(stop):
                self._model(x)
        except _Stop:
            pass
        return held[0]

    @contextmanager
    def read(self, layer: int) -> Iterator[list[Float[Tensor, "image patch dim"]]]:
        """Patch tokens after a layer's block, one entry for each forward pass inside."""
        found: list[Tensor] = []

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            tokens = output[0] if isinstance(output, tuple | list) else output
            found.append(tokens[:, self._layout.prefix :].detach())

        handle = self._model.get_submodule(self.blocks[layer]).register_forward_hook(note)
        try:
            yield found
        finally:
            handle.remove()

    @contextmanager
    def _changed(self, name: str, change: Change) -> Iterator[None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            place = self._place_of_tokens(args, kwargs)
            return _with(args, kwargs, place, lambda value, here: change(value) if here else value)

        handle = self._model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _keeping(self, names: Sequence[str], kept: Int[Tensor, "image patch"]) -> Iterator[None]:
        prefix = self._layout.prefix
        positions = Positions(kept, self._layout.grid.patches, prefix)
        place: int | str = 0

        def drop(tokens: Tensor) -> Tensor:
            index = (kept.to(tokens.device) + prefix)[:, :, None].expand(-1, -1, tokens.shape[2])
            return torch.cat([tokens[:, :prefix], tokens.gather(1, index)], dim=1)

        def first(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            nonlocal place
            place = self._place_of_tokens(args, kwargs)
            return _with(args, kwargs, place, lambda value, here: drop(value) if here else positions.of_rows(value))

        def later(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return _with(args, kwargs, place, lambda value, here: value if here else positions.of_rows(value))

        with ExitStack() as stack:
            for name, hook in zip(names, (first, *[later] * (len(names) - 1)), strict=True):
                handle = self._model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            stack.enter_context(CutBiases(positions))
            yield

    def _place_of_tokens(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str:
        """Which argument of a block holds the tokens.

        Raises:
            StopIteration: none does.
        """
        tokens = self._layout.tokens
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        return next(
            place
            for place, value in given
            if isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] == tokens
        )

    @torch.no_grad()
    def _can_change(self, blocks: Sequence[str], noise: Tensor) -> bool:
        """Whether patches before the first of these modules can be reordered without effect, and dropped."""
        patches, device = self._layout.grid.patches, noise.device.type
        calls = iter([self._form.on(noise) for _ in range(3)])  # a copy for each: a model may write to what it is given

        def run() -> Tensor:
            args, kwargs = next(calls)
            output: Tensor = self._model(*args, **kwargs)
            return output

        mixed = torch.randperm(patches, generator=torch.Generator().manual_seed(0)).expand(len(noise), -1)
        try:
            with torch.autocast(device, enabled=False), _InSingle():  # halves round by more than positions may do
                before = run()
                with self._keeping(blocks, mixed):
                    reordered = run()
                with self._keeping(blocks, mixed[:, : patches // 2]):
                    fewer = run()
        except (StopIteration, RuntimeError, ValueError, LookupError, AssertionError, AttributeError, TypeError):
            return False
        if not before.shape == reordered.shape == fewer.shape:
            return False
        return bool((before - reordered).abs().max() <= _SAME * (before - fewer).abs().max())


def _with(
    args: tuple[Any, ...], kwargs: dict[str, Any], place: int | str, change: Callable[[Any, bool], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, each changed, given whether it is the one in that place."""
    return (
        tuple(change(value, number == place) for number, value in enumerate(args)),
        {name: change(value, name == place) for name, value in kwargs.items()},
    )


def _frames(model: nn.Module, layout: TokenLayout, images: Tensor, form: CallForm) -> list[list[str]]:
    """For each layer, the names of the modules that hold its attention and no other's, outermost first."""
    roll, layers = Roll(layout, len(images)), []

    def note(capture: Capture, call: AttentionCall) -> None:
        if roll.enter(capture.tracker, call) is not None:
            layers.append(len(capture.tracker.ran) - 1)

    with torch.no_grad(), capturing(model, len(images), note) as capture:
        args, kwargs = form.on(images)
        model(*args, **kwargs)
    roll.check(capture)
    ran = capture.tracker.ran
    return [
        [name for name in ran[here] if all(name not in names for there, names in enumerate(ran) if there != here)]
        for here in layers
    ]
