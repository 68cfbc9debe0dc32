"""Attention that cannot be read, or was missed, is an error that names it."""

import pytest
import timm
import torch
from torch import nn

import siftlens
from oracles.zoo import ZOO, model_of
from siftlens.attention import find_layout


def images(height=12, width=20):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))


def read(model, x, grid=None):
    with torch.no_grad(), siftlens.read_attention(model, torch.ones(15, 2), grid=grid) as reading:
        model(x)
    return reading


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "swin_tiny_patch4_window7_224",
            "layers.0.blocks.0.attn: attention over windows of 49 tokens, .*; use a model whose blocks see all",
        ),
        ("swinv2_cr_tiny_ns_224", "windows of 49 tokens"),
        ("xcit_nano_12_p16_224", "blocks.0.attn: .*channel attention"),
        ("cait_xxs24_224", "blocks.0.attn: the softmax's output is changed by"),
        (
            "pvt_v2_b0",
            "stages.0.blocks.0.attn: the first attention is of 3136 queries over 49 keys; .*; use a model whose",
        ),
        ("vit_tiny_r_s16_p8_224", "one pixel moves .* of the 50 tokens before the first attention"),
        ("resnet18", "ResNet: expected a vision transformer, but no attention ran"),
        ("mixer_s32_224", "MlpMixer: expected a vision transformer, but no attention ran"),
    ],
)
def test_other_architectures_are_refused_by_name(name, message):
    model, x = timm.create_model(name, pretrained=False).eval(), torch.zeros(1, 3, 224, 224)
    with pytest.raises(siftlens.CaptureError, match=message), torch.no_grad():
        with siftlens.read_attention(model, torch.ones(196, 1)):
            model(x)


class Hidden(nn.Module):
    """An attention whose kernel comes from outside torch."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.qkv

    def forward(self, x, **_):
        return torch.ops.foreign.attention(self.inner(x)[..., : x.shape[-1]])


class LinearAttention(nn.Module):
    """An attention without a softmax."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.qkv

    def forward(self, x, **_):
        q, k, v = self.inner(x).chunk(3, dim=-1)
        return q @ (k.transpose(-1, -2) @ v)


class Squared(nn.Module):
    """An attention that is changed after its softmax, in place or by a product."""

    def __init__(self, inner, in_place):
        super().__init__()
        self.inner, self.in_place = inner.qkv, in_place

    def forward(self, x, **_):
        q, k, v = self.inner(x)[:, None].chunk(3, dim=-1)
        attention = (q @ k.transpose(-1, -2)).softmax(-1)
        attention = attention.square_() if self.in_place else attention * attention
        return (attention @ v)[:, 0]


class Transposed(Squared):
    def forward(self, x, **_):
        q, k, v = self.inner(x)[:, None].chunk(3, dim=-1)
        return ((q @ k.transpose(-1, -2)).softmax(-1).transpose(-1, -2) @ v)[:, 0]


@pytest.fixture(scope="module", autouse=True)
def foreign_kernel():
    library = torch.library.Library("foreign", "FRAGMENT")
    library.define("attention(Tensor x) -> Tensor")
    library.impl("attention", lambda x: x * 1, "CPU")
    yield
    library._destroy()


def with_attention(build, blocks=(1,)):
    model = model_of(ZOO["timm-vit"])
    for index in blocks:
        model.blocks[index].attn = build(model.blocks[index].attn)
    return model.eval()


def test_a_block_with_a_foreign_kernel_is_named():
    with pytest.raises(
        siftlens.CaptureError, match=r"read in 1 modules but not in blocks.1 \(it runs foreign.attention"
    ):
        read(with_attention(Hidden), images())


def test_only_foreign_kernels_are_named():
    with pytest.raises(siftlens.CaptureError, match=r"kernels from outside torch: blocks.0.attn \(foreign.attention"):
        read(with_attention(Hidden, (0, 1)), images())


def test_attention_without_softmax_is_named():
    with pytest.raises(siftlens.CaptureError, match="but not in blocks.1.attn"):
        read(with_attention(LinearAttention), images())
    with pytest.raises(siftlens.CaptureError, match="no softmax attention ran in blocks.0.attn, blocks.1.attn"):
        read(with_attention(LinearAttention, (0, 1)), images())


@pytest.mark.parametrize("in_place", [True, False])
def test_attention_changed_after_its_softmax_is_refused(in_place):
    with pytest.raises(siftlens.CaptureError, match="blocks.1.attn: the softmax over 16 keys is changed by aten"):
        read(with_attention(lambda inner: Squared(inner, in_place)), images())


def test_transposed_attention_is_refused():
    with pytest.raises(siftlens.CaptureError, match="blocks.1.attn: the softmax over 16 keys is changed by aten"):
        read(with_attention(lambda inner: Transposed(inner, False)), images())


def test_a_skipped_block_is_named():
    model = model_of(ZOO["timm-vit"])
    model.blocks[1].forward = lambda x, **_: x
    with pytest.raises(siftlens.CaptureError, match="read in 1 modules but not in blocks.1;"):
        read(model, images())


def test_training_mode_is_refused():
    with pytest.raises(siftlens.CaptureError, match=r"training mode; call model.eval\(\)"):
        read(model_of(ZOO["timm-vit"]).train(), images())


def test_dropout_left_on_in_evaluation_is_refused():
    model = model_of(ZOO["timm-vit"])
    sdpa = torch.nn.functional.scaled_dot_product_attention
    model.blocks[0].attn.forward = lambda x, **_: sdpa(*[x[:, None]] * 3, dropout_p=0.5)[:, 0]
    with pytest.raises(siftlens.CaptureError, match="is changed by aten"):
        read(model, images(), grid=siftlens.PatchGrid(3, 5, 4, 4))


def test_compiled_models_are_refused():
    with pytest.raises(siftlens.CaptureError, match="before torch.compile"):
        read(torch.compile(model_of(ZOO["timm-vit"])), images())


def test_text_encoder_is_refused():
    model = model_of(ZOO["timm-vit"])
    sdpa = torch.nn.functional.scaled_dot_product_attention
    model.blocks[0].attn.forward = lambda x, **_: sdpa(*[x[:, None]] * 3, is_causal=True)[:, 0]
    with pytest.raises(siftlens.CaptureError, match="causal attention"):
        read(model, images())


def test_a_grid_that_the_tokens_do_not_fit():
    model = model_of(ZOO["timm-vit"])
    with pytest.raises(siftlens.CaptureError, match="attention over 16 keys, but the grid has 60 patches"):
        read(model, images(), grid=siftlens.PatchGrid(6, 10, 2, 2))
    with pytest.raises(siftlens.CaptureError, match="10 tokens stand before the patches"):
        read(model, images(), grid=siftlens.PatchGrid(3, 2, 4, 10))


def test_image_borders_that_reach_no_token():
    model = torch.nn.Sequential(nn.ZeroPad2d((0, -2, 0, 0)), model_of(ZOO["timm-vit"])).eval()
    with pytest.raises(siftlens.CaptureError, match="border pixels reach no token"):
        find_layout(model, images(12, 22))


def test_columns_first_is_refused():
    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = model_of(ZOO["timm-vit"])

        def forward(self, x):
            return self.vit(x.transpose(2, 3))

    with pytest.raises(siftlens.CaptureError, match="row by row; the corners of the 20x12 px image are tokens"):
        find_layout(Flipped().eval(), images(20, 12))


def test_nan_weights_are_named():
    model = model_of(ZOO["timm-vit"])
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.fill_(torch.nan)
    with pytest.raises(siftlens.CaptureError, match="values are NaN or infinite"):
        find_layout(model, images())
