"""One step of other libraries' masked autoencoders under our masks."""

import pytest
import torch

from siftlens.pretraining import MaskPolicy, image_keys, lightly_indices, split

BATCH, SIZE, PATCH, PATCHES = 3, 40, 8, 25
POLICY = MaskPolicy("keypoint-high", ratio=0.6)
VISIBLE = POLICY.visible(PATCHES)


def noise_and_images():
    generator = torch.Generator().manual_seed(0)
    concentration = torch.poisson(torch.full((BATCH, PATCHES), 2.0), generator=generator)
    noise = POLICY.noise(concentration, progress=0, keys=image_keys(0, 0, torch.arange(BATCH)))
    return noise, torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)


def assert_a_step_trains(model, loss):
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_transformers_vitmae_masks_what_the_noise_says():
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'siftlens[hf]'")
    noise, images = noise_and_images()
    config = transformers.ViTMAEConfig(
        image_size=SIZE, patch_size=PATCH, hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
        intermediate_size=48, decoder_hidden_size=12, decoder_num_hidden_layers=1, decoder_num_attention_heads=3,
        decoder_intermediate_size=24, mask_ratio=POLICY.ratio,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config)
    output = model(pixel_values=images, noise=noise)
    _, masked = split(noise, VISIBLE)
    assert torch.equal(output.mask, torch.zeros(BATCH, PATCHES).scatter(1, masked, 1.0))
    assert_a_step_trains(model, output.loss)


def test_lightlys_mae_keeps_and_masks_what_the_noise_says(monkeypatch):
    monkeypatch.setenv("LIGHTLY_DID_VERSION_CHECK", "True")  # it would ask its server
    modules = pytest.importorskip("lightly.models.modules", reason="needs lightly: pip install lightly")
    from lightly.models import utils
    from timm.models.vision_transformer import VisionTransformer

    noise, images = noise_and_images()
    vit = VisionTransformer(img_size=SIZE, patch_size=PATCH, embed_dim=24, depth=1, num_heads=3, num_classes=0)
    backbone = modules.MaskedVisionTransformerTIMM(vit=vit)
    decoder = modules.MaskedVisionTransformerDecoderTIMM(num_patches=PATCHES, embed_dim=12, depth=1, num_heads=3)
    embed, head = torch.nn.Linear(24, 12), torch.nn.Linear(12, 3 * PATCH**2)
    keep, masked = lightly_indices(noise, VISIBLE)
    assert torch.cat([keep, masked], 1).sort(1).values.tolist() == [list(range(PATCHES + 1))] * BATCH
    assert (keep[:, 0] == 0).all()
    seen = noise.gather(1, keep[:, 1:] - 1)
    assert (seen.amax(1) < noise.gather(1, masked - 1).amin(1)).all()

    encoded = backbone.encode(images, idx_keep=keep)
    assert encoded.shape[1] == VISIBLE + 1
    tokens = utils.set_at_index(torch.zeros(BATCH, PATCHES + 1, 12), keep, embed(encoded))
    predicted = head(utils.get_at_index(decoder(tokens, idx_mask=masked), masked))
    target = utils.get_at_index(utils.patchify(images, PATCH), masked - 1)
    loss = (predicted - target).square().mean()
    assert_a_step_trains(torch.nn.ModuleList([backbone, embed, decoder, head]), loss)
