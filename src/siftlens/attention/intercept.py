"""Seeing every attention of a forward pass at the operator level, without an adapter for the model.

A dispatch mode stands below autograd and sees the kernels that are really run: fused attention with its arguments,
or a softmax whose output multiplies the values. It passes everything through untouched.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from siftlens.attention.calls import AttentionCall, EagerCall, FusedCall
from siftlens.core import CaptureError

aten = torch.ops.aten

_FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_fused_attention_overrideable.default,
    aten._scaled_dot_product_attention_math_for_mps.default,
}
# Under inference mode composite operators arrive whole; these are taken apart to see the kernels inside.
_COMPOSITE = {
    aten.scaled_dot_product_attention.default,
    aten._scaled_dot_product_attention_math.default,
    aten.softmax.int,
    aten.matmul.default,
    aten.einsum.default,
}
_SOFTMAX = {aten._softmax.default, aten._safe_softmax.default}
_PRODUCT = {aten.bmm.default, aten.mm.default}
_HARMLESS = {  # a copy of the probabilities is still the probabilities
    aten._to_copy.default,
    aten.clone.default,
    aten.dropout.default,
    aten._unsafe_view.default,
    aten._reshape_copy.default,
}
_FAST_PATHS = {aten._native_multi_head_attention.default, aten._transformer_encoder_layer_fwd.default}
_TRUSTED_NAMESPACES = {"aten", "prim", "prims", "profiler", "torchvision"}


@dataclass
class _Softmax:
    """A softmax's output on its way to the values."""

    scores: Tensor
    probabilities: Tensor
    module: str
    altered_by: str = ""
    overwritten: bool = False

    def is_plain(self, tensor: Tensor) -> bool:
        """Whether a view or copy still holds the probabilities row by row, neither transposed nor cut."""
        same = (
            not self.overwritten
            and tensor.shape[-2:] == self.probabilities.shape[-2:]
            and tensor.numel() == self.probabilities.numel()
        )
        return same and (tensor.stride(-1) == 1 or tensor.shape[-1] == 1)


class Interceptor(TorchDispatchMode):
    """Hands every attention of the operators run inside to `on_call`.

    Args:
        on_call: receives each attention as soon as its output has been computed.
        batch: images in the batch, to tell heads from images where the model folds them into one axis.
        where: gives the name of the module that is running.

    Attributes:
        foreign: operators that come from outside torch, by the module that ran them.
    """

    def __init__(self, on_call: Callable[[AttentionCall], None], batch: int | None, where: Callable[[], str]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.foreign: dict[str, str] = {}
        self._on_call = on_call
        self._batch = batch
        self._where = where
        self._pending: dict[int, _Softmax] = {}  # by storage; the record keeps the storage alive

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _COMPOSITE and torch.is_inference_mode_enabled():
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if func in _FUSED:
            self._see_fused(func, args, kwargs)
        elif func in _SOFTMAX:
            self._see_softmax(args, out)
        elif func in _FAST_PATHS:
            raise CaptureError(
                f"{self._where()}: torch's inference fast path hides its attention; "
                "expected it to be off: report this model"
            )
        elif func.namespace not in _TRUSTED_NAMESPACES:
            self.foreign[self._where()] = str(func)
        if self._pending:
            self._follow(func, args, out)
        return out

    def unused_softmaxes(self) -> list[_Softmax]:
        """Softmaxes whose output never multiplied values as it was."""
        return list({id(record): record for record in self._pending.values()}.values())

    def _see_fused(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = (argument.name for argument in func._schema.arguments)
        arguments = dict(zip(names, args, strict=False)) | kwargs
        if arguments.get("dropout_p"):
            raise CaptureError(f"{self._where()}: attention runs with dropout; call model.eval() before reading it")
        if arguments.get("is_causal"):
            raise CaptureError(
                f"{self._where()}: causal attention, as in a text encoder; pass the model's vision encoder alone"
            )
        self._on_call(FusedCall(func, arguments))

    def _see_softmax(self, args: tuple[Any, ...], out: Tensor) -> None:
        scores, dim = args[0], args[1]
        if out.ndim >= 3 and dim % out.ndim == out.ndim - 1:
            self._pending[_storage(out)] = _Softmax(scores, out, self._where())

    def _follow(self, func: Any, args: tuple[Any, ...], out: Any) -> None:
        """Follow probabilities through copies to the product with the values."""
        for place, arg in enumerate(args):
            record = self._pending.get(_storage(arg)) if isinstance(arg, Tensor) else None
            if record is None:
                continue
            shared = isinstance(out, Tensor) and _storage(out) == _storage(arg)
            if func._schema.is_mutable and place == 0:
                record.overwritten, record.altered_by = True, str(func)
            elif func in _PRODUCT and place == 0 and record.is_plain(arg):
                self._release(record)
                self._on_call(self._eager(record, args[1]))
            elif func in _HARMLESS and record.is_plain(arg):
                self._pending[_storage(out)] = record
            elif not shared:
                record.altered_by = str(func)

    def _release(self, record: _Softmax) -> None:
        self._pending = {key: other for key, other in self._pending.items() if other is not record}

    def _eager(self, record: _Softmax, values: Tensor) -> EagerCall:
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
                "key): windowed attention is not over the whole grid and cannot be read"
            )
        batch, heads, queries, keys = probabilities.shape
        return EagerCall(
            probabilities,
            values.reshape(batch, heads, keys, -1),
            record.scores.reshape(batch, heads, queries, keys),
        )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


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
