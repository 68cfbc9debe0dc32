"""Blocks that mix or shuffle tokens where no softmax is seen are found out; what only looks so is read."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import siftlens
from oracles.bare import GRID, Model, build, fused, images
from siftlens.attention import find_layout
from siftlens.core import PatchGrid, TokenLayout

TOKENS = 1 + GRID[0] * GRID[1]


class Block(nn.Module):
    """A block of a class of its own, so that no sibling vouches for it."""

    def __init__(self, mix):
        super().__init__()
        self.mix = mix

    def forward(self, x):
        return self.mix(x)


def by_relu(x):
    weights = (x @ x.transpose(1, 2)).relu()
    return weights / weights.sum(dim=-1, keepdim=True) @ x


def by_exponents(x):
    weights = (x @ x.transpose(1, 2) / 8).exp()
    return weights / weights.sum(dim=-1, keepdim=True) @ x


def by_its_mean(x):
    return x.mean(dim=1, keepdim=True).expand_as(x)


def of_earlier_tokens(x):
    return x + x.cumsum(dim=1) / x.shape[1]


def of_later_tokens(x):
    return of_earlier_tokens(x.flip(1)).flip(1)


def in_another_thread(x):
    out = []
    thread = threading.Thread(target=lambda: out.append(F.scaled_dot_product_attention(x, x, x)))
    thread.start()
    thread.join()
    return out[0]


def with_block(mix, place, blocks=3):
    model = build(*[fused] * blocks)
    model.blocks[place] = Block(mix)
    return model.eval()


MIXING = [by_relu, by_exponents, by_its_mean, of_earlier_tokens, of_later_tokens, in_another_thread]


@pytest.mark.parametrize("mix", MIXING)
@pytest.mark.parametrize("place", [1, 2], ids=["middle", "last"])
def test_a_block_that_mixes_out_of_sight_is_named(mix, place):
    with pytest.raises(siftlens.CaptureError, match=rf"blocks\.{place}: tokens are mixed by something else"):
        find_layout(with_block(mix, place), images())


@pytest.mark.parametrize("mix", [by_relu, by_exponents, of_earlier_tokens])
def test_blocks_that_mix_before_the_first_attention_are_found_out(mix):
    """One pixel moves the tokens of others by next to nothing where there are many: it takes half an image."""
    model, grid = build(*[fused] * 3, grid=(14, 14)), (14, 14)
    model.blocks[0] = model.blocks[1] = Block(mix)
    with pytest.raises(siftlens.CaptureError, match=r"what runs before blocks\.2: tokens are mixed"):
        find_layout(model.eval(), images(grid=grid))


def test_blocks_that_hold_tokens_in_a_grid_are_looked_at_too():
    class InGrid(Model):
        """Without a prefix, (batch, row, column, feature) between blocks."""

        def forward(self, x):
            tokens = self.embed(x).permute(0, 2, 3, 1) + self.place.unflatten(0, GRID)
            for block in self.blocks:
                tokens = block(tokens)
            return tokens.mean(dim=(1, 2))

    class Flat(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return x + self.block(x.flatten(1, 2)).unflatten(1, GRID)

    model = build(fused, fused)
    model.__class__ = InGrid
    model.blocks = nn.ModuleList(
        [Flat(model.blocks[0]), Flat(model.blocks[1]), Block(lambda x: x + x.mean((1, 2))[:, None, None])]
    )
    with pytest.raises(siftlens.CaptureError, match=r"blocks\.2: tokens are mixed"):
        find_layout(model.eval(), images())
    del model.blocks[2]
    assert find_layout(model, images()) == TokenLayout(PatchGrid(*GRID, 4, 4))


def test_mixing_outside_of_all_modules_is_named_by_the_attention_after_it():
    class Mixes(Model):
        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
            tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
            tokens = tokens + by_relu(tokens + self.blocks[0](tokens))
            return self.blocks[1](tokens)

    model = build(fused, fused)
    model.__class__ = Mixes
    with pytest.raises(siftlens.CaptureError, match=r"what runs before blocks\.1: tokens are mixed"):
        find_layout(model, images())


SHUFFLES = [torch.arange(14, -1, -1), torch.arange(15).roll(1), torch.randperm(15, generator=torch.Generator())]


@pytest.mark.parametrize("order", SHUFFLES, ids=["flipped", "rolled", "by chance"])
def test_patches_shuffled_between_blocks_are_named(order):
    class Shuffles(Model):
        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
            tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
            tokens = tokens + self.blocks[0](tokens)
            return self.blocks[1](torch.cat([tokens[:, :1], tokens[:, 1:][:, order]], dim=1))

    model = build(fused, fused)
    model.__class__ = Shuffles
    with pytest.raises(siftlens.CaptureError, match=r"blocks\.1: the token of patch \d+ of the 3x5 grid holds another"):
        find_layout(model, images())


@pytest.mark.parametrize("order", SHUFFLES, ids=["flipped", "rolled", "by chance"])
def test_patches_shuffled_for_one_attention_are_named(order):
    order = torch.cat([torch.zeros(1, dtype=torch.int64), order + 1])

    def shuffled(query, key, value):
        return fused(*(t[:, :, order] for t in (query, key, value)))[:, :, order.argsort()]

    with pytest.raises(siftlens.CaptureError, match=r"blocks\.1: the token of patch \d+ of the 3x5 grid holds another"):
        find_layout(build(fused, shuffled, fused), images())


def test_queries_in_another_order_than_their_patches_are_named_in_the_last_block():
    order = torch.arange(TOKENS).roll(1)

    def asks_for_others(query, key, value):
        return fused(query[:, :, order], key, value)[:, :, order.argsort()]

    for place in (0, 1):
        cores = [fused, fused]
        cores[place] = asks_for_others
        with pytest.raises(siftlens.CaptureError, match=rf"blocks\.{place}: the token of patch \d+ .* holds another"):
            find_layout(build(*cores), images())


def test_attention_over_as_many_channels_as_tokens_is_named():
    def over_channels(x):
        wide = F.pad(x, (0, 3 * TOKENS - x.shape[-1])).unflatten(-1, (3, TOKENS)).permute(0, 2, 3, 1)
        out = F.scaled_dot_product_attention(wide, wide, wide)
        return x + out.permute(0, 3, 1, 2).flatten(2)[..., : x.shape[-1]]

    model = with_block(over_channels, 1)
    with pytest.raises(siftlens.CaptureError, match=r"blocks\.1: .*(holds another patch|are mixed)"):
        find_layout(model, images())


def test_where_the_caller_vouches_for_the_layout_nothing_is_tried():
    layout = TokenLayout(PatchGrid(*GRID, 4, 4), 1, 0)
    model = with_block(by_relu, 1)
    with torch.no_grad(), siftlens.read_attention(model, torch.ones(TOKENS - 1, 1), grid=layout) as reading:
        model(images())
    assert [layer.name for layer in reading.layers] == ["blocks.0", "blocks.2"]


class OverNeighbours(nn.Module):
    """A depthwise convolution over the patches, added to them."""

    def __init__(self, grid, size):
        super().__init__()
        self.grid = grid
        self.convolution = nn.Conv2d(33, 33, size, padding=size // 2, groups=33)

    def forward(self, x):
        patches = self.convolution(x[:, 1:].transpose(1, 2).unflatten(-1, self.grid)).flatten(2).transpose(1, 2)
        return torch.cat([x[:, :1], x[:, 1:] + patches], dim=1)


@pytest.mark.parametrize(
    ("grid", "size", "blocks"), [((28, 28), 3, 1), ((14, 14), 7, 1), ((9, 5), 3, 5), ((7, 7), 3, 3), ((1, 8), 3, 2)]
)
def test_a_convolution_over_neighbours_is_no_attention(grid, size, blocks):
    """As in CPVT or CeiT: a token still stands for its patch, though its neighbours may outvote it here and there."""
    torch.manual_seed(1)
    model = build(*[fused] * (blocks + 1), grid=grid)
    for place in range(blocks, 0, -1):
        model.blocks.insert(place, OverNeighbours(grid, size))
    assert find_layout(model.eval(), images(grid=grid)) == TokenLayout(PatchGrid(*grid, 4, 4), 1, 0)


def test_a_head_that_mixes_tokens_is_no_block():
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.head = build(fused, fused), Block(lambda x: x + x.mean(dim=1, keepdim=True))

        def forward(self, x):
            return self.head(self.vit(x))

    assert find_layout(Headed().eval(), images()) == TokenLayout(PatchGrid(*GRID, 4, 4), 1, 0)
    assert find_layout(nn.Sequential(*Headed().eval().children()), images()).class_tokens == 1


def test_a_stem_that_mixes_a_little_is_no_attention():
    """As the group norms of a ResNet in front: every token knows a little of all pixels before the first attention."""

    class Stem(nn.Conv2d):
        def forward(self, x):
            features = super().forward(x)
            return features + 0.05 * features.mean(dim=(2, 3), keepdim=True)

    model = build(*[fused] * 3)
    model.embed.__class__ = Stem
    assert find_layout(model, images()) == TokenLayout(PatchGrid(*GRID, 4, 4), 1, 0)


class Rounds(Model):
    """Between two blocks its tokens are rounded, in each image of a batch otherwise, as some kernels do."""

    content = 1.0

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.place.mean() + self.content * self.blocks[0](tokens)
        noise = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(len(x))).to(tokens)
        return self.blocks[1](tokens * (1 + torch.finfo(x.dtype).eps * noise))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("content", [1.0, 0.0], ids=["patches", "nothing"])
def test_rounding_is_no_mixing_and_no_shuffling(dtype, content):
    model, x = build(fused, fused).to(dtype), images().to(dtype)
    model.__class__, model.content = Rounds, content
    assert find_layout(model, x) == TokenLayout(PatchGrid(*GRID, 4, 4), 1, 0)


def test_nothing_of_the_trial_stays_on_the_model():
    model, x = build(*[fused] * 2), images()
    with torch.no_grad():
        before = model(x)
        find_layout(model, x)
        assert torch.equal(model(x), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
