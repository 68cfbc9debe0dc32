"""`prompt`: a model under a policy, for as long as one stays inside."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from siftlens.attention.capture import without_fast_path
from siftlens.attention.coverage import refuse_unreadable
from siftlens.attention.hooks import Hook
from siftlens.attention.memory import forget
from siftlens.attention.session import expect_no_pass_read
from siftlens.attention.trial import CallForm, on_trial
from siftlens.core import CaptureError, InputError
from siftlens.models import LoadedModel
from siftlens.prompting.biases import Biases
from siftlens.prompting.contrast import class_scores
from siftlens.prompting.patches import even, highest, painted_over
from siftlens.prompting.plan import Plan, plan_of
from siftlens.prompting.policy import Policy
from siftlens.prompting.steering import Steering

_prompted: WeakSet[nn.Module] = WeakSet()
_lock = threading.RLock()


class Prompting:
    """A prompt at work.

    Attributes:
        plan: what was found out about the model; None before its first forward pass. Who knows it may set it before.
    """

    def __init__(self, model: nn.Module, policy: Policy, maps: Tensor):
        self.plan: Plan | None = None
        self._model, self._policy, self._maps = model, policy, maps
        self._thread = threading.get_ident()
        self._running = ExitStack()
        self._viewing = False  # the cue-only view of the contrast is on its way
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._passes = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on the root module turn the prompt on for exactly its forward passes."""
        model = self._model
        hooks = [
            model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True),
            model.register_forward_hook(Hook(self._finish)),
            model.register_forward_hook(Hook(self._switch_off), always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._running.close()

    def expect_forward(self) -> None:
        """Refuse a context in which nothing was prompted."""
        if not self._passes:
            raise CaptureError("no forward pass of the model ran inside the prompt; call model(images) in it")

    @property
    def _own_thread(self) -> bool:
        return threading.get_ident() == self._thread

    @property
    def _aside(self) -> bool:
        """Whether the forward pass is not the one to prompt: a trial on noise, or the cue-only view."""
        return on_trial() or self._viewing

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._own_thread:
            raise CaptureError("the model was called from another thread than the one that prompts it")
        if self._aside:
            return None
        policy = self._policy
        if not policy.does_nothing:
            expect_no_pass_read()
        self._running.close()  # where an interrupt was caught inside a pass before
        if torch._C._are_functorch_transforms_active():
            raise CaptureError(
                f"{type(model).__name__} cannot be prompted inside a transform of torch.func; call it outside"
            )
        if torch.is_grad_enabled() and any(_checkpointing(module) for module in model.modules()):
            raise CaptureError(
                f"{type(model).__name__} checkpoints its activations, and would compute them anew without the prompt; "
                "turn gradient checkpointing off, or run it under torch.no_grad()"
            )
        self._passes += 1
        self._call = (args, kwargs)
        if policy.does_nothing:
            return None
        images = CallForm(args, kwargs).images
        if self.plan is None or self._passes > 1:
            self.plan = plan_of(model, args, kwargs)
        plan = self.plan
        assert images is not None
        maps = self._fitting(len(images), plan).to(images.device)
        plan.expect(policy)
        if policy.masks:
            assert policy.pixels is not None
            painted = painted_over(images, highest(maps, policy.pixels.keep), plan.layout.grid, policy.pixels.fill)
            painted = torch.where(even(maps)[:, None, None, None], images, painted)
            args = tuple(painted if arg is images else arg for arg in args)
            kwargs = {name: painted if arg is images else arg for name, arg in kwargs.items()}
        if policy.chooses:
            assert policy.tokens is not None
            kept = highest(maps, policy.tokens.keep)
            maps = maps.gather(1, kept)
        if policy.biased:
            _expect_finite(policy, maps, images)
            self._running.enter_context(without_fast_path())
            self._steering = self._running.enter_context(Steering(Biases(policy, plan, maps)))
        if policy.chooses:  # last, so that a model's own biases are cut before any is added
            self._running.enter_context(plan.access.keeping(kept))
        return args, kwargs

    def _finish(self, model: nn.Module, _args: Any, output: Any) -> Any:
        if self._aside or self._policy.does_nothing:
            return None
        self._running.close()
        assert self.plan is not None
        if self._policy.biased and self._steering.sites != self.plan.sites:
            raise CaptureError(
                f"{type(model).__name__}: {self._steering.sites} calls looked like attention, {self.plan.sites} when "
                "it was tried; a model whose code changes from pass to pass cannot be prompted, one that was changed "
                "meanwhile is tried anew in the next context"
            )
        return self._contrasted(output) if self._policy.contrasts else None

    def _switch_off(self, *_: Any) -> None:
        if self._own_thread and not self._aside:  # a refused call of another one must not end the pass under way here
            self._running.close()

    def _fitting(self, images: int, plan: Plan) -> Float[Tensor, "image patch"]:
        grid = plan.layout.grid
        if self._maps.shape != (images, grid.patches):
            raise InputError(
                f"maps must be (image, patch) for {images} images of {grid.patches} patches ({grid.rows} rows x "
                f"{grid.cols} columns), got {tuple(self._maps.shape)}"
            )
        return self._maps

    def _contrasted(self, output: Any) -> Float[Tensor, "image class"]:
        assert self.plan is not None
        assert self._policy.contrast is not None
        strength, view = self._policy.contrast.strength, self._policy.contrast.view
        full = class_scores(self._model, output, len(self._maps))
        shown = highest(-self._maps, view).to(full.device)
        alone = not (self._policy.biased or self._policy.chooses or self._policy.masks)
        whole = shown.shape[1] == self._maps.shape[1]
        cue = full if alone and whole else self._scores_of(shown)  # with all patches it is the pass that was just made
        kept = even(self._maps).to(full.device)[:, None]
        return torch.where(kept, full, full - strength * cue).to(output.dtype)

    def _scores_of(self, shown: Int[Tensor, "image kept"]) -> Float[Tensor, "image class"]:
        """Scores of a view of the images that shows some patches only, without any prompt."""
        assert self.plan is not None
        args, kwargs = self._call
        self._viewing = True
        try:
            with self.plan.access.keeping(shown):
                return class_scores(self._model, self._model(*args, **kwargs), len(self._maps))
        finally:
            self._viewing = False


def expect_unprompted(model: nn.Module) -> None:
    """Check that neither a model, nor one that it is a part of, nor a part of it is being prompted.

    Raises:
        CaptureError: one is.
    """
    with _lock:
        around = any(part is model for other in _prompted for part in other.modules())
        if around or (_prompted and any(part in _prompted for part in model.modules())):
            raise CaptureError("this model is prompted already; leave that context, or make one policy of both")


def _expect_finite(policy: Policy, maps: Tensor, images: Tensor) -> None:
    """Check that what is added to the scores is a number in the type that they are computed in, with room to spare."""
    autocast = torch.is_autocast_enabled(images.device.type)
    dtype = torch.get_autocast_dtype(images.device.type) if autocast else images.dtype
    strength = max(abs(sum(part.strength for part in policy.bias)), *(abs(part.strength) for part in policy.bias))
    largest, limit = float(maps.abs().max()) if len(maps) else 0.0, torch.finfo(dtype).max / 4
    if strength * largest > limit:
        raise InputError(
            f"a bias of strength {strength:g} by maps of up to {largest:g} is more than {dtype} scores can hold; "
            f"keep their product below {limit:g}"
        )


def _checkpointing(module: nn.Module) -> bool:
    """By timm's name for it or by transformers'."""
    return any(getattr(module, name, False) is True for name in ("grad_checkpointing", "gradient_checkpointing"))


@contextmanager
def prompt(model: nn.Module | LoadedModel, policy: Policy, maps: Float[Tensor, "..."]) -> Iterator[Prompting]:
    """Run a model under a policy. Its weights never change, and it is as before on leaving, error or not.

    A policy that does nothing (`Policy.does_nothing`) leaves every bit of the output as it is. Inside, functions that
    torch.compile made run as they were written: a graph would hide the attention. The first forward pass, and one after
    each change of the model, is preceded by trial runs on noise.

    Args:
        model: a PyTorch vision transformer in evaluation mode, called on images, or one from `siftlens.load_model`.
        policy: what is done.
        maps: a number per patch of each image, (image, patch), row by row; higher = keep. For a bias it is g itself:
            0 moves nothing, and the size matters. For all else only the order matters.

    Yields:
        The prompt, with the plan that it found.

    Raises:
        InputError: maps that do not fit or are not finite, layers or heads that are not there, a share that leaves no
            patch, no class head for a contrast.
        CaptureError: a model whose attention cannot be read, whose tokens cannot be dropped, that is compiled, prompted
            already, or called from another thread; no forward pass inside.

    Example:
        >>> with siftlens.prompt(model, Policy(bias=(Bias(3.0),)), maps) as prompting:
        ...     logits = model(images)
    """
    if isinstance(model, LoadedModel):
        model = model.module
    if not isinstance(policy, Policy):
        raise InputError(f"policy must be a Policy, got {type(policy).__name__}; Policy.from_json reads one")
    if not isinstance(maps, Tensor):
        raise InputError(f"maps must be a tensor, got {type(maps).__name__}; torch.as_tensor makes one of an array")
    if maps.ndim != 2:
        raise InputError(f"maps must be (image, patch), got {tuple(maps.shape)}")
    if maps.is_complex() or maps.is_meta:
        raise InputError(f"maps must be real numbers, got {maps.dtype} on {maps.device}")
    maps = maps.detach() if maps.dtype == torch.float64 else maps.detach().float()
    if not bool(torch.isfinite(maps).all()):
        raise InputError(f"maps must be finite, got {int((~torch.isfinite(maps)).sum())} NaN or infinite values")
    refuse_unreadable(model)
    prompting = Prompting(model, policy, maps)
    with _lock:
        expect_unprompted(model)
        _prompted.add(model)
    try:
        with torch.compiler.set_stance("force_eager"), prompting.attached():
            yield prompting
        prompting.expect_forward()
    except BaseException:
        forget(model)  # what was found may not hold any more
        raise
    finally:
        with _lock:
            _prompted.discard(model)
