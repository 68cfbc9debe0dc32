"""What one pass over the keys carries: the caller's channels and the few that every reading needs."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from siftlens.attention.calls import AttentionCall
from siftlens.core import InputError, TokenLayout

WEIGHTINGS = ("attention", "value_norm")
OWN_CHANNELS = 6  # indicators of class tokens, registers and patches; x, y and x^2 + y^2


@dataclass(frozen=True)
class Carried:
    """A @ W, taken apart again.

    Attributes:
        values: the caller's channels.
        prefix_mass: mass on class tokens and on registers.
        patch_mass: mass on patches.
        moments: mean of x, y and x^2 + y^2 under the attention on patches, in half-diagonals from the centre.
        entropy: of every row, nat; None where it was not asked for.
    """

    values: Float[Tensor, "batch head token channel"]
    prefix_mass: Float[Tensor, "batch head token 2"]
    patch_mass: Float[Tensor, "batch head token"]
    moments: Float[Tensor, "batch head token 3"]
    entropy: Float[Tensor, "batch head token"] | None


class KeyWeights:
    """The weights W on the keys: the caller's channels, prefix indicators and centred coordinates.

    Args:
        channels: (patch, channel), or one set per image, (batch, patch, channel).
        layout: where the patches stand among the tokens.
        weighting: "attention", or "value_norm" to multiply each key by the norm of its value vector and to make
            the rows sum to one again: A'_ij = A_ij |v_j| / sum_k A_ik |v_k|.

    Raises:
        InputError: the channels are no dense tensor of real numbers, do not fit the patches, or are not finite; an
            unknown weighting.
    """

    def __init__(self, channels: Tensor, layout: TokenLayout, weighting: str = "attention"):
        if weighting not in WEIGHTINGS:
            raise InputError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
        if not isinstance(channels, Tensor):
            raise InputError(
                f"channels must be a tensor, got {type(channels).__name__}; torch.as_tensor makes one of an array"
            )
        narrow = channels.is_floating_point() and channels.dtype.itemsize == 1
        if channels.is_complex() or narrow or channels.is_meta or channels.layout is not torch.strided:
            raise InputError(
                "channels must be a dense tensor of real numbers, in 16 bits or more where they are floats, got "
                f"{channels.dtype}, {channels.layout}, on {channels.device}"
            )
        if channels.ndim not in (2, 3) or channels.shape[-2] != layout.grid.patches:
            raise InputError(
                f"channels must be (patch, channel) or (batch, patch, channel) with {layout.grid.patches} patches "
                f"({layout.grid.rows} rows x {layout.grid.cols} columns), got {tuple(channels.shape)}"
            )
        if not bool(torch.isfinite(channels).all()):
            raise InputError("channels must be finite, got NaN or infinity")
        channels = channels.to(torch.promote_types(channels.dtype, torch.float32))  # coordinates go beside them
        self.layout = layout
        self.weighting = weighting
        self._channels = channels.shape[-1]
        self._coordinates, self._unit = _centred_coordinates(layout, channels)
        channels = channels if channels.ndim == 3 else channels[None]
        self._weights = self._with_own_channels(channels)
        self._mean = channels.mean(dim=1, keepdim=True)
        spread = (channels - self._mean).abs().amax(dim=1, keepdim=True)
        self._spread = torch.where(spread > 0, spread, 1)

    @property
    def batch(self) -> int:
        """Number of images that the channels are for; 1 where they are for any."""
        return self._weights.shape[0]

    def apply(self, call: AttentionCall, *, entropy: bool = False) -> Carried:
        """A @ W for one captured attention, and the entropy of its rows where asked for."""
        batch = call.shape[0]
        low = call.value.dtype in (torch.float16, torch.bfloat16)
        weights = (self._standardised if low else self._weights).expand(batch, -1, -1)[:, None]
        if self.weighting == "value_norm":
            norm = call.value_norm()[..., None]
            weights = weights.to(norm.dtype) * norm
        out, of_rows = call.apply_with_entropy(weights) if entropy else (call.apply(weights), None)
        if self.weighting == "value_norm":
            out = out / out[..., self._channels : self._channels + 3].sum(dim=-1, keepdim=True)
        values, prefix, patch, moments = out.split([self._channels, 2, 1, 3], dim=-1)
        if low:
            values = values * self._spread[:, None] + self._mean[:, None] * (1 - prefix.sum(dim=-1, keepdim=True))
        return Carried(values, prefix, patch[..., 0], moments, of_rows)

    def mean_squared_distance(self, carried: Carried) -> Float[Tensor, "batch head token"]:
        """Mean squared distance of each patch query to the patches it attends to, px^2; NaN for prefix queries.

        Exact from the moments: E|k - q|^2 = E|k|^2 - 2 q . E k + |q|^2, with the attention renormalised over patches.
        """
        coordinates = self._coordinates.to(carried.moments)
        patches = slice(self.layout.prefix, None)
        moments = carried.moments[:, :, patches] / carried.patch_mass[:, :, patches, None]
        squared = moments[..., 2] - 2 * (moments[..., :2] * coordinates).sum(dim=-1) + coordinates.square().sum(dim=-1)
        distance = carried.moments.new_full(carried.patch_mass.shape, torch.nan)
        distance[:, :, patches] = squared.clamp_min(0) * self._unit**2
        return distance

    @cached_property
    def _standardised(self) -> Float[Tensor, "batch token channel"]:
        """The weights for a call in low precision, which keeps few digits of what is far from zero, or is infinite."""
        weights = self._weights.clone()
        channels = weights[:, self.layout.prefix :, : self._channels]
        channels.sub_(self._mean).div_(self._spread)
        return weights

    def _with_own_channels(self, channels: Tensor) -> Float[Tensor, "batch token channel"]:
        """Append class, register and patch indicators and the coordinates; prefix tokens weigh zero elsewhere."""
        layout = self.layout
        own = channels.new_zeros(layout.tokens, OWN_CHANNELS)
        own[: layout.class_tokens, 0] = 1
        own[layout.class_tokens : layout.prefix, 1] = 1
        own[layout.prefix :, 2] = 1
        own[layout.prefix :, 3:5] = self._coordinates
        own[layout.prefix :, 5] = self._coordinates.square().sum(dim=-1)
        weights = channels.new_zeros(channels.shape[0], layout.tokens, channels.shape[-1] + own.shape[-1])
        weights[:, layout.prefix :, : channels.shape[-1]] = channels
        weights[:, :, channels.shape[-1] :] = own
        return weights


def _centred_coordinates(layout: TokenLayout, like: Tensor) -> tuple[Float[Tensor, "patch 2"], float]:
    """Patch centres from the image's centre in half-diagonals, and the length of one, px.

    Centred and scaled so that second moments lose little to rounding.
    """
    grid = layout.grid
    unit = ((grid.height**2 + grid.width**2) ** 0.5) / 2
    centre = torch.tensor([grid.width / 2, grid.height / 2], dtype=torch.float64)
    coordinates = (torch.from_numpy(grid.centres()) - centre) / unit
    return coordinates.to(like.device, torch.promote_types(like.dtype, torch.float32)), unit
