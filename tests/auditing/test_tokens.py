"""Taking hold of tokens: every change against the same model run by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oracles.zoo import ZOO, model_of
from siftlens.attention import find_layout
from siftlens.auditing.tokens import TokenAccess
from siftlens.core import CaptureError

DROPS = ["timm-vit", "timm-vit-eager", "timm-deit3", "timm-deit-distilled", "timm-dinov2-registers", "timm-siglip"]
DROPS += ["torchvision", "open_clip"]
INSIDE = ["timm-dinov3", "timm-eva02", "timm-beit"]  # positions come in inside the blocks


def access_of(name):
    model = model_of(ZOO[name])
    x = torch.randn(3, 3, *ZOO[name].size, generator=torch.Generator().manual_seed(1))
    layout = find_layout(model, x)
    return model, x, layout, TokenAccess(model, layout, x)


@pytest.mark.parametrize("name", DROPS + INSIDE)
def test_models_whose_tokens_can_be_dropped(name):
    model, x, layout, access = access_of(name)
    everything = torch.arange(layout.grid.patches).expand(3, -1)
    with torch.no_grad():
        before = model(x)
        with access.keeping(everything):
            same = model(x)
        with access.keeping(everything[:, 1:]):
            fewer = model(x)
        after = model(x)
    assert torch.equal(before, same) and torch.equal(before, after)
    assert (before - fewer).abs().max() > 1e-3
    assert len(access.blocks) == 2


@pytest.mark.parametrize("name", ["timm-vit", *INSIDE])
def test_what_is_left_is_as_if_nobody_attended_to_what_is_gone(name, monkeypatch):
    """Against the whole sequence with a mask on its keys, in which every token keeps its place by itself."""
    model, x, layout, access = access_of(name)
    kept = torch.tensor([[0, 3, 4, 11], [14, 2, 1, 7], [5, 6, 8, 9]])
    with torch.no_grad(), access.read(1) as read, access.keeping(kept):
        model(x)
    mask = torch.full((3, 1, 1, layout.tokens), -torch.inf)
    mask[:, :, :, : layout.prefix] = 0
    mask.scatter_(3, kept[:, None, None] + layout.prefix, 0)
    fused = F.scaled_dot_product_attention

    def masked(query, key, value, attn_mask=None, **settings):
        return fused(query, key, value, attn_mask=mask if attn_mask is None else attn_mask + mask, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", masked)
    with torch.no_grad(), access.read(1) as whole:
        model(x)
    expected = whole[0].gather(1, kept[:, :, None].expand(-1, -1, whole[0].shape[2]))
    torch.testing.assert_close(read[0], expected, atol=1e-5, rtol=1e-5)


class Scores(nn.Module):
    """Biases by the distance of two tokens, added to scores that nobody hands to a fused kernel."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn, self.head = nn.Conv2d(3, 8, 4, 4), ScoresAttention(), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attn(self.embed(x).flatten(2).transpose(1, 2)).mean(dim=1))


class ScoresAttention(nn.Module):
    def forward(self, tokens):
        place = torch.arange(tokens.shape[1])
        heads = tokens.unflatten(2, (2, 4)).transpose(1, 2)
        scores = heads @ heads.transpose(2, 3) - (place[:, None] - place).abs()
        return tokens + (scores.softmax(dim=-1) @ heads).transpose(1, 2).flatten(2)


class Tokens(Scores):
    def forward(self, x):
        return self.attn(self.embed(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", ["timm-deit-distilled", "timm-dinov2-registers", "timm-dinov3", "torchvision"])
@pytest.mark.parametrize("halves", [torch.bfloat16, torch.float16, "autocast"])
def test_rounding_to_halves_is_not_taken_for_positions(name, halves):
    """The trial is in float32 and leaves what comes after it as it was, autocast's memory of weights included."""
    model, x, layout, single = access_of(name)
    autocast = halves == "autocast"
    if not autocast:
        model, x = model.to(halves), x.to(halves)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = model(x)
        access = TokenAccess(model, layout, x)
        assert torch.equal(model(x), before)
    assert access.blocks == single.blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Scores, Tokens])
def test_models_that_cannot_lose_a_token_are_refused(kind, dtype):
    """Positions where nobody can follow them; a row for every token instead of logits."""
    model, x = kind().eval().to(dtype), torch.zeros(1, 3, 12, 20, dtype=dtype)
    layout = find_layout(model, x)
    with pytest.raises(CaptureError, match="its tokens cannot be dropped"):
        TokenAccess(model, layout, x)


def by_hand(model, tokens):
    for block in model.blocks:
        tokens = block(tokens)
    return model.forward_head(model.norm(tokens))


def test_dropped_and_replaced_tokens_against_the_model_run_by_hand():
    model, x, _, access = access_of("timm-vit")
    kept = torch.tensor([[0, 3, 4, 11], [14, 2, 1, 7], [5, 6, 8, 9]])
    swapped = torch.rand(3, 15, generator=torch.Generator().manual_seed(2)) < 0.4
    with torch.no_grad():
        tokens, donors = access.embed(x), access.embed(x.flip(0))
        assert tokens.shape == (3, 16, 33)
        assert torch.allclose(by_hand(model, tokens), model(x), atol=1e-5)
        short = torch.stack([torch.cat([row[:1], row[1:][index]]) for row, index in zip(tokens, kept, strict=True)])
        mixed = tokens.clone()
        mixed[:, 1:][swapped] = donors[:, 1:][swapped]
        for change, true in ((access.keeping(kept), short), (access.changed(access.replacing(swapped, donors)), mixed)):
            with change:
                found = model(x)
            assert torch.allclose(found, by_hand(model, true), atol=1e-5)


def test_tokens_between_blocks():
    model, x, layout, access = access_of("timm-dinov2-registers")
    with torch.no_grad(), access.read(0) as read:
        model(x)
        model(x[:2])
    with torch.no_grad():
        true = model.blocks[0](access.embed(x))[:, layout.prefix :]
    assert [tokens.shape[0] for tokens in read] == [3, 2]
    assert torch.allclose(read[0], true, atol=1e-5)


def test_the_model_is_as_before_after_an_error():
    model, x, _, access = access_of("timm-vit")

    def fail(tokens):
        raise RuntimeError("no")

    with torch.no_grad():
        before = model(x)
        with pytest.raises(RuntimeError, match="no"), access.changed(fail):
            model(x)
        assert torch.equal(before, model(x))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
