"""Models that hide patches from one another by a mask of their own: what is hidden stays hidden under a bias."""

import pytest
import torch
from torch import nn

import siftlens
from siftlens.core import CaptureError
from siftlens.prompting import Bias, Policy, TokenChoice, prompt

PATCHES, HEADS, WIDTH = 12, 2, 16


class Masked(nn.Module):
    def __init__(self, **masks):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.place = nn.Parameter(torch.randn(PATCHES, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.masks = nn.Linear(WIDTH, 3), masks

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        padding = self.masks.get("hidden")
        hidden = None if padding is None else padding.expand(len(x), -1)
        return self.head(self.encoder(tokens, mask=self.masks.get("mask"), src_key_padding_mask=hidden).mean(dim=1))


def build(**masks):
    torch.manual_seed(0)
    model = Masked(**masks).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "in_proj" in name:
                parameter.mul_(2)
    return model


LATER = torch.ones(PATCHES, PATCHES, dtype=torch.bool).triu(5)
MASKS = {
    "booleans": {"mask": LATER},
    "minus infinity": {"mask": torch.zeros(PATCHES, PATCHES).masked_fill(LATER, -torch.inf)},
    "large numbers": {"mask": torch.zeros(PATCHES, PATCHES).masked_fill(LATER, -1e30)},
    "padding": {"hidden": torch.arange(PATCHES) >= 9},
}


def images(batch=2):
    return torch.randn(batch, 3, 12, 16, generator=torch.Generator().manual_seed(batch))


def attention(model, x):
    """Of the first layer: what comes later sees what it moved."""
    with torch.no_grad(), siftlens.read_attention(model, torch.eye(PATCHES)) as reading:
        model(x)
    return reading.layers[0].values.double()


def moved(model):
    """Attention before and under a bias, which is what the bias should make of it."""
    x, maps = images(), torch.rand(2, PATCHES, generator=torch.Generator().manual_seed(1))
    before = attention(model, x)
    with prompt(model, Policy(bias=(Bias(4.0),)), maps):
        after = attention(model, x)
    true = before * torch.exp(4 * maps.double())[:, None, None]
    torch.testing.assert_close(after, true / true.sum(dim=-1, keepdim=True), atol=1e-5, rtol=1e-5)
    return before, after


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_a_bias_beside_the_models_own_mask(masks):
    before, after = moved(build(**masks))
    assert (before == 0).any() and (after[before == 0] == 0).all()


class Fused(nn.Module):
    """Calls fused attention itself, with a Boolean mask."""

    def __init__(self, mask):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, WIDTH, 4, 4), nn.Linear(WIDTH, 3)
        self.place, self.mask = nn.Parameter(torch.randn(PATCHES, WIDTH)), mask

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        heads = tokens.unflatten(2, (HEADS, -1)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(2 * heads, heads, heads, attn_mask=self.mask)
        return self.head((tokens + mixed.transpose(1, 2).flatten(2)).mean(dim=1))


@pytest.mark.parametrize("mask", [~LATER, ~LATER[None, None]], ids=["2-D", "4-D"])
def test_a_bias_beside_a_boolean_mask_of_fused_attention(mask):
    torch.manual_seed(0)
    before, after = moved(Fused(mask).eval())
    assert (before == 0).any() and (after[before == 0] == 0).all()


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_dropped_tokens_leave_the_mask_or_are_refused(masks):
    """The mask is of all tokens: where it cannot be cut to those that are left, the model is refused."""
    model, x = build(**masks), images()
    maps = torch.rand(2, PATCHES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), pytest.raises(CaptureError, match="cannot be dropped one by one"):
        with prompt(model, Policy(tokens=TokenChoice(0.5)), maps):
            model(x)


def test_booleans_mean_the_opposite_in_multi_head_attention():
    class Direct(Masked):
        def forward(self, x):
            tokens = (self.embed(x).flatten(2).transpose(1, 2) + self.place).transpose(0, 1)
            own = self.encoder.layers[0].self_attn
            out, _ = nn.functional.multi_head_attention_forward(
                tokens, tokens, tokens, WIDTH, HEADS, own.in_proj_weight, own.in_proj_bias, None, None, False, 0.0,
                own.out_proj.weight, own.out_proj.bias, training=False, need_weights=False, attn_mask=LATER,
            )  # fmt: skip
            return self.head(out.mean(dim=0))

    model = build()
    model.__class__ = Direct
    moved(model)
