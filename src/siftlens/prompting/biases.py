"""What a policy adds to each attention of a forward pass."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from siftlens.prompting.plan import Plan
from siftlens.prompting.policy import Policy
from siftlens.prompting.steering import AddedBias, Site


class Biases:
    """What a policy adds to each attention, for one batch.

    Args:
        policy: the biases.
        plan: of the model.
        maps: of the patches that are left.
    """

    def __init__(self, policy: Policy, plan: Plan, maps: Float[Tensor, "image patch"]):
        self._policy, self._plan, self._maps = policy, plan, maps
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, site: Site) -> AddedBias | None:
        """What is added to the scores of one attention; None for nothing."""
        if site.index not in self._plan.layer_of:
            return None
        strengths = self._strengths(self._plan.layer_of[site.index])
        if not any(strengths):
            return None
        if len(set(strengths)) == 1:
            strengths = strengths[:1]
        key = (strengths, site.keys)
        if key not in self._made:
            on_keys = self._plan.on_keys(self._maps, site.keys)
            per_head = torch.tensor(strengths, device=on_keys.device, dtype=on_keys.dtype)
            self._made[key] = per_head[None, :, None, None] * on_keys[:, None, None]
        return self._made[key]

    def _strengths(self, layer: int | None) -> tuple[float, ...]:
        """Summed strength per head; of a pooling head, one for all."""
        if layer is None:
            return (sum(part.strength for part in self._policy.bias if part.layers is None and part.heads is None),)
        parts = [part for part in self._policy.bias if part.layers is None or layer in part.layers]
        return tuple(
            sum(part.strength for part in parts if part.heads is None or head in part.heads)
            for head in range(self._plan.heads[layer])
        )
