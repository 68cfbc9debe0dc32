"""A mask policy's noise in the words of other libraries' masked autoencoders.

transformers' ViTMAE takes the noise as it is: `model(pixel_values=x, noise=noise)`, with its configuration's
`mask_ratio` that of the policy.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from siftlens.pretraining.choice import split


def lightly_indices(
    noise: Float[Tensor, "batch patch"], visible: int, *, prefix: int = 1
) -> tuple[Int64[Tensor, "batch kept"], Int64[Tensor, "batch masked"]]:
    """What lightly's MAE takes as `idx_keep` and `idx_mask`: places in the whole sequence.

    Args:
        noise: from `MaskPolicy.noise`.
        visible: patches that stay visible, from `MaskPolicy.visible`.
        prefix: class and register tokens before the patches; they are kept.
    """
    seen, masked = split(noise, visible)
    special = torch.arange(prefix, device=noise.device).expand(len(noise), -1)
    return torch.cat([special, seen + prefix], dim=1), masked + prefix
