"""Taking hold of tokens: every change against the same model run by hand."""

import pytest
import torch

from oracles.zoo import ZOO, model_of
from siftlens.attention import find_layout
from siftlens.auditing.tokens import TokenAccess
from siftlens.core import CaptureError

DROPS = ["timm-vit", "timm-vit-eager", "timm-deit3", "timm-deit-distilled", "timm-dinov2-registers", "timm-siglip"]
DROPS += ["torchvision", "open_clip"]


def access_of(name):
    model = model_of(ZOO[name])
    x = torch.randn(3, 3, *ZOO[name].size, generator=torch.Generator().manual_seed(1))
    layout = find_layout(model, x)
    return model, x, layout, TokenAccess(model, layout, x)


@pytest.mark.parametrize("name", DROPS)
def test_models_whose_tokens_can_be_dropped(name):
    model, x, layout, access = access_of(name)
    everything = torch.arange(layout.grid.patches).expand(3, -1)
    with torch.no_grad():
        before = model(x)
        with access.changed(access.keeping(everything)):
            same = model(x)
        with access.changed(access.keeping(everything[:, 1:])):
            fewer = model(x)
        after = model(x)
    assert torch.equal(before, same) and torch.equal(before, after)
    assert (before - fewer).abs().max() > 1e-3
    assert len(access.blocks) == 2


@pytest.mark.parametrize("name", ["timm-beit", "timm-dinov3", "timm-eva02"])
def test_models_whose_blocks_know_positions_are_refused(name):
    model = model_of(ZOO[name])
    x = torch.zeros(1, 3, *ZOO[name].size)
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
        for change, true in ((access.keeping(kept), short), (access.replacing(swapped, donors), mixed)):
            with access.changed(change):
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
