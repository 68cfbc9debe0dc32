"""Every statistic of every supported architecture against the float64 loop oracle."""

import pytest
import torch

import siftlens
from oracles.attention import TOLERANCE, read_slowly, true_attention
from oracles.zoo import ZOO, model_of
from siftlens.attention import find_layout


@pytest.fixture(params=ZOO)
def exhibit(request):
    return ZOO[request.param]


def images_for(exhibit, batch=2):
    return torch.randn(batch, 3, *exhibit.size, generator=torch.Generator().manual_seed(3))


def channels_for(layout, batch=2, count=7):
    return torch.randn(batch, layout.grid.patches, count, generator=torch.Generator().manual_seed(5))


def assert_close(got, true, dtype=torch.float32):
    # Distances span some hundred px^2: compare against each statistic's own scale.
    for name in ("values", "prefix_mass", "mean_squared_distance", "entropy"):
        want = getattr(true, name)
        scale = max(1.0, want.nan_to_num().abs().max().item())
        difference = (getattr(got, name).double() - want) / scale
        assert torch.equal(difference.isnan(), want.isnan()), name
        assert difference.nan_to_num().abs().max() < TOLERANCE[dtype], name


def test_layout_is_found_on_the_model_itself(exhibit):
    layout = find_layout(model_of(exhibit), images_for(exhibit))
    rows, cols = exhibit.grid
    assert (layout.grid.rows, layout.grid.cols) == (rows, cols)
    assert (layout.grid.patch_height, layout.grid.patch_width) == (4, 4)
    assert (layout.class_tokens, layout.registers) == exhibit.prefix


def test_every_statistic_against_the_oracle(exhibit):
    model, images = model_of(exhibit), images_for(exhibit)
    layout = find_layout(model, images)
    channels = channels_for(layout)
    true = true_attention(model, images)
    with torch.no_grad(), siftlens.read_attention(model, channels, entropy=True) as reading:
        model(images)
    assert len(reading.layers) == 2 and len(reading.pool) == exhibit.pool
    assert ("eager" in reading.layers[0].backend) is not exhibit.fused
    for layer, attention in zip(reading.layers, true.attention, strict=False):
        assert_close(layer, read_slowly(attention, channels, layout))


@pytest.mark.parametrize("name", ["timm-vit", "timm-dinov2-registers", "own"])
def test_value_norm_weighting_against_the_oracle(name):
    model, images = model_of(ZOO[name]), images_for(ZOO[name])
    layout = find_layout(model, images)
    channels = channels_for(layout)
    true = true_attention(model, images)
    with torch.no_grad(), siftlens.read_attention(model, channels, entropy=True, weighting="value_norm") as reading:
        model(images)
    for layer, attention, norm in zip(reading.layers, true.attention, true.value_norm, strict=True):
        assert_close(layer, read_slowly(attention, channels, layout, norm))


def test_value_norm_agrees_between_fused_and_eager():
    images = images_for(ZOO["timm-vit"])
    values = []
    for name in ("timm-vit", "timm-vit-eager"):
        model = model_of(ZOO[name])
        channels = channels_for(find_layout(model, images))
        with torch.no_grad(), siftlens.read_attention(model, channels, weighting="value_norm") as reading:
            model(images)
        values.append(reading.layers[1].values)
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 11, 12, 29])
def test_any_number_of_channels(count):
    """More channels than the head size of 11 take further calls."""
    model, images = model_of(ZOO["timm-vit"]), images_for(ZOO["timm-vit"])
    layout = find_layout(model, images)
    channels = channels_for(layout, count=count)
    with torch.no_grad(), siftlens.read_attention(model, channels) as reading:
        model(images)
    true = true_attention(model, images).attention[1]
    torch.testing.assert_close(
        reading.layers[1].values.double(), true[..., 1:] @ channels[:, None].double(), atol=1e-5, rtol=1e-5
    )


def test_channels_shared_by_all_images():
    model, images = model_of(ZOO["timm-vit"]), images_for(ZOO["timm-vit"])
    channels = channels_for(find_layout(model, images))[:1]
    with torch.no_grad(), siftlens.read_attention(model, channels[0]) as shared:
        model(images)
    with torch.no_grad(), siftlens.read_attention(model, channels.expand(2, -1, -1)) as own:
        model(images)
    assert torch.equal(shared.layers[1].values, own.layers[1].values)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["timm-vit", "timm-vit-eager", "timm-beit", "hf-vit-eager", "own", "hf-siglip"])
def test_every_grad_mode_reads_the_same(name, mode):
    model, images = model_of(ZOO[name]), images_for(ZOO[name])
    layout = find_layout(model, images)
    channels = channels_for(layout)
    with mode(), siftlens.read_attention(model, channels, entropy=True) as reading:
        model(images)
    true = true_attention(model, images)
    for layer, attention in zip(reading.layers, true.attention, strict=False):
        assert_close(layer, read_slowly(attention, channels, layout))


def test_bfloat16_to_a_stated_tolerance(exhibit):
    """Against the float64 oracle on the same rounded weights: rounding of the model's own activations included."""
    model, images = model_of(exhibit).bfloat16(), images_for(exhibit).bfloat16()
    layout = find_layout(model, images)
    channels = channels_for(layout)
    with torch.no_grad(), siftlens.read_attention(model, channels, entropy=True) as reading:
        model(images)
    true = true_attention(model, images)
    for layer, attention in zip(reading.layers, true.attention, strict=False):
        assert layer.values.dtype == torch.float32
        assert_close(layer, read_slowly(attention, channels, layout), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float16, torch.bfloat16])
def test_channels_of_any_type_leave_the_rest_as_it_is(dtype):
    model, images = model_of(ZOO["timm-vit"]), images_for(ZOO["timm-vit"])
    layout = find_layout(model, images)
    channels = (channels_for(layout) > 0).to(dtype)
    with torch.no_grad(), siftlens.read_attention(model, channels, entropy=True) as reading:
        model(images)
    for layer, attention in zip(reading.layers, true_attention(model, images).attention, strict=True):
        assert_close(layer, read_slowly(attention, channels.double(), layout))


@pytest.mark.parametrize("weighting", ["attention", "value_norm"])
def test_channels_far_from_zero_keep_their_digits_in_low_precision(weighting):
    model, images = model_of(ZOO["timm-vit"]).bfloat16(), images_for(ZOO["timm-vit"]).bfloat16()
    channels = channels_for(find_layout(model, images))
    read = []
    for offset in (0, 1e5):
        with (
            torch.no_grad(),
            siftlens.read_attention(model, channels.double() + offset, weighting=weighting) as reading,
        ):
            model(images)
        mass = 1 - reading.layers[1].prefix_mass.double().sum(-1, keepdim=True)
        read.append(reading.layers[1].values.double() - offset * mass)
    torch.testing.assert_close(*read, atol=1e-2, rtol=0)


@pytest.mark.parametrize("of_channels", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [True, False])
def test_float64_model_is_read_in_float64(fused, of_channels):
    model, images = model_of(ZOO["timm-vit"]).double(), images_for(ZOO["timm-vit"]).double()
    for block in model.blocks:
        block.attn.fused_attn = fused
    layout = find_layout(model, images)
    channels = channels_for(layout).to(of_channels)
    with torch.no_grad(), siftlens.read_attention(model, channels, entropy=True) as reading:
        model(images)
    true = true_attention(model, images)
    for layer, attention in zip(reading.layers, true.attention, strict=True):
        assert layer.values.dtype == torch.float64
        assert_close(layer, read_slowly(attention, channels.double(), layout), of_channels)


def test_masked_autoencoder_is_read_with_its_patches_in_order():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.ViTMAEModel(
        transformers.ViTMAEConfig(
            hidden_size=33,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=37,
            image_size=20,
            patch_size=4,
            mask_ratio=0.0,
        )
    ).eval()
    images, noise = torch.randn(2, 3, 20, 20), torch.arange(25.0).expand(2, 25)
    channels = torch.randn(2, 25, 7)
    with torch.no_grad(), siftlens.read_attention(model, channels, entropy=True) as reading:
        read = model(images, noise=noise).last_hidden_state
    with torch.no_grad():
        assert torch.equal(read, model(images, noise=noise).last_hidden_state)
    true = true_attention(model, images, noise=noise)
    for layer, attention in zip(reading.layers, true.attention, strict=True):
        assert_close(layer, read_slowly(attention, channels, reading.layout))
    with torch.no_grad(), pytest.raises(siftlens.CaptureError, match="shuffled tokens|row by row"):
        with siftlens.read_attention(model, channels):
            model(images)  # random noise shuffles the patches


def test_bare_encoder_needs_the_grid():
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(34, 2, 37), 2, enable_nested_tensor=False
    ).eval()
    tokens, channels = torch.randn(15, 2, 34), torch.randn(2, 15, 7)
    grid = siftlens.PatchGrid(3, 5, 4, 4)
    with torch.no_grad(), siftlens.read_attention(model, channels, grid=grid, entropy=True) as reading:
        read = model(tokens)
    with torch.no_grad():  # by its fast path
        torch.testing.assert_close(read, model(tokens), atol=1e-5, rtol=1e-5)
    true = true_attention(model, tokens)
    for layer, attention in zip(reading.layers, true.attention, strict=True):
        assert_close(layer, read_slowly(attention, channels, siftlens.TokenLayout(grid)))
    with pytest.raises(siftlens.CaptureError, match="pass grid=PatchGrid"), siftlens.read_attention(model, channels):
        model(tokens)


def test_a_grid_of_another_image_size_is_refused():
    model, images = model_of(ZOO["timm-siglip"]), images_for(ZOO["timm-siglip"])
    grid = find_layout(model, images).grid
    wrong = siftlens.PatchGrid(grid.rows, grid.cols, grid.patch_height // 2, grid.patch_width)
    with (
        torch.no_grad(),
        pytest.raises(siftlens.InputError, match=r"the grid covers \d+x\d+ px, but the model sees \d+x\d+ px"),
        siftlens.read_attention(model, torch.ones(grid.patches, 1), grid=wrong),
    ):
        model(images)


@pytest.mark.parametrize("name", ["timm-siglip", "hf-siglip"])
def test_pooling_head_is_read_apart(name):
    model, images = model_of(ZOO[name]), images_for(ZOO[name])
    layout = find_layout(model, images)
    channels = channels_for(layout)
    with torch.no_grad(), siftlens.read_attention(model, channels, entropy=True) as reading:
        model(images)
    true = true_attention(model, images).attention[-1]
    (pool,) = reading.pool
    assert true.shape[2] == 1
    torch.testing.assert_close(pool.values.double(), true @ channels[:, None].double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pool.entropy.double(), torch.special.entr(true).sum(dim=-1), atol=1e-5, rtol=1e-5)
    assert not pool.prefix_mass.any()
    assert pool.mean_squared_distance.isnan().all()


def test_attention_maps_are_exact():
    model, images = model_of(ZOO["timm-dinov2-registers"]), images_for(ZOO["timm-dinov2-registers"])
    with torch.no_grad():
        maps = siftlens.attention_maps(model, images, layers=[1])
    assert list(maps) == [1]
    true = true_attention(model, images).attention[1]
    torch.testing.assert_close(maps[1].double(), true, atol=1e-6, rtol=1e-5)
    with torch.no_grad(), pytest.raises(siftlens.InputError, match="layers 0 to 1, got 2"):
        siftlens.attention_maps(model, images, layers=[2])
    images[0, 0, 0, 0] = torch.inf
    with torch.no_grad(), pytest.raises(siftlens.InputError, match="x holds NaN or infinite values"):
        siftlens.attention_maps(model, images)


def test_what_images_show_does_not_matter_to_the_layout():
    """One image that holds no numbers spoils its own values alone."""
    entry = ZOO["timm-dinov2-registers"]
    model, images = model_of(entry), images_for(entry)
    channels = torch.ones(find_layout(model, images).grid.patches, 1)
    values = []
    for first in (images[0], torch.full_like(images[0], torch.nan)):
        images[0] = first
        with torch.no_grad(), siftlens.read_attention(model, channels) as reading:
            model(images)
        values.append(reading.layers[-1].values)
    assert values[1][0].isnan().all()
    torch.testing.assert_close(values[1][1:], values[0][1:])
