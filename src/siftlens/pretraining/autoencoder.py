"""A masked autoencoder (MAE, He et al. 2022) around a vision transformer of timm."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from siftlens.core import ModelError, PatchGrid, TokenLayout
from siftlens.pretraining.decoder import Decoder, DecoderSettings
from siftlens.pretraining.patches import grid_of, patchify, sines, take

_EPSILON = 1e-6  # of MAE's normalised pixels


class MaskedAutoencoder(nn.Module):
    """Sees some patches, predicts the pixels of others. The encoder is the model that is trained for.

    Weights are begun anew as in MAE, position embeddings are fixed sines.

    Args:
        encoder: a timm VisionTransformer; its state dict stays its own, so that it loads into timm as it is.
        decoder: size and kind of the decoder.
        norm_pix: predict each patch's pixels with mean 0 and variance 1.

    Raises:
        ModelError: the encoder is not a plain vision transformer, or its width is no multiple of 4.
    """

    def __init__(self, encoder: nn.Module, decoder: DecoderSettings, *, norm_pix: bool = True):
        super().__init__()
        self.encoder = _plain(encoder)
        self.norm_pix = norm_pix
        embed = self.encoder.patch_embed
        self.layout = TokenLayout(
            PatchGrid(*embed.grid_size, *embed.patch_size),
            class_tokens=int(self.encoder.has_class_token),
            registers=self.encoder.num_reg_tokens,
        )
        values = embed.proj.in_channels * embed.patch_size[0] * embed.patch_size[1]
        self.decoder = Decoder(self.encoder.embed_dim, self.layout, values, decoder)
        self._smaller: dict[PatchGrid, tuple[Tensor, Tensor]] = {}
        self._begin()

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        visible: Int64[Tensor, "batch visible"],
        decoded: Int64[Tensor, "batch decoded"],
        weights: Float[Tensor, "batch decoded"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss: mean squared error of the decoded patches' pixels.

        Args:
            images: normalised as the encoder wants them; they may be smaller, of fewer patches.
            visible: patches that the encoder sees.
            decoded: patches that are predicted.
            weights: of the decoded patches in the mean, themselves of mean 1; all equal without.
        """
        grid = grid_of(images.shape[2], images.shape[3], self.layout.grid)
        patches = patchify(images, grid)
        predicted = self._predict(patches, grid, visible, decoded)
        target = self.target(take(patches, decoded))
        if weights is None:
            return F.mse_loss(predicted.float(), target)
        error = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=2)
        return (error * weights).mean()

    def positions(self, grid: PatchGrid) -> tuple[Float[Tensor, "patch channel"], Float[Tensor, "patch width"]]:
        """Position embeddings of a view's patches: the encoder's and the decoder's.

        Those of a smaller view are sines at the centres of its patches, in patches of the view of full size.
        """
        full = self.layout.grid
        assert self.encoder.pos_embed is not None
        own, position = self.encoder.pos_embed[0, -full.patches :], self.decoder.position
        if grid == full:
            return own, position
        if grid not in self._smaller:
            small, decoders = (sines(grid, each.shape[1], full).to(each.device) for each in (own, position))
            self._smaller[grid] = small, decoders
        small, decoders = self._smaller[grid]
        return small.to(own.device), decoders.to(own.device)  # where the model has been moved since

    def encode(
        self,
        patches: Float[Tensor, "batch patch values"],
        visible: Int64[Tensor, "batch visible"],
        position: Float[Tensor, "patch channel"],
    ) -> Float[Tensor, "batch token channel"]:
        """Tokens of the visible patches, behind the prefix. What is masked is not even embedded.

        Args:
            patches: of a view.
            visible: which of them are seen.
            position: embedding of every one of them.
        """
        vit = self.encoder
        assert vit.pos_embed is not None
        projection = vit.patch_embed.proj
        x = F.linear(take(patches, visible), projection.weight.flatten(1), projection.bias)
        x = x + position[visible]
        special = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        if special:
            prefix = torch.cat(special, dim=1)
            if not vit.no_embed_class:
                prefix = prefix + vit.pos_embed[:, : self.layout.prefix]
            x = torch.cat([prefix.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x = vit.norm_pre(x)
        for block in vit.blocks:
            x = block(x)
        encoded: Tensor = vit.norm(x)
        return encoded

    def target(self, patches: Float[Tensor, "batch patch values"]) -> Float[Tensor, "batch patch values"]:
        """What is to be predicted of patches."""
        if not self.norm_pix:
            return patches
        # By the kernel of layer norm, which is many times faster; its variance divides by n, MAE's by n - 1.
        n = patches.shape[2]
        scale = torch.full((n,), (1 - 1 / n) ** 0.5, device=patches.device)
        return F.layer_norm(patches, (n,), weight=scale, eps=_EPSILON * (1 - 1 / n))

    def predict(
        self,
        images: Float[Tensor, "batch channel height width"],
        visible: Int64[Tensor, "batch visible"],
        decoded: Int64[Tensor, "batch decoded"],
    ) -> Float[Tensor, "batch decoded values"]:
        """Predicted pixels of patches; normalised ones are given the true mean and variance back, to be looked at."""
        grid = grid_of(images.shape[2], images.shape[3], self.layout.grid)
        patches = patchify(images, grid)
        predicted = self._predict(patches, grid, visible, decoded).float()
        if not self.norm_pix:
            return predicted
        variance, mean = torch.var_mean(take(patches, decoded), dim=2, keepdim=True)
        shown: Tensor = predicted * (variance + _EPSILON).sqrt() + mean
        return shown

    def _predict(
        self,
        patches: Float[Tensor, "batch patch values"],
        grid: PatchGrid,
        visible: Int64[Tensor, "batch visible"],
        decoded: Int64[Tensor, "batch decoded"],
    ) -> Float[Tensor, "batch decoded values"]:
        own, position = self.positions(grid)
        predicted: Tensor = self.decoder(self.encode(patches, visible, own), visible, decoded, position)
        return predicted

    @torch.no_grad()
    def _begin(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.flatten(1))
        for token in (self.encoder.cls_token, self.encoder.reg_token, self.decoder.mask_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        embedding = self.encoder.pos_embed
        assert embedding is not None
        embedding.zero_()
        embedding[0, -self.layout.grid.patches :] = sines(self.layout.grid, self.encoder.embed_dim)
        embedding.requires_grad_(False)
        for name in ("fc_norm", "attn_pool"):  # behind the tokens: they take no part, and DDP waits for all that does
            if (unused := getattr(self.encoder, name, None)) is not None:
                unused.requires_grad_(False)


def _plain(encoder: nn.Module) -> VisionTransformer:
    """The encoder, when its forward pass is the one above."""
    if not isinstance(encoder, VisionTransformer):
        raise ModelError(f"the encoder must be a VisionTransformer of timm, got {type(encoder).__name__}")
    projection = getattr(encoder.patch_embed, "proj", None)
    odd = [
        name
        for name, is_odd in {
            "no learned position embedding": encoder.pos_embed is None,
            "patches that are not cut by one convolution": not isinstance(projection, nn.Conv2d)
            or projection.kernel_size != projection.stride,
            "normalised patches": not isinstance(getattr(encoder.patch_embed, "norm", None), nn.Identity),
            "patch dropout": not isinstance(encoder.patch_drop, nn.Identity),
            "a width that is no multiple of 4": bool(encoder.embed_dim % 4),
            "a token for distillation": hasattr(encoder, "dist_token"),
        }.items()
        if is_odd
    ]
    if odd:
        raise ModelError(f"the encoder has {', '.join(odd)}; choose a plain one, such as vit_small_patch16_224")
    return encoder
