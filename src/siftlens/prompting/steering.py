"""Adding to the scores of a model's attention, whatever code computes it.

A function mode stands above autograd, so that gradients are those of the steered model, and sees each call of fused
attention, softmax and multi-head attention, by whatever name the model knows it. Nothing is patched, and nothing but
those three kinds of calls is touched.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from siftlens.attention.calls import fused_arguments
from siftlens.attention.trial import on_trial

_FUSED = F.scaled_dot_product_attention
_SOFTMAXES = {torch.softmax, torch.special.softmax, Tensor.softmax, F.softmax}
_MULTI_HEAD = F.multi_head_attention_forward
_MULTI_HEAD_SIGNATURE = inspect.signature(_MULTI_HEAD)

AddedBias = Float[Tensor, "batch #head 1 key"]


@dataclass(frozen=True)
class Site:
    """One call that makes attention out of scores.

    Attributes:
        index: how many came before it in the forward pass.
        queries: length of the scores' second but last axis.
        keys: length of their last axis.
    """

    index: int
    queries: int
    keys: int


class Steering(TorchFunctionMode):
    """Adds a bias to the scores of the attention that runs inside.

    Args:
        bias: gives what is added at a site, or None.
        record: for trials: remember which softmax made which probabilities, each until `site_of` asks for it.

    Attributes:
        sites: how many calls have been seen.
    """

    def __init__(self, bias: Callable[[Site], AddedBias | None], *, record: bool = False):
        super().__init__()
        self.sites = 0
        self._bias, self._record = bias, record
        self._current: Site | None = None
        self._made: dict[int, tuple[Site, Tensor]] = {}  # by storage, held so that no address is used again

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _FUSED:
            steered = self._fused
        elif func is _MULTI_HEAD:
            steered = self._multi_head
        elif func in _SOFTMAXES:
            steered = self._softmax
        else:
            return func(*args, **kwargs)
        if on_trial() and not self._record:  # someone reads the model's layout: as it is, not as it is steered
            return func(*args, **kwargs)
        return steered(func, args, kwargs)

    def site_of(self, probabilities: Tensor | None) -> Site | None:
        """The site that an attention comes from: the call that is running, or the softmax that made these."""
        if self._current is not None:
            return self._current
        if probabilities is None:
            return None
        site, _ = self._made.pop(probabilities.untyped_storage().data_ptr(), (None, None))
        return site

    def _enter(self, queries: int, keys: int) -> tuple[Site, AddedBias | None]:
        site = Site(self.sites, queries, keys)
        self.sites += 1
        return site, self._bias(site)

    def _run(self, site: Site, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._current = site
        try:
            return func(*args, **kwargs)
        finally:
            self._current = None

    def _fused(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = fused_arguments(args, kwargs)
        query, key = given["query"], given["key"]
        site, bias = self._enter(query.shape[-2], key.shape[-2])
        if bias is not None:
            given["attn_mask"] = _added(given.get("attn_mask"), _folded(bias, query).to(query.dtype))
        return self._run(site, func, (), given)

    def _multi_head(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = _MULTI_HEAD_SIGNATURE.bind(*args, **kwargs).arguments
        query, key, heads = given["query"], given["key"], given["num_heads"]
        site, bias = self._enter(len(query), len(key))
        if bias is not None:
            mask = given.get("attn_mask")
            if mask is not None and mask.dtype == torch.bool:
                mask = ~mask  # here it marks what is hidden
            batch = query.shape[1]
            if mask is not None and mask.ndim == 3:
                mask = mask.unflatten(0, (batch, heads))
            whole = _added(mask, bias.to(query.dtype)).expand(batch, heads, len(query), len(key))
            given |= {"attn_mask": whole.flatten(0, 1), "is_causal": False}
        return self._run(site, func, (), given)

    def _softmax(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scores = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if scores.ndim < 2 or dim not in (-1, scores.ndim - 1):
            return func(*args, **kwargs)
        site, bias = self._enter(*scores.shape[-2:])
        if bias is not None:
            steered = scores + _folded(bias, scores).to(scores.dtype)
            args, kwargs = ((steered, *args[1:]), kwargs) if args else (args, kwargs | {"input": steered})
        out = func(*args, **kwargs)
        if self._record:
            self._made[out.untyped_storage().data_ptr()] = (site, out)
        return out


def _folded(bias: AddedBias, like: Tensor) -> Float[Tensor, "..."]:
    """The bias with the batch and head axes of a tensor: apart, or folded into one with the batch first."""
    if like.ndim != 3:
        return bias
    return bias.expand(-1, like.shape[0] // len(bias), -1, -1).flatten(0, 1)


def _added(mask: Tensor | None, bias: Tensor) -> Float[Tensor, "..."]:
    """A model's own mask and the bias as one: what it hides stays hidden."""
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, -torch.inf)
    return mask + bias
