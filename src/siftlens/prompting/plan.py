"""Where a model can be taken hold of: found and tried on noise, before anything is done to images."""

from functools import cached_property
from typing import Any
from weakref import ref

import torch
from jaxtyping import Float
from torch import Tensor, nn

from siftlens.attention.calls import AttentionCall
from siftlens.attention.capture import Capture
from siftlens.attention.coverage import Roll, refuse_unreadable
from siftlens.attention.layout import layout_of
from siftlens.attention.memory import remembered
from siftlens.attention.trial import CallForm, Trial, trying
from siftlens.auditing.tokens import TokenAccess
from siftlens.core import CaptureError, InputError, TokenLayout
from siftlens.prompting.contrast import class_scores, hint_of, only_scaled, without_class_head
from siftlens.prompting.policy import Policy
from siftlens.prompting.steering import AddedBias, Site, Steering

_FORCED = 1e4  # a bias beside which no score counts; float16 holds it
_MOVED = 0.9  # share of the attention that must follow it


class Plan:
    """What a prompt needs to know of a model: its tokens, and which of its calls are which layer's attention.

    Costs some trial runs on a few images of noise; `plan_of` keeps what they found.

    Args:
        model: a vision transformer in evaluation mode, called on images.
        args: positional arguments of a call; the first tensor is the images.
        kwargs: keyword arguments of it.

    Attributes:
        layout: what stands at which token.
        heads: number of heads of each layer.
        layer_of: by the index of a call, the layer whose attention it makes; None for an attention pooling head.
        sites: number of calls in a forward pass that look like attention.

    Raises:
        CaptureError: the model's attention cannot be read, or does not follow a bias.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]):
        refuse_unreadable(model)
        trial = Trial(model, args, kwargs)
        if trial.images is None:
            raise CaptureError(
                f"{type(model).__name__} is not called on images (batch, channel, height, width); "
                "prompt the module that is"
            )
        self.layout: TokenLayout = layout_of(trial)
        self.heads: tuple[int, ...] = ()
        self.layer_of: dict[int, int | None] = {}
        self.sites = 0
        self._of, self._example = ref(model), trial.noise(2)
        self._form = CallForm(*trial.form.on(self._example))  # which holds none of the call's own images
        self._find_sites(trial)

    @property
    def _model(self) -> nn.Module:
        """Not held: what is known of a model must not keep it alive."""
        model = self._of()
        assert model is not None
        return model

    @cached_property
    def access(self) -> TokenAccess:
        """Access to the model's tokens.

        Raises:
            CaptureError: they cannot be dropped one by one.
        """
        output, _ = self._answer
        if not isinstance(output, Tensor) or output.ndim != 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise CaptureError(
                f"{type(self._model).__name__}: dropping tokens needs a model that returns a row for each image, "
                f"got {got}{hint_of(output)}"
            )
        with trying():
            return TokenAccess(self._model, self.layout, self._example, self._form)

    @cached_property
    def _answer(self) -> tuple[Any, str | None]:
        """What the model makes of noise, and what kind of part without a class head that comes from alone, if any."""
        returned: list[tuple[nn.Module, Any]] = []

        def note(part: nn.Module, _: Any, output: Any) -> None:
            returned.append((part, output))

        hooks = [part.register_forward_hook(note) for part in self._model.modules() if without_class_head(part)]
        try:
            with torch.no_grad(), trying():
                args, kwargs = self._form.on(self._example)
                output = self._model(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        bare = next((type(part).__name__ for part, own in returned if own is output or only_scaled(own, output)), None)
        # Detached, it has no attributes of the model's making, which may hold the model alive.
        return output.detach() if isinstance(output, Tensor) else output, bare

    def expect_class_head(self) -> None:
        """Check that the model's output is scores of classes.

        Raises:
            InputError: it is not.
        """
        output, bare = self._answer
        class_scores(self._model, output, len(self._example))
        if bare is not None:
            raise InputError(
                f"expected a class head, got the features of a {bare} that has none; put a classifier behind it"
            )

    def expect(self, policy: Policy) -> None:
        """Check that the layers and heads of a policy are there, and its tokens within reach.

        Raises:
            InputError: a layer, a head or a class head that the model does not have.
            CaptureError: tokens that cannot be dropped.
        """
        for part in policy.bias:
            wrong = [layer for layer in part.layers or () if layer >= len(self.heads)]
            if wrong:
                raise InputError(f"the model has layers 0 to {len(self.heads) - 1}, got {', '.join(map(str, wrong))}")
            for layer in range(len(self.heads)) if part.layers is None else part.layers:
                wrong = [head for head in part.heads or () if head >= self.heads[layer]]
                if wrong:
                    raise InputError(
                        f"layer {layer} has heads 0 to {self.heads[layer] - 1}, got {', '.join(map(str, wrong))}"
                    )
        if policy.contrasts:
            self.expect_class_head()
        if policy.chooses or policy.contrasts:
            _ = self.access

    def on_keys(self, maps: Float[Tensor, "image patch"], keys: int) -> Float[Tensor, "image key"]:
        """Maps on an attention's keys: 0 on the prefix tokens, if they are among them."""
        return torch.nn.functional.pad(maps, (keys - maps.shape[1], 0))

    def _find_sites(self, trial: Trial) -> None:
        """Push all attention onto one patch, another one in each image, and see which call obeyed."""
        patches = self.layout.grid.patches
        target = torch.tensor([0, patches - 1])
        forced = torch.zeros(2, patches)
        forced[torch.arange(2), target] = 1.0
        forced = forced.to(self._example.device)
        roll = Roll(self.layout, 2)
        heads: list[int] = []
        sees: list[Tensor] = []  # by call: the model may hide some patches from some queries

        def toward(call: AttentionCall) -> Float[Tensor, "image head query 1"]:
            return call.apply(self.on_keys(forced, call.shape[3])[:, None, :, None])

        def look(_: Capture, call: AttentionCall) -> None:
            sees.append(toward(call) > 0)

        def bias(site: Site) -> AddedBias | None:
            if site.keys not in (patches, self.layout.tokens):
                return None
            return _FORCED * self.on_keys(forced, site.keys)[:, None, None]

        def obeyed(capture: Capture, call: AttentionCall) -> None:
            layer = roll.enter(capture.tracker, call)
            site = steering.site_of(getattr(call, "probabilities", None))
            follows, seen = toward(call) > _MOVED, sees[len(self.layer_of)]
            if site is None or site.index in self.layer_of or not bool(seen.any() and follows[seen].all()):
                raise CaptureError(
                    f"{capture.tracker.current}: its attention ({call.backend}) does not follow a bias on its scores; "
                    "expected torch's scaled_dot_product_attention, multi_head_attention_forward or softmax"
                )
            self.layer_of[site.index] = layer
            if layer is not None:
                heads.append(call.shape[1])

        steering = Steering(bias, record=True)
        trial.run(self._example, look, {})
        with steering:
            capture = trial.run(self._example, obeyed, {})
        roll.check(capture)
        self.heads, self.sites = tuple(heads), steering.sites


def plan_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
    """The plan of a model and of calls of this form; tried anew only where the model is not as it was."""
    return remembered(Trial(model, args, kwargs), "plan", lambda: Plan(model, args, kwargs))
