"""Seeing every attention of a forward pass at the operator level, without an adapter for the model.

A dispatch mode stands below autograd and sees the kernels that are really run: fused attention with its arguments,
or a softmax whose output multiplies the values. It passes everything through untouched, but on a trial with attention
cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from siftlens.attention.calls import AttentionCall, EagerCall, FusedCall
from siftlens.core import CaptureError

aten = torch.ops.aten

_ON_CPU = aten._scaled_dot_product_flash_attention_for_cpu.default
_FUSED = {
    _ON_CPU,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_fused_attention_overrideable.default,
    aten._scaled_dot_product_attention_math_for_mps.default,
}
_SOFTMAX = {aten._softmax.default, aten._safe_softmax.default}
_PRODUCT = {aten.bmm.default, aten.mm.default}
_HARMLESS = {  # a copy of the probabilities is still the probabilities
    aten._to_copy.default,
    aten.clone.default,
    aten._unsafe_view.default,
    aten._reshape_copy.default,
}
_FAST_PATHS = {aten._native_multi_head_attention.default, aten._transformer_encoder_layer_fwd.default}
_TRUSTED_NAMESPACES = {"aten", "prim", "prims", "profiler", "torchvision"}
_COMPOSITE = "CompositeImplicitAutograd"


@dataclass(frozen=True)
class Trace:
    """Memory that holds a softmax's output, or what was made of it; known for as long as it is not freed.

    Attributes:
        module: name of the module that ran the softmax.
        keys: length of the axis that sums to one.
        changed_by: the operator that made something else of it; empty for none.
        memory: which.
    """

    module: str
    keys: int
    changed_by: str
    memory: StorageWeakRef


@dataclass
class Softmax:
    """A softmax's output on its way to the values.

    Attributes:
        probabilities: the output.
        module: name of the module that ran it.
        keys: length of the axis that sums to one.
        altered_by: the operator that made something else of it; empty for none.
        readable: whether the output still holds rows of probabilities.
    """

    probabilities: Tensor
    module: str
    keys: int
    altered_by: str = ""
    readable: bool = True
    _holders: list[Tensor] = field(default_factory=list)  # keeps storages alive, so that no address is used again

    def is_plain(self, tensor: Tensor) -> bool:
        """Whether a view or copy holds the probabilities row by row, neither transposed, permuted nor cut."""
        return (
            self.readable
            and tensor.shape[-2:] == self.probabilities.shape[-2:]
            and tensor.numel() == self.probabilities.numel()
            and tensor.is_contiguous()
        )

    def hold(self, copy: Tensor) -> None:
        """Keep a copy of the probabilities alive for as long as it is followed."""
        self._holders.append(copy)


class Interceptor(TorchDispatchMode):
    """Hands every attention of the operators run inside to `on_call`.

    Args:
        on_call: receives each attention as soon as its output has been computed.
        batch: images in the batch, to tell heads from images where the model folds them into one axis.
        where: gives the name of the module that is running.
        unfold: take heads that a fused call has in the axis of images for such; a loop over images, which looks the
            same, must have been ruled out by a trial.
        isolated: let each token attend to itself alone, where there are as many queries as keys: a trial.
        instead: other tensors for operators to see in place of some of the model's: a trial. The model itself is left
            as it is, for other threads may be running it.

    Attributes:
        foreign: operators that come from outside torch, by the module that ran them.
        changed: what was made of a softmax's output and multiplied values, maybe beside the output itself.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        on_call: Callable[[AttentionCall], None],
        batch: int | None,
        where: Callable[[], str],
        *,
        unfold: bool = True,
        isolated: bool = False,
        instead: Sequence[tuple[Tensor, Tensor]] = (),
    ):
        super().__init__()  # type: ignore[no-untyped-call]
        self.foreign: dict[str, str] = {}
        self.changed: list[Trace] = []
        self._on_call = on_call
        self._batch = batch
        self._where = where
        self._unfold = unfold
        self._isolated = isolated
        self._instead = {id(own): other for own, other in instead}
        self._pending: dict[int, Softmax] = {}  # by address of the storage
        self._traces: dict[int, Trace] = {}  # likewise

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._see_higher_order(func, args, kwargs)
        if torch.is_inference_mode_enabled() and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), _COMPOSITE
        ):
            with self:  # composite operators arrive whole; taken apart, as they are without inference mode
                return func._op_dk(getattr(torch._C.DispatchKey, _COMPOSITE), *args, **kwargs)
        if self._instead:
            args, kwargs = tree_map(lambda given: self._instead.get(id(given), given), (args, kwargs))
        out = func(*args, **kwargs)
        if self._pending:
            self._follow(func, args, kwargs, out)
        if self._traces:
            self._trace(func, args, kwargs, out)
        if func in _FUSED:
            self._see_fused(func, args, kwargs, out)
        elif func in _SOFTMAX:
            self._see_softmax(out, args[1])
        elif func in _FAST_PATHS:
            raise CaptureError(
                f"{self._where()}: torch's inference fast path hides its attention; "
                "expected it to be off: report this model"
            )
        elif func.namespace not in _TRUSTED_NAMESPACES:
            self.foreign[self._where()] = str(func)
        return out

    def unused_softmaxes(self) -> list[Softmax]:
        """Softmaxes whose output never multiplied values as it was."""
        return list({id(record): record for record in self._pending.values()}.values())

    def _see_higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "flex_attention" in str(func):
            raise CaptureError(
                f"{self._where()}: flex_attention changes its scores in code that cannot be read; switch the model "
                "to scaled_dot_product_attention"
            )
        with self:
            return func(*args, **kwargs)

    def _see_fused(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor, ...]) -> None:
        arguments = _by_name(func, args, kwargs)
        if arguments.get("dropout_p"):
            raise CaptureError(f"{self._where()}: attention runs with dropout; call model.eval() before reading it")
        if arguments.get("is_causal"):
            raise CaptureError(
                f"{self._where()}: causal attention, as in a text encoder; pass the model's vision encoder alone"
            )
        if self._isolated and (value := arguments["value"]).shape[2] == out[0].shape[2]:
            out[0].copy_(value.repeat_interleave(out[0].shape[1] // value.shape[1], dim=1))
        self._on_call(self._unfolded(FusedCall(func, arguments, out[1] if func is _ON_CPU else None)))

    def _unfolded(self, call: FusedCall) -> FusedCall:
        """A call on (image * head, token, dim), which reaches the kernel as one image of so many heads, taken apart."""
        images, rows = self._batch or 1, call.query.shape[1]
        if call.query.shape[0] != 1 or images == 1 or rows % images or not self._unfold:
            return call

        def apart(tensor: Any) -> Any:
            folded = isinstance(tensor, Tensor) and tensor.ndim in (3, 4) and tensor.shape[:2] == (1, rows)
            return tensor[0].unflatten(0, (images, -1)) if folded else tensor

        return FusedCall(call.op, {name: apart(given) for name, given in call.arguments.items()}, apart(call.lse))

    def _see_softmax(self, out: Tensor, dim: int) -> None:
        if out.ndim >= 3 or (out.ndim == 2 and out.shape[0] == out.shape[1]):
            record = Softmax(out, self._where(), out.shape[dim])
            if dim % out.ndim != out.ndim - 1:
                record.readable, record.altered_by = False, f"running over axis {dim}"
            elif self._isolated and out.shape[-2] == out.shape[-1]:
                out.zero_().diagonal(dim1=-2, dim2=-1).fill_(1)
            self._pending[_storage(out)] = record
            self._traces[_storage(out)] = Trace(record.module, record.keys, "", StorageWeakRef(out.untyped_storage()))

    def _trace(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Follow what is made of probabilities, element by element, to a product with the values.

        Where they meet the values as they are, too, nothing else tells that they do not alone. What is as wide as the
        keys is taken for other probabilities, as in a rollout, and not for values.
        """
        self._traces = {address: trace for address, trace in self._traces.items() if not trace.memory.expired()}
        for written in _written(func, args, kwargs):
            if trace := self._traces.get(_storage(written)):
                self._traces[_storage(written)] = replace(trace, changed_by=trace.changed_by or str(func))
        for place, arg in enumerate(args):
            trace = self._traces.get(_storage(arg)) if isinstance(arg, Tensor) else None
            if trace is None:
                continue
            if func in _PRODUCT and place == 0 and args[1].shape[-1] not in (trace.keys, 1):
                if trace.changed_by:
                    self.changed.append(trace)
            elif _has_memory(out) and out.numel() == arg.numel() and _storage(out) != _storage(arg):
                by = trace.changed_by or ("" if func in _HARMLESS else str(func))
                memory = StorageWeakRef(out.untyped_storage())
                self._traces[_storage(out)] = replace(trace, changed_by=by, memory=memory)

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Follow probabilities through copies to the product with the values."""
        for written in _written(func, args, kwargs):
            if record := self._pending.get(_storage(written)):
                record.readable, record.altered_by = False, str(func)
        for place, arg in enumerate(args):
            record = self._pending.get(_storage(arg)) if isinstance(arg, Tensor) else None
            if record is None:
                continue
            shared = isinstance(out, Tensor) and _storage(out) == _storage(arg)
            if func in _PRODUCT and place == 0 and record.is_plain(arg):
                self._pending = {key: other for key, other in self._pending.items() if other is not record}
                self._on_call(self._eager(record, args[1]))
            elif func in _HARMLESS and record.is_plain(arg):
                record.hold(out)
                self._pending[_storage(out)] = record
            elif not shared:
                record.altered_by = record.altered_by or str(func)

    def _eager(self, record: Softmax, value: Tensor) -> EagerCall:
        probabilities = record.probabilities
        if probabilities.ndim == 3:  # (batch * head, query, key)
            if not self._batch or probabilities.shape[0] % self._batch:
                raise CaptureError(
                    f"{record.module}: cannot tell heads from images in attention of shape "
                    f"{tuple(probabilities.shape)} for a batch of {self._batch}; "
                    "use a model whose attention keeps a head axis"
                )
            probabilities = probabilities.unflatten(0, (self._batch, -1))
        if probabilities.ndim != 4:
            raise CaptureError(
                f"{record.module}: attention of shape {tuple(probabilities.shape)}; expected (batch, head, query, "
                "key): windowed attention is not over the whole grid, and grouped heads cannot be told from windows"
            )
        batch, heads, _, keys = probabilities.shape
        return EagerCall(probabilities, value.reshape(batch, heads, keys, -1))


def _storage(tensor: Tensor) -> int:
    """Address of a tensor's memory; of a sparse one, which has none, a number of its own."""
    return tensor.untyped_storage().data_ptr() if _has_memory(tensor) else -id(tensor)


def _has_memory(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def _by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = (argument.name for argument in func._schema.arguments)
    return dict(zip(names, args, strict=False)) | kwargs


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Float[Tensor, "..."]]:
    """The tensors that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    given = _by_name(func, args, kwargs)
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [leaf for leaf in tree_leaves([given.get(name) for name in names]) if isinstance(leaf, Tensor)]
