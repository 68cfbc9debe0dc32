"""The masked autoencoder against loops, timm's own forward pass, and what it may see."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from siftlens.core import InputError, ModelError, PatchGrid
from siftlens.models import load_model
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.decoder import CrossBlock, DecoderSettings
from siftlens.pretraining.patches import patchify, sines, take, unpatchify

NAME, SIZE = "test_vit", (32, 80)
PATCHES = 10
ARCHITECTURES = {
    "class token": {},
    "registers": {"class_token": False, "reg_tokens": 3, "global_pool": "avg"},
    "class apart from positions": {"no_embed_class": True, "reg_tokens": 2},
    "no prefix": {"class_token": False, "global_pool": "avg"},
}


def vit(**settings) -> torch.nn.Module:
    return timm.create_model(NAME, img_size=SIZE, num_classes=0, **{"depth": 2} | settings)


def made(kind: str = "self", norm_pix: bool = True, **settings) -> MaskedAutoencoder:
    torch.manual_seed(5)
    return MaskedAutoencoder(vit(**settings), DecoderSettings(24, 2, 3, kind), norm_pix=norm_pix).eval()


def images(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def shuffled(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, PATCHES, generator=torch.Generator().manual_seed(4)).argsort(1)


def raw_prediction(model, patches, visible, decoded) -> torch.Tensor:
    own, position = model.positions(model.layout.grid)
    return model.decoder(model.encode(patches, visible, own), visible, decoded, position)


def test_patches_are_cut_row_by_row_and_put_together_again():
    grid = PatchGrid(3, 5, 7, 2)
    whole = torch.randn(2, 3, 21, 10)
    patches = patchify(whole, grid)
    for row in range(3):
        for col in range(5):
            expected = whole[:, :, 7 * row : 7 * row + 7, 2 * col : 2 * col + 2].flatten(1)
            assert torch.equal(patches[:, 5 * row + col], expected)
    assert torch.equal(unpatchify(patches, grid), whole)


def test_sines_tell_every_patch_apart_and_nearness():
    embedding = sines(PatchGrid(3, 5, 1, 1), 12).double().numpy()
    for row in range(3):
        for col in range(5):
            rates = [10000 ** -(n / 3) for n in range(3)]
            expected = [f(place * rate) for place in (col, row) for f in (np.sin, np.cos) for rate in rates]
            np.testing.assert_allclose(embedding[5 * row + col], expected, atol=1e-6)


@pytest.mark.parametrize("of", [PatchGrid(7, 11, 1, 1), PatchGrid(3, 5, 1, 1), PatchGrid(2, 3, 1, 1)])
def test_sines_of_a_smaller_grid_lie_at_its_centres_in_patches_of_the_larger(of):
    embedding = sines(PatchGrid(3, 5, 1, 1), 12, of).double().numpy()
    for row in range(3):
        for col in range(5):
            # The centre as a share of the view; the centre of the larger grid's patch n lies at (n + 0.5) / patches.
            y, x = (row + 0.5) / 3 * of.rows - 0.5, (col + 0.5) / 5 * of.cols - 0.5
            rates = [10000 ** -(n / 3) for n in range(3)]
            expected = [f(place * rate) for place in (x, y) for f in (np.sin, np.cos) for rate in rates]
            np.testing.assert_allclose(embedding[5 * row + col], expected, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 6, 7, 49])
def test_sines_of_a_whole_grid_are_at_whole_places_bit_by_bit(rows):
    grid = PatchGrid(rows, 13, 1, 1)
    rates = 10000 ** -(torch.arange(8, dtype=torch.float64) / 8)
    down, right = (n.flatten()[:, None] * rates for n in torch.meshgrid(*map(torch.arange, (rows, 13)), indexing="ij"))
    expected = torch.cat([right.sin(), right.cos(), down.sin(), down.cos()], 1).float()
    for embedding in (sines(grid, 32), sines(grid, 32, grid), sines(grid, 32, PatchGrid(rows, 13, 4, 5))):
        assert torch.equal(embedding, expected)


SMALL, SMALLER = (16, 48), PatchGrid(1, 3, 16, 16)


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_a_smaller_view_has_positions_of_its_own(settings):
    """The whole sequence, built by hand around timm's blocks."""
    model = made(**settings)
    vit, decoder = model.encoder, model.decoder
    x = torch.randn(2, 3, *SMALL, generator=torch.Generator().manual_seed(3))
    visible, decoded = torch.tensor([[2, 0], [1, 2]]), torch.tensor([[1], [0]])
    at, places = (sines(SMALLER, width, PatchGrid(2, 5, 16, 16)) for width in (vit.embed_dim, 24))
    with torch.no_grad():
        tokens = vit.patch_embed.proj(x).flatten(2).transpose(1, 2)
        special = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        prefix = torch.cat(special, 1) if special else torch.zeros(1, 0, vit.embed_dim)
        if not vit.no_embed_class:
            prefix = prefix + vit.pos_embed[:, : prefix.shape[1]]
        losses = []
        for n in range(2):
            seen = torch.stack([tokens[n, patch] + at[patch] for patch in visible[n]])
            sequence = decoder.embed(vit.norm(vit.blocks(vit.norm_pre(torch.cat([prefix, seen[None]], 1)))))
            for place, patch in enumerate(visible[n]):
                sequence[0, prefix.shape[1] + place] += places[patch]
            wanted = decoder.mask_token + places[decoded[n]]
            predicted = decoder.head(
                decoder.norm(torch.nn.Sequential(*decoder.blocks)(torch.cat([sequence, wanted], 1))[:, -1:])
            )
            true = patchify(x, SMALLER)[n, decoded[n]]
            losses.append((predicted[0] - (true - true.mean()) / (true.var() + 1e-6).sqrt()).square().mean())
        assert float(model(x, visible, decoded)) == pytest.approx(float(sum(losses)) / 2, rel=1e-5)


def test_a_smaller_view_is_predicted_to_be_looked_at():
    model, x = made(norm_pix=False), torch.randn(2, 3, *SMALL)
    visible, decoded = torch.tensor([[2], [1]]), torch.tensor([[0, 1], [2, 0]])
    with torch.no_grad():
        own, position = model.positions(SMALLER)
        expected = model.decoder(model.encode(patchify(x, SMALLER), visible, own), visible, decoded, position)
        assert torch.equal(model.predict(x, visible, decoded), expected)


def test_positions_of_smaller_views_are_made_once_and_follow_the_model_and_are_no_weights():
    model = made()
    names = model.state_dict().keys()
    first, again = (model.positions(SMALLER) for _ in range(2))
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert model.state_dict().keys() == names
    assert {each.device.type for each in model.to("meta").positions(SMALLER)} == {"meta"}


def test_a_smaller_view_looked_at_first_is_trained_on_afterwards():
    model, x = made(), torch.randn(2, 3, *SMALL)
    visible, decoded = torch.tensor([[2], [1]]), torch.tensor([[0, 1], [2, 0]])
    with torch.inference_mode():
        model.predict(x, visible, decoded)
    model(x, visible, decoded).backward()
    assert model.decoder.mask_token.grad.abs().sum() > 0


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_seeing_every_patch_is_timms_own_forward_pass(settings):
    model = made(**settings)
    every = torch.arange(PATCHES).expand(3, -1)
    with torch.no_grad():
        model.encoder.pos_embed.normal_()
        tokens = model.encode(patchify(images(), model.layout.grid), every, model.positions(model.layout.grid)[0])
        torch.testing.assert_close(tokens, model.encoder.forward_features(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_masked_pixels_reach_neither_encoder_nor_prediction(kind):
    model, order = made(kind, norm_pix=False), shuffled()
    visible, masked = order[:, :3], order[:, 3:]
    patches = patchify(images(), model.layout.grid)
    patches.scatter_(1, masked[:, :, None].expand(-1, -1, patches.shape[2]), 99.0)
    changed = unpatchify(patches, model.layout.grid)
    with torch.no_grad():
        own, _ = model.positions(model.layout.grid)
        assert model.encode(patches, visible, own).shape[1] == 1 + 3  # the visible ones alone
        torch.testing.assert_close(model.predict(changed, visible, masked), model.predict(images(), visible, masked))


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_visible_patches_and_their_places_reach_the_prediction(kind):
    model, order = made(kind, norm_pix=False), shuffled()
    visible, masked = order[:, :3], order[:, 3:]
    with torch.no_grad():
        usual = model.predict(images(), visible, masked)
        assert not torch.allclose(usual[:, 0], usual[:, 1])
        assert not torch.allclose(model.predict(images().flip(3), visible, masked), usual)
        # The order of the list does not matter, only what is in it.
        torch.testing.assert_close(model.predict(images(), visible.flip(1), masked), usual, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.predict(images(), visible, masked.flip(1)).flip(1), usual)


def test_cross_attention_predicts_each_patch_by_itself():
    model, order = made("cross"), shuffled()
    with torch.no_grad():
        whole = model.predict(images(), order[:, :3], order[:, 3:])
        alone = model.predict(images(), order[:, :3], order[:, 5:6])
    torch.testing.assert_close(alone, whole[:, 2:3], rtol=1e-4, atol=1e-5)


def test_a_cross_attention_block_is_residual():
    block = CrossBlock(24, 3, mlp_ratio=4.0, qkv_bias=True)
    x, memory = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    assert not torch.allclose(block(x, memory), block(x, memory + 1))
    for layer in (block.projection, block.mlp.fc2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert torch.equal(block(x, memory), x)


def test_loss_is_the_mean_over_normalised_pixels_of_decoded_patches():
    model, order = made(), shuffled()
    visible, decoded = order[:, :3], order[:, 4:9]
    weights = torch.rand(3, 5)
    with torch.no_grad():
        loss = float(model(images(), visible, decoded))
        weighted = float(model(images(), visible, decoded, weights))
        patches = patchify(images(), model.layout.grid)
        predicted = raw_prediction(model, patches, visible, decoded).double().numpy()
    terms = np.zeros((3, 5))
    for image in range(3):
        for place, patch in enumerate(decoded[image]):
            true = patches[image, patch].double().numpy()
            true = (true - true.mean()) / np.sqrt(true.var(ddof=1) + 1e-6)
            terms[image, place] = np.mean((predicted[image, place] - true) ** 2)
    assert loss == pytest.approx(terms.mean(), rel=1e-5)
    assert weighted == pytest.approx((terms * weights.numpy()).mean(), rel=1e-5)


def test_predictions_to_look_at_have_the_true_mean_and_variance():
    model, order = made(), shuffled()
    patches = patchify(images() * 3 + 7, model.layout.grid)
    with torch.no_grad():
        found = model.predict(images() * 3 + 7, order[:, :3], order[:, 3:])
        raw = raw_prediction(model, patches, order[:, :3], order[:, 3:])
    true = take(patches, order[:, 3:])
    expected = raw * true.std(dim=2, keepdim=True) + true.mean(dim=2, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_encoder_loads_strictly_into_timm(tmp_path, settings):
    model = made(**settings)
    path = tmp_path / "encoder.safetensors"
    save_file(model.encoder.state_dict(), path)
    loaded = timm.create_model(
        NAME, img_size=SIZE, num_classes=0, checkpoint_path=str(path), **{"depth": 2} | settings
    ).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images()), model.encoder(images()))


def test_encoder_loads_into_load_model_by_its_timm_name(tmp_path):
    model = MaskedAutoencoder(timm.create_model(NAME, img_size=96, num_classes=0), DecoderSettings(24, 1, 3)).eval()
    path = tmp_path / "encoder.safetensors"
    save_file(model.encoder.state_dict(), path)
    loaded = load_model(f"timm/{NAME}", weights=path, size=96)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), model.encoder(x))


def test_every_weight_is_trained_except_fixed_positions():
    model, order = made(reg_tokens=2), shuffled()
    model(images(), order[:, :3], order[:, 3:]).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == ["encoder.pos_embed"]


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_what_stands_behind_the_tokens_waits_for_no_gradient(pool):
    model, order = made(global_pool=pool, class_token=False), shuffled()
    model(images(), order[:, :3], order[:, 3:]).backward()
    waiting = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not waiting
    assert any(name.startswith(("encoder.fc_norm", "encoder.attn_pool")) for name in model.state_dict())


def test_other_encoders_are_refused():
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    with pytest.raises(ModelError, match="the encoder has a token for distillation; choose a plain one"):
        MaskedAutoencoder(distilled, DecoderSettings())
    with pytest.raises(ModelError, match="must be a VisionTransformer of timm, got ResNet"):
        MaskedAutoencoder(timm.create_model("test_resnet"), DecoderSettings())
    with pytest.raises(ModelError, match="the encoder has no learned position embedding; choose a plain one"):
        MaskedAutoencoder(vit(pos_embed="none"), DecoderSettings())
    with pytest.raises(ModelError, match="patch dropout, a width that is no multiple of 4"):
        MaskedAutoencoder(vit(patch_drop_rate=0.5, embed_dim=66), DecoderSettings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "both"}, "kind must be one of self, cross, got 'both'"),
        ({"width": 100, "heads": 3}, "multiple of 4 and of its heads, got width 100, depth 4, 3 heads"),
    ],
)
def test_decoders_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DecoderSettings(**settings)
