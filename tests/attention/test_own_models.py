"""Attention as users write it: read where it is plain, refused where the values are weighed by something else."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import siftlens
from siftlens.attention.precision import full_precision
from siftlens.core import CaptureError, PatchGrid, TokenLayout

GRID = PatchGrid(3, 5, 7, 11)
WEIGHTS = torch.randn(15, 2, generator=torch.Generator().manual_seed(0))
FIELDS = ("values", "prefix_mass", "mean_squared_distance", "entropy")


def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def eager(q, k, v):
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


class Block(nn.Module):
    def __init__(self, attend=fused, heads=3, width=24):
        super().__init__()
        self.attend, self.heads = attend, heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def mixed(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x):
        return x + self.mixed(x)


class OfTheClass(Block):
    """Attention of the class token alone, as in CaiT."""

    def forward(self, x):
        return torch.cat([x[:, :1] + self.mixed(x), x[:, 1:]], dim=1)


class ViT(nn.Module):
    def __init__(self, *blocks, width=24):
        super().__init__()
        self.patches = nn.Conv2d(3, width, (7, 11), (7, 11))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 15, width))
        self.blocks = nn.ModuleList(blocks)

    def tokens(self, x):
        return [self.cls_token.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2) + self.place]

    def forward(self, x):
        x = torch.cat(self.tokens(x), dim=1)
        for block in self.blocks:
            x = block(x)
        return x


def made(kind, *blocks, **given):
    torch.manual_seed(0)
    return kind(*(block() for block in blocks), **given).eval()


def images(count=2):
    return torch.randn(count, 3, 21, 55, generator=torch.Generator().manual_seed(1))


def read(model, x=None, **given):
    with torch.no_grad(), siftlens.read_attention(model, WEIGHTS, **given) as reading:
        model(images() if x is None else x)
    return reading


def out_of_sight(q, k, v):
    score = (q[:, :, :1] @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).exp()
    return score / score.sum(dim=-1, keepdim=True) @ v


@pytest.mark.parametrize("order", ["010", "0101"])
def test_a_hidden_attention_of_the_class_token_is_named(order):
    model = made(ViT, *({"0": Block, "1": lambda: OfTheClass(out_of_sight)}[kind] for kind in order))
    with pytest.raises(CaptureError, match=rf"blocks\.{order.index('1')}: tokens are mixed by something else"):
        read(model)


def test_an_attention_of_the_class_token_that_is_seen_is_a_pooling_head():
    def by_query(q, k, v):
        return fused(q[:, :, :1], k, v)

    found = read(made(ViT, Block, Block, lambda: OfTheClass(by_query), lambda: OfTheClass(by_query)))
    assert (len(found.layers), len(found.pool)) == (2, 2)


class Core(nn.Module):
    def forward(self, q, k, v):
        return fused(q, k, v)


class Differential(Block):
    """Two attentions over the same values, the second taken off the first."""

    def __init__(self, spelled):
        super().__init__(self.difference)
        self.spelled, self.first, self.second = spelled, Core(), Core()

    def difference(self, q, k, v):
        if self.spelled == "modules of their own":
            return self.first(q, k, v) - 0.8 * self.second(k, q, v)
        return fused(q, k, v) - fused(k, q, 0.8 * v)


@pytest.mark.parametrize("spelled", ["modules of their own", "a factor on the values"])
def test_differential_attention_is_refused_however_it_is_spelled(spelled):
    with pytest.raises(CaptureError, match=r"blocks\.0.*: two attentions over the same values"):
        read(made(ViT, *[lambda: Differential(spelled)] * 2))


@pytest.mark.parametrize("size", [(60, 60), (30, 60), (45, 45)])
def test_a_model_that_pads_its_images_has_no_even_grid(size):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, dynamic_img_size=True, dynamic_img_pad=True, depth=1
    ).eval()
    rows, cols = (-(-side // 16) for side in size)
    with (
        torch.no_grad(),
        pytest.raises(CaptureError, match="belongs to another token .* pads, crops or resizes"),
        siftlens.read_attention(model, torch.ones(rows * cols, 1)),
    ):
        model(torch.randn(1, 3, *size))


class OnTopOfTheClass(ViT):
    """Registers are added to the class token, whose parameter so moves them, too."""

    def __init__(self, *blocks, last):
        super().__init__(*blocks)
        self.register_tokens = nn.Parameter(torch.randn(1, 2, 24))
        if last == "cls_token":
            self.cls_token = self._parameters.pop("cls_token")

    def tokens(self, x):
        cls, patches = super().tokens(x)
        return [cls, cls + self.register_tokens, patches]


@pytest.mark.parametrize("last", ["cls_token", "register_tokens"])
def test_a_prefix_token_is_what_moves_it_and_few_others(last):
    layout = read(made(OnTopOfTheClass, Block, Block, last=last)).layout
    assert (layout.class_tokens, layout.registers) == (1, 2)


class InPlace(ViT):
    """Writes to the images that it is given."""

    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


@pytest.mark.parametrize("grid", [None, GRID])
def test_trials_leave_the_callers_images_alone(grid):
    model = made(InPlace, Block, Block)
    with torch.no_grad():
        expected = model(images())
        with siftlens.read_attention(model, WEIGHTS, grid=grid):
            assert torch.equal(model(images()), expected)


class Counts(ViT):
    """Counts the images it has seen, and draws a number that torch knows nothing of."""

    def __init__(self, *blocks):
        super().__init__(*blocks)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += len(x)
        return super().forward(x + np.random.random())


def test_trials_leave_buffers_and_random_numbers_alone():
    first, second = made(Counts, Block), made(Counts, Block)
    outputs = []
    for model, context in ((first, siftlens.read_attention(first, WEIGHTS)), (second, torch.no_grad())):
        np.random.seed(0)
        with torch.no_grad(), context:
            outputs.append(model(images()))
    assert torch.equal(*outputs) and first.seen == second.seen == 2


def test_a_copy_that_is_made_inside_is_a_model_of_its_own():
    model = made(ViT, Block, Block)
    with torch.no_grad(), siftlens.read_attention(model, WEIGHTS) as reading:
        copied = copy.deepcopy(model)
        copied(images())
        output = model(images())
    assert [layer.name for layer in reading.layers] == ["blocks.0", "blocks.1"]
    assert torch.equal(copied(images()), output)
    assert torch.equal(pickle.loads(pickle.dumps(copied))(images()), output)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None  # the copy does not hold it


@pytest.mark.parametrize("attend", [fused, eager])
@pytest.mark.parametrize("entropy", [False, True])
def test_what_is_read_is_as_exact_as_float32_whatever_products_the_model_is_allowed(attend, entropy):
    """On processors without products of bfloat16 this says nothing."""
    model = made(ViT, lambda: Block(attend), lambda: Block(attend))
    exact = read(model, entropy=entropy)
    torch.set_float32_matmul_precision("medium")
    try:
        maps = siftlens.attention_maps(model, images())
        found = read(model, entropy=entropy)
    finally:
        torch.set_float32_matmul_precision("highest")
    for layer, same, attention in zip(found.layers, exact.layers, maps.values(), strict=True):
        torch.testing.assert_close(layer.values, same.values, atol=0.03, rtol=0)  # the model's own rounding
        by_hand = attention[..., 1:].double() @ WEIGHTS.double()
        torch.testing.assert_close(layer.values.double(), by_hand, atol=1e-5, rtol=1e-5)


def test_threads_that_read_at_once_leave_the_allowed_precision_as_it_was():
    torch.set_float32_matmul_precision("medium")
    switches = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
    allowed = [switch.fp32_precision for switch in switches]
    try:
        first, second = full_precision(), full_precision()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert [switch.fp32_precision for switch in switches] == ["ieee", "ieee"]  # the second still reads
        second.__exit__(None, None, None)
        assert [switch.fp32_precision for switch in switches] == allowed
    finally:
        torch.set_float32_matmul_precision("highest")


class WithBuffer(ViT):
    def __init__(self, *blocks, buffer):
        super().__init__(*blocks)
        self.register_buffer("extra", buffer)


def test_a_buffer_that_is_not_equal_to_itself_does_not_make_the_model_another():
    model = made(WithBuffer, Block, buffer=torch.full((2,), torch.nan))
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    read(model)
    tried = len(passes)
    read(model)
    assert len(passes) == tried + 1  # what trials found is kept


def test_a_buffer_that_cannot_be_compared_does_no_harm():
    assert len(read(made(WithBuffer, Block, buffer=torch.eye(3).to_sparse())).layers) == 1


class OfTwo(ViT):
    def forward(self, x):
        return super().forward(x.view(2, 3, 21, 55))


def test_an_error_on_a_trial_says_that_it_was_one():
    with pytest.raises(RuntimeError, match="is invalid for input of size") as raised:
        read(made(OfTwo, Block))
    assert raised.value.__notes__ == [
        "siftlens was trying OfTwo on 5 images of its own, in place of yours, and with other arguments of your batch's "
        "length repeated; read_attention does not with grid=TokenLayout(PatchGrid(...), class_tokens=..., "
        "registers=...)"
    ]


class Masked(ViT):
    def forward(self, x, masks):
        return super().forward(x * masks[0])


def test_tensors_in_lists_go_along_with_the_images():
    model = made(Masked, Block)
    with torch.no_grad(), siftlens.read_attention(model, WEIGHTS) as reading:
        model(images(), masks=[torch.ones(2, 1, 1, 1)])
    assert len(reading.layers) == 1


def sparse(q, k, v):
    attention = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    heads = np.ndindex(*v.shape[:2])
    return torch.stack([torch.sparse.mm(attention[head].to_sparse(), v[head]) for head in heads]).view_as(v)


def test_sparse_attention_is_refused_by_name():
    with pytest.raises(CaptureError, match="is changed by aten._to_sparse"):
        read(made(ViT, lambda: Block(sparse)))


def folded(q, k, v):
    """Heads in the axis of images."""
    return fused(*(part.flatten(0, 1) for part in (q, k, v))).unflatten(0, (len(q), -1))


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_fused_attention_on_three_axes(heads, batch):
    """A kernel gets them as one image of many heads."""
    true, found = (
        read(made(ViT, *[lambda attend=attend: Block(attend, heads)] * 2), images(batch), entropy=True)
        for attend in (eager, folded)
    )
    assert len(found.layers) == 2 and found.layers[0].values.shape[:2] == (batch, heads)
    for layer, same in zip(found.layers, true.layers, strict=True):
        for name in FIELDS:
            torch.testing.assert_close(getattr(layer, name), getattr(same, name), atol=1e-5, rtol=1e-5, equal_nan=True)


def one_by_one(q, k, v):
    return torch.cat([fused(*(part[i : i + 1] for part in (q, k, v))) for i in range(len(q))])


@pytest.mark.parametrize("grid", [None, TokenLayout(GRID, 1)])
@pytest.mark.parametrize("heads", [2, 3, 4, 6])
def test_a_loop_over_images_is_not_taken_for_heads(heads, grid):
    with pytest.raises(CaptureError, match="attention over windows"):
        read(made(ViT, *[lambda: Block(one_by_one, heads)] * 2), grid=grid)


def probabilities(q, k):
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


def less_its_square(q, k, v):
    a = probabilities(q, k)
    return a @ v - (a * a) @ v


def its_square_first(q, k, v):
    a = probabilities(q, k)
    squared = (a * a) @ v
    return a @ v - squared


def squared_in_place(q, k, v):
    a = probabilities(q, k)
    mixed = a @ v
    return mixed - a.mul_(a) @ v


def with_other_heads(q, k, v):
    a = probabilities(q, k)
    return a @ v + (0.5 * a).roll(1, 1) @ v


@pytest.mark.parametrize("attend", [less_its_square, its_square_first, squared_in_place, with_other_heads])
def test_probabilities_that_meet_the_values_changed_as_well_are_refused(attend):
    with pytest.raises(CaptureError, match=r"blocks\.0, blocks\.1: the softmax over 16 keys is changed by aten\.mul"):
        read(made(ViT, *[lambda: Block(attend)] * 2))


def looked_at(q, k, v):
    a = probabilities(q, k)
    mixed = a @ v
    a.mean(dim=1), (a * a.log()).sum(), a.max(), a.clone().float()  # as for a log
    return mixed


def on_two_values(q, k, v):
    a = probabilities(q, k)
    return a @ v + a @ v.flip(-1)


def rolled_out(q, k, v):
    a = probabilities(q, k)
    of_two_layers = (a + torch.eye(16)) / 2 @ ((a + torch.eye(16)) / 2)
    return a @ v + 0 * of_two_layers.sum()


@pytest.mark.parametrize("attend", [looked_at, on_two_values, rolled_out])
def test_probabilities_may_be_looked_at_and_used_again(attend):
    true = read(made(ViT, *[lambda: Block(eager)] * 1))
    found = read(made(ViT, *[lambda: Block(attend)] * 1))
    torch.testing.assert_close(found.layers[0].values, true.layers[0].values)


class Looped(ViT):
    """One block, run three times."""

    def forward(self, x):
        x = torch.cat(self.tokens(x), dim=1)
        for _ in range(3):
            x = x + 0.3 * self.blocks[0].mixed(x)
        return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passes_of_one_block_are_layers(dtype):
    model = made(Looped, Block).to(dtype)
    assert len(read(model, images().to(dtype)).layers) == 3
