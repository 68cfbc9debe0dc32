"""Positions that come in inside the blocks, cut to the patches that are kept: rotary embeddings and relative biases."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from siftlens.attention.calls import fused_arguments

_ATTENTION = F.scaled_dot_product_attention


class Positions:
    """What belongs to each token's place, for the tokens that are left of each image.

    Args:
        kept: patches that are left of each image, in their new order.
        patches: number of patches before.
        prefix: number of tokens before the patches, which all stay.
    """

    def __init__(self, kept: Int[Tensor, "image patch"], patches: int, prefix: int):
        self._tokens = patches + prefix
        always = torch.arange(prefix, device=kept.device).expand(len(kept), -1)
        self._rows = {self._tokens: torch.cat([always, kept + prefix], dim=1), patches: kept}

    def of_rows(self, value: Any) -> Any:
        """A value with every embedding in it cut, from (..., patch or token, dim) to (image, ..., kept, dim)."""
        if isinstance(value, Tensor):
            return self._cut_rows(value) if self._is_embedding(value) else value
        if type(value) not in (tuple, list):
            return value
        parts = type(value)(self.of_rows(part) for part in value)
        changed = any(part is not old for part, old in zip(parts, value, strict=True))
        return parts if changed else value

    def of_pairs(self, bias: Float[Tensor, "..."]) -> Float[Tensor, "image head kept kept"]:
        """A bias or mask on the scores cut, from (..., token, token)."""
        rows = self._rows[self._tokens].to(bias.device)
        whole = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
        whole = whole.expand(len(rows), -1, -1, -1)
        some = whole.gather(2, rows[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3]))
        return some.gather(3, rows[:, None, None, :].expand(-1, whole.shape[1], some.shape[2], -1))

    def is_bias(self, mask: Tensor | None) -> bool:
        """Whether a mask is over all the tokens that there were."""
        return mask is not None and mask.ndim >= 2 and mask.shape[-2:] == (self._tokens, self._tokens)

    def _is_embedding(self, value: Tensor) -> bool:
        fits = value.ndim in (2, 3) and value.is_floating_point() and value.shape[-2] in self._rows
        return fits and not self.is_bias(value)

    def _cut_rows(self, value: Float[Tensor, "*head row dim"]) -> Float[Tensor, "image #head kept dim"]:
        rows = self._rows[value.shape[-2]].to(value.device)
        heads = value if value.ndim == 3 else value[None]
        return heads[:, rows].transpose(0, 1)


class CutBiases(TorchFunctionMode):
    """Cuts the biases that blocks make themselves and hand to fused attention, while inside."""

    def __init__(self, positions: Positions):
        super().__init__()
        self._positions = positions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not _ATTENTION:
            return func(*args, **(kwargs or {}))
        given = fused_arguments(args, kwargs or {})
        if self._positions.is_bias(given.get("attn_mask")):
            given["attn_mask"] = self._positions.of_pairs(given["attn_mask"])
        return func(**given)
