"""One captured attention, fused or eager, and what can be computed from it without keeping it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_FUSED_OPERANDS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_CHUNK_BYTES = 32 * 2**20  # attention rows held at once where rows must be built
_CACHED_BYTES = 4 * 2**20  # and where they are gone through several times: as many as stay in a processor's cache


def fused_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name of a call of `torch.nn.functional.scaled_dot_product_attention`."""
    return dict(zip(_FUSED_OPERANDS, args, strict=False)) | dict(kwargs)


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider: low precision is never accumulated in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _row_chunks(queries: int, row_bytes: int, chunk_bytes: int = _CHUNK_BYTES) -> list[slice]:
    step = max(1, chunk_bytes // row_bytes)
    return [slice(start, min(start + step, queries)) for start in range(0, queries, step)]


@dataclass(frozen=True)
class FusedCall:
    """A call of a fused attention kernel, kept as its arguments.

    Args:
        op: the operator that the model called.
        arguments: its arguments by name.
        lse: logarithm of each row's sum of exponentiated scores, (batch, head, query), where the operator returned it.
    """

    op: Callable[..., Any]
    arguments: dict[str, Any]
    lse: Tensor | None = None

    @property
    def backend(self) -> str:
        """Name of the kernel."""
        return str(self.op).removeprefix("aten.").removesuffix(".default").removeprefix("_scaled_dot_product_")

    @property
    def query(self) -> Float[Tensor, "batch head query dim"]:
        """Queries as the kernel got them, after any rotary embedding."""
        query: Tensor = self.arguments["query"]
        return query

    @property
    def key(self) -> Float[Tensor, "batch key_head key dim"]:
        """Keys, likewise."""
        key: Tensor = self.arguments["key"]
        return key

    @property
    def value(self) -> Float[Tensor, "batch key_head key dim"]:
        """Values."""
        value: Tensor = self.arguments["value"]
        return value

    @property
    def bias(self) -> Tensor | None:
        """What is added to the scores, or a boolean mask; None without either."""
        bias: Tensor | None = self.arguments.get("attn_mask", self.arguments.get("attn_bias"))
        return bias

    @property
    def scale(self) -> float:
        """Factor s on the scores."""
        scale: float | None = self.arguments.get("scale")
        return self.query.shape[-1] ** -0.5 if scale is None else scale

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key)."""
        batch, heads, queries, _ = self.query.shape
        return batch, heads, queries, self.key.shape[2]

    def apply(self, weights: Float[Tensor, "batch #head key channel"]) -> Float[Tensor, "batch head query channel"]:
        """A @ W by further calls of the same kernel with W as the value, at the model's own head size."""
        size, channels = self.value.shape[-1], weights.shape[-1]
        weights = F.pad(weights, (0, -channels % size)).to(self.value.dtype)
        heads = self.value.shape[1]
        parts = [
            _wide(self.op(**self.arguments | {"value": part.expand(-1, heads, -1, -1)})[0])
            for part in weights.split(size, dim=-1)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))[..., :channels]

    def apply_with_entropy(
        self, weights: Float[Tensor, "batch #head key channel"]
    ) -> tuple[Float[Tensor, "batch head query channel"], Float[Tensor, "batch head query"]]:
        """A @ W, and the entropy of every row, nat.

        From log A_ij = s q_i . k_j - LSE_i, some rows at a time, where the kernel gave the LSE: sooner on a CPU than
        two more calls.
        """
        (batch, heads, queries, keys), query, key = self.shape, self.query, self.key
        plain = self.bias is None and key.shape[1] == heads and query.dtype in (torch.float32, torch.float64)
        if self.lse is None or not plain:
            return self.apply(weights), self._entropy()
        carried = query.new_empty(batch, heads, queries, weights.shape[-1])
        entropy = query.new_empty(batch, heads, queries)
        chunks = _row_chunks(queries, heads * keys * query.element_size(), _CACHED_BYTES)
        scratch = query.new_empty(2, heads * chunks[0].stop * keys)  # taken once: it stays in the cache
        for image in range(batch):
            for rows in chunks:
                shape = (heads, rows.stop - rows.start, keys)
                log, attention = (part[: math.prod(shape)].view(shape) for part in scratch)
                torch.baddbmm(
                    self.lse[image, :, rows, None],
                    query[image, :, rows],
                    key[image].transpose(-2, -1),
                    beta=-1,
                    alpha=self.scale,
                    out=log,
                )
                torch.exp(log, out=attention)
                carried[image, :, rows] = attention @ weights[image].to(attention.dtype)
                torch.sum(log.mul_(attention), dim=-1, out=entropy[image, :, rows])
        return carried, entropy.neg_()

    def value_norm(self) -> Float[Tensor, "batch key_head key"]:
        """Norm of every value vector, per key head."""
        norm: Tensor = torch.linalg.vector_norm(_wide(self.value), dim=-1)
        return norm

    def _entropy(self) -> Float[Tensor, "batch head query"]:
        """Entropy of every row, nat.

        Without a bias H_i = LSE_i - s q_i . (A (K - mean K))_i - s q_i . mean K, in float32 or wider by one more
        fused call; with a bias, or where the kernel returns no LSE, by building some rows at a time.
        """
        query, key = self._wide_query_and_key()
        if self.bias is not None or query.device.type not in _LSE_KERNEL:
            rows = [torch.special.entr(part).sum(dim=-1) for part in self._rows(query, key)]
            return torch.cat(rows, dim=-1)
        centre = key.mean(dim=2, keepdim=True)
        mean_key, lse = _LSE_KERNEL[query.device.type](query, key, key - centre, self.scale)
        return lse - self.scale * mean_key.add_(centre).mul_(query).sum(dim=-1)

    def attention(self) -> Float[Tensor, "batch head query key"]:
        """The attention itself, in float32 or wider: for a few images only."""
        return torch.cat(list(self._rows(*self._wide_query_and_key())), dim=2)

    def _wide_query_and_key(self) -> tuple[Tensor, Tensor]:
        query, key = _wide(self.query), _wide(self.key)
        repeats = query.shape[1] // key.shape[1]
        return query, key if repeats == 1 else key.repeat_interleave(repeats, dim=1)  # which copies even for one

    def _rows(self, query: Tensor, key: Tensor) -> Any:
        batch, heads, queries, keys = self.shape
        bias = self.bias
        if bias is not None:
            bias = bias.expand(batch, heads, queries, keys)
        for rows in _row_chunks(queries, batch * heads * keys * query.element_size()):
            scores = self.scale * (query[:, :, rows] @ key.transpose(-2, -1))
            if bias is not None and bias.dtype == torch.bool:
                scores = scores.masked_fill(~bias[:, :, rows], -torch.inf)
            elif bias is not None:
                scores = scores + bias[:, :, rows]
            yield scores.softmax(dim=-1)


def _lse_cpu(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
    return out, lse


def _lse_cuda(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, compute_log_sumexp=True, scale=scale
    )
    return out, lse[..., : query.shape[2]]  # the kernel pads the rows


_LSE_KERNEL = {"cpu": _lse_cpu, "cuda": _lse_cuda}


@dataclass(frozen=True)
class EagerCall:
    """An attention that the model built itself: the softmax's output and the values that it multiplied.

    Args:
        probabilities: A as the softmax returned it.
        value: what A was multiplied with.
    """

    probabilities: Float[Tensor, "batch head query key"]
    value: Float[Tensor, "batch head key dim"]
    backend: str = "eager"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key)."""
        batch, heads, queries, keys = self.probabilities.shape
        return batch, heads, queries, keys

    def apply(self, weights: Float[Tensor, "batch #head key channel"]) -> Float[Tensor, "batch head query channel"]:
        """A @ W."""
        batch, heads, queries, keys = self.shape
        weights = weights.to(_wide(self.probabilities[:0]).dtype)
        rows = [
            _wide(self.probabilities[:, :, part]) @ weights for part in _row_chunks(queries, batch * heads * keys * 4)
        ]
        return torch.cat(rows, dim=2)

    def apply_with_entropy(
        self, weights: Float[Tensor, "batch #head key channel"]
    ) -> tuple[Float[Tensor, "batch head query channel"], Float[Tensor, "batch head query"]]:
        """A @ W, and the entropy of every row, nat."""
        return self.apply(weights), self._entropy()

    def value_norm(self) -> Float[Tensor, "batch head key"]:
        """Norm of every value vector, per head."""
        norm: Tensor = torch.linalg.vector_norm(_wide(self.value), dim=-1)
        return norm

    def _entropy(self) -> Float[Tensor, "batch head query"]:
        """Entropy of every row, nat, from the probabilities."""
        batch, heads, queries, keys = self.shape
        rows = [
            torch.special.entr(_wide(self.probabilities[:, :, part])).sum(dim=-1)
            for part in _row_chunks(queries, batch * heads * keys * 4)
        ]
        return torch.cat(rows, dim=-1)

    def attention(self) -> Float[Tensor, "batch head query key"]:
        """The attention itself, in float32 or wider."""
        return _wide(self.probabilities)


AttentionCall = FusedCall | EagerCall


def token_change(
    value: Float[Tensor, "#image head key dim"], other: Float[Tensor, "image head key dim"]
) -> Float[Tensor, "image key"]:
    """How far the value vectors of each token lie apart, over all heads: what a token holds, whoever asks it."""
    change: Tensor = torch.linalg.vector_norm(_wide(value) - _wide(other), dim=(1, 3))
    return change
