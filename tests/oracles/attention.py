"""Slow, loop-written float64 truth for everything that is read from an attention."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 4e-2}


@dataclass
class Recorded:
    """Every attention that torch's public functions were asked for, and the values' norms, in call order."""

    attention: list[Tensor] = field(default_factory=list)
    value_norm: list[Tensor | None] = field(default_factory=list)


@contextmanager
def recording() -> Iterator[Recorded]:
    """Replace torch's attention and softmax functions by slow ones that record; independent of operator dispatch."""
    record = Recorded()
    sdpa, softmax = F.scaled_dot_product_attention, Tensor.softmax
    fast = torch.backends.mha.get_fastpath_enabled()

    def slow_sdpa(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * (scale or query.shape[-1] ** -0.5)
        if attn_mask is not None:
            scores = scores + attn_mask
        exponent = (scores - scores.amax(-1, keepdim=True)).exp()
        attention = exponent / exponent.sum(-1, keepdim=True)
        record.attention.append(attention)
        record.value_norm.append(value.square().sum(-1).sqrt())
        return torch.einsum("bhqk,bhkd->bhqd", attention, value)

    def keep(out: Tensor) -> Tensor:
        record.attention.append(out)
        record.value_norm.append(None)
        return out

    F.scaled_dot_product_attention = slow_sdpa
    Tensor.softmax = lambda *a, **k: keep(softmax(*a, **k))  # F.softmax calls it too
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield record
    finally:
        F.scaled_dot_product_attention, Tensor.softmax = sdpa, softmax
        torch.backends.mha.set_fastpath_enabled(fast)


def true_attention(model: nn.Module, *args: Tensor, **kwargs: Tensor) -> Recorded:
    """Every attention of a forward pass in float64, (batch, head, query, key)."""
    twin = copy.deepcopy(model).double()
    with torch.no_grad(), recording() as record:
        twin(*(a.double() for a in args), **{k: v.double() for k, v in kwargs.items()})
    batch = args[0].shape[0]
    record.attention = [a.unflatten(0, (batch, -1)) if a.ndim == 3 else a for a in record.attention]
    return record


@dataclass
class Truth:
    """What must be read from one attention."""

    values: Tensor
    prefix_mass: Tensor
    mean_squared_distance: Tensor
    entropy: Tensor


def read_slowly(attention: Tensor, channels: Tensor, layout, value_norm: Tensor | None = None) -> Truth:
    """Every statistic of one attention (batch, head, token, token) by loops over images, heads, queries and keys."""
    batch, heads, queries, keys = attention.shape
    grid, prefix, classes = layout.grid, layout.prefix, layout.class_tokens
    truth = Truth(
        torch.zeros(batch, heads, queries, channels.shape[-1], dtype=torch.float64),
        torch.zeros(batch, heads, queries, 2, dtype=torch.float64),
        torch.full((batch, heads, queries), math.nan, dtype=torch.float64),
        torch.zeros(batch, heads, queries, dtype=torch.float64),
    )

    def centre(patch: int) -> tuple[float, float]:
        return (
            (patch % grid.cols + 0.5) * grid.patch_width,
            (patch // grid.cols + 0.5) * grid.patch_height,
        )

    for b in range(batch):
        own = channels[b] if channels.ndim == 3 else channels
        for h in range(heads):
            for i in range(queries):
                row = attention[b, h, i].tolist()
                truth.entropy[b, h, i] = -sum(p * math.log(p) for p in row if p > 0)
                if value_norm is not None:
                    row = [p * n for p, n in zip(row, value_norm[b, h].tolist(), strict=True)]
                    row = [p / sum(row) for p in row]
                distance = mass = 0.0
                for j in range(keys):
                    if j < prefix:
                        truth.prefix_mass[b, h, i, 0 if j < classes else 1] += row[j]
                        continue
                    truth.values[b, h, i] += row[j] * own[j - prefix].double()
                    if i >= prefix:
                        (xi, yi), (xj, yj) = centre(i - prefix), centre(j - prefix)
                        distance += row[j] * ((xi - xj) ** 2 + (yi - yj) ** 2)
                        mass += row[j]
                if i >= prefix:
                    truth.mean_squared_distance[b, h, i] = distance / mass
    return truth
