"""One training step of a masked autoencoder, ours and other libraries', from the same pixels to changed weights.

Each takes sizes from the same settings, draws its own random masks, predicts pixels normalised by patch, and trains
with the same fused AdamW. The others are put together as their documentation shows, with their own defaults.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from siftlens.pretraining import PretrainSettings, image_keys, split
from siftlens.pretraining.batches import Batch
from siftlens.pretraining.build import build
from siftlens.pretraining.launch import launch
from siftlens.pretraining.learner import Learner
from siftlens.pretraining.views import normalised

Step = Callable[[], Any]
Views = UInt8[Tensor, "batch 3 height width"]


def siftlens_step(settings: PretrainSettings, precision: str, views: Views) -> Step:
    """With the settings' policy at concentration 0, which is random masking, and their share of decoded patches."""
    model, normalization = build(settings)
    learner = Learner(launch("cpu", precision), model, normalization, settings, steps=10**6)
    patches = model.layout.grid.patches
    flat, images = torch.zeros(len(views), patches), torch.arange(len(views))

    def step() -> None:
        keys = image_keys(settings.seed, 0, images)
        noise = settings.policy.noise(flat, progress=0.0, keys=keys)
        visible, masked = split(noise, settings.policy.visible(patches))
        learner.step(0, [Batch(views, visible, settings.decoding.choose(masked, flat, keys), None)])

    return step


def transformers_step(settings: PretrainSettings, precision: str, views: Views) -> Step:
    """ViTMAEForPreTraining."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    vit, decoder = build(settings)[0].encoder, settings.decoder
    config = ViTMAEConfig(
        image_size=settings.size,
        patch_size=vit.patch_embed.patch_size[0],
        hidden_size=vit.embed_dim,
        num_hidden_layers=len(vit.blocks),
        num_attention_heads=vit.blocks[0].attn.num_heads,
        intermediate_size=4 * vit.embed_dim,
        decoder_hidden_size=decoder.width,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.width,
        mask_ratio=settings.policy.ratio,
        norm_pix_loss=True,
    )
    model = ViTMAEForPreTraining(config).train()
    return training(model, lambda x: model(pixel_values=x).loss, settings, precision, views)


def lightly_step(settings: PretrainSettings, precision: str, views: Views) -> Step:
    """The modules of lightly's example of MAE, around the same encoder of timm."""
    os.environ["LIGHTLY_DID_VERSION_CHECK"] = "True"  # it would ask its server
    from lightly.models import utils
    from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM

    vit = build(settings)[0].encoder
    patch, patches, wide = vit.patch_embed.patch_size[0], vit.patch_embed.num_patches, settings.decoder.width
    backbone = MaskedVisionTransformerTIMM(vit=vit)
    decoder = MaskedVisionTransformerDecoderTIMM(patches, wide, settings.decoder.depth, settings.decoder.heads)
    embed, head = nn.Linear(vit.embed_dim, wide), nn.Linear(wide, 3 * patch**2)
    model, criterion = nn.ModuleList([backbone, decoder, embed, head]).train(), nn.MSELoss()

    def loss_of(x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, ""]:
        size = (len(x), backbone.sequence_length)
        keep, masked = utils.random_token_mask(size, mask_ratio=settings.policy.ratio)
        encoded = embed(backbone.encode(x, idx_keep=keep))
        tokens = utils.set_at_index(encoded.new_zeros(*size, wide), keep, encoded)
        predicted = head(utils.get_at_index(decoder(tokens, idx_mask=masked), masked))
        target = utils.get_at_index(utils.patchify(x, patch), masked - 1)
        loss: Tensor = criterion(predicted, utils.normalize_mean_var(target))
        return loss

    return training(model, loss_of, settings, precision, views)


def training(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], settings: PretrainSettings, precision: str, views: Views
) -> Step:
    """A step as one would write it by hand."""
    _, wanted = build(settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, betas=(0.9, 0.95), weight_decay=0.05, fused=True)

    def step() -> None:
        x = normalised(views, wanted.mean, wanted.std)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


LIBRARIES: dict[str, Callable[[PretrainSettings, str, Views], Step]] = {
    "siftlens": siftlens_step,
    "lightly": lightly_step,
    "transformers": transformers_step,
}
