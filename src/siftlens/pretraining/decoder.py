"""From the visible patches' tokens to the pixels of masked ones."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from siftlens.core import InputError, TokenLayout
from siftlens.pretraining.patches import sines

KINDS = ("self", "cross")


@dataclass(frozen=True)
class DecoderSettings:
    """Size and kind of a decoder. MAE's own is 512 wide, 8 deep, with 16 heads.

    Args:
        width: channels, a multiple of 4 and of `heads`.
        depth: blocks.
        heads: of attention.
        kind: "self", masked and visible patches attend to each other, as in MAE; "cross", masked patches attend to
            the visible ones alone, as in CrossMAE (Fu et al. 2024).

    Raises:
        InputError: another kind, or sizes that do not fit.
    """

    width: int = 192
    depth: int = 4
    heads: int = 3
    kind: str = "self"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"the decoder's kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads or self.width % 4:
            raise InputError(
                "the decoder needs a positive depth and a width that is a multiple of 4 and of its heads, "
                f"got width {self.width}, depth {self.depth}, {self.heads} heads"
            )


class Decoder(nn.Module):
    """Predicts the pixels of some masked patches.

    Args:
        channels: of the encoder's tokens.
        layout: the encoder's sequence.
        values: numbers to predict per patch.
        settings: size and kind.

    Attributes:
        position: embedding of every patch of a view of full size.
    """

    position: Tensor

    def __init__(self, channels: int, layout: TokenLayout, values: int, settings: DecoderSettings):
        super().__init__()
        self.prefix = layout.prefix
        self.embed = nn.Linear(channels, settings.width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, settings.width) * 0.02)
        self.register_buffer("position", sines(layout.grid, settings.width), persistent=False)
        kind = Block if settings.kind == "self" else CrossBlock
        self.cross = settings.kind == "cross"
        self.blocks = nn.ModuleList(
            kind(settings.width, settings.heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(settings.width)
        self.head = nn.Linear(settings.width, values)

    def forward(
        self,
        tokens: Float[Tensor, "batch token channel"],
        visible: Int64[Tensor, "batch visible"],
        decoded: Int64[Tensor, "batch decoded"],
        position: Float[Tensor, "patch width"],
    ) -> Float[Tensor, "batch decoded values"]:
        """Predict patches.

        Args:
            tokens: from the encoder, the prefix first.
            visible: which patches the others stand for.
            decoded: which patches to predict.
            position: embedding of every patch of the view.
        """
        seen = self.embed(tokens)
        seen = torch.cat([seen[:, : self.prefix], seen[:, self.prefix :] + position[visible]], dim=1)
        wanted = (self.mask_token + position[decoded]).to(seen.dtype)
        # Attention knows no order, so that nothing needs to be put back into its place.
        x = wanted if self.cross else torch.cat([seen, wanted], dim=1)
        for block in self.blocks:
            x = block(x, seen) if self.cross else block(x)
        predicted: Tensor = self.head(self.norm(x[:, -decoded.shape[1] :]))
        return predicted


class CrossBlock(nn.Module):
    """A block whose tokens attend to a memory and not to each other.

    Args:
        width: channels.
        heads: of attention.
        mlp_ratio: hidden channels of the MLP over `width`.
        qkv_bias: bias of queries, keys and values.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, qkv_bias: bool):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=qkv_bias)
        self.key_value = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(
        self, x: Float[Tensor, "batch token channel"], memory: Float[Tensor, "batch seen channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Attend to the memory, then the MLP, both residual."""
        query = self._by_head(self.query(self.norm1(x)))
        key, value = (self._by_head(part) for part in self.key_value(self.memory_norm(memory)).chunk(2, dim=2))
        read = F.scaled_dot_product_attention(query, key, value)
        x = x + self.projection(read.transpose(1, 2).flatten(2))
        after: Tensor = x + self.mlp(self.norm2(x))
        return after

    def _by_head(self, x: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch head token part"]:
        by_head: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return by_head
