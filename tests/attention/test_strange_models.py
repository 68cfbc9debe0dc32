"""Models built to be read wrongly: each is read exactly, or refused by name."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import siftlens
from oracles.attention import read_slowly
from oracles.bare import GRID, HEADS, PATCH, WIDTH, Model, build, fused, images
from siftlens.attention import find_layout


def read(model, x, *, grid=None, weighting="attention"):
    channels = torch.randn(GRID[0] * GRID[1], 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), siftlens.read_attention(model, channels, grid=grid, weighting=weighting) as reading:
        model(x)
    return reading, channels


def assert_exact(model, x, *, weighting="attention", mask=None):
    reading, channels = read(model, x, weighting=weighting)
    assert len(reading.layers) == len(model.blocks)
    for layer, block in zip(reading.layers, model.blocks, strict=True):
        query, key, value = (t.double() for t in block.asked[-1])
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        attention = (scores if mask is None else scores + mask).softmax(-1)
        norm = value.norm(dim=-1) if weighting == "value_norm" else None
        true = read_slowly(attention, channels, reading.layout, norm)
        torch.testing.assert_close(layer.values.double(), true.values, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.prefix_mass.double(), true.prefix_mass, atol=1e-5, rtol=1e-5)


def probabilities(query, key):
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1)


def eager(query, key, value):
    return probabilities(query, key) @ value


def folded(query, key, value):
    """Batch and heads in one axis, the batch first: readable."""
    return eager(*(t.flatten(0, 1) for t in (query, key, value))).unflatten(0, query.shape[:2])


def folded_heads_first(query, key, value):
    """The same axis the other way round: nothing in its shape shows it."""
    folded = eager(*(t.transpose(0, 1).flatten(0, 1) for t in (query, key, value)))
    return folded.unflatten(0, (HEADS, -1)).transpose(0, 1)


def heads_first(query, key, value):
    return fused(*(t.transpose(0, 1) for t in (query, key, value))).transpose(0, 1)


def permuted(query, key, value):
    """Probabilities in one order, copied into another before they meet the values."""
    turned = probabilities(query, key).transpose(0, 1).reshape(-1, query.shape[2], key.shape[2])
    return torch.bmm(turned, value.transpose(0, 1).flatten(0, 1)).unflatten(0, (HEADS, -1)).transpose(0, 1)


def other_axis(query, key, value):
    """Softmax over the queries' axis of the transposed scores: the same attention, not followed."""
    return (key * query.shape[-1] ** -0.5 @ query.transpose(-1, -2)).softmax(-2).transpose(-1, -2) @ value


def written_over(query, key, value):
    attention = probabilities(query, key)
    torch.mul(torch.full_like(attention, 0.5), attention, out=attention)
    return attention @ value


def written_in_a_list(query, key, value):
    attention = probabilities(query, key)
    torch._foreach_mul_([attention], 0.5)
    return attention @ value


def dropped(query, key, value):
    """Dropout that forgets evaluation mode."""
    return F.dropout(probabilities(query, key), 0.5) @ value


def in_chunks(query, key, value):
    return torch.cat([fused(part, key, value) for part in query.split(7, dim=2)], dim=2)


def padded(query, key, value):
    """Key padding as minus infinity, before an eager softmax."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    return (scores + PADDING).softmax(-1) @ value


def flexible(query, key, value):
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(query, key, value)


PADDING = torch.zeros(16).masked_fill(torch.arange(16) >= 11, -torch.inf)


@pytest.mark.parametrize("weighting", ["attention", "value_norm"])
@pytest.mark.parametrize("core", [fused, eager, folded])
def test_plain_attention_is_read_exactly(core, weighting):
    assert_exact(build(core, core), images(), weighting=weighting)


def test_heads_images_and_tokens_of_one_number():
    layout = find_layout(build(eager, fused, grid=(1, HEADS - 1)), images(HEADS, (1, HEADS - 1)))
    assert (layout.tokens, layout.grid.cols, layout.class_tokens) == (HEADS, HEADS - 1, 1)


def test_padded_keys_before_an_eager_softmax():
    assert_exact(build(padded, padded), images(), mask=PADDING.double())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("core", "message"),
    [
        (permuted, r"changed by aten.clone"),
        (other_axis, r"changed by running over axis -2"),
        (written_over, r"changed by aten.mul.out"),
        (written_in_a_list, r"changed by aten._foreach_mul_"),
        (in_chunks, r"its 16 queries come in several calls|first attention is of 7 queries"),
        (flexible, r"flex_attention changes its scores"),
    ],
)
def test_attention_that_is_not_what_it_seems(core, message, place):
    cores = [eager, eager]
    cores[place] = core
    with pytest.raises(siftlens.CaptureError, match=rf"blocks.{place}: .*{message}"):
        read(build(*cores), images())


def differential(query, key, value):
    return fused(query, key, value) - 0.3 * fused(key, query, value)


def differential_built(query, key, value):
    """Each product of a softmax and the values makes a copy of them."""
    return eager(query, key, value) - 0.3 * eager(key, query, value)


def differential_in_turns(query, key, value):
    """Both halves of the values by one softmax, then both by the other, as kernels want it that take narrow values."""
    near, far = value[..., :5], value[..., 5:]
    first, second = (
        torch.cat([fused(*pair, near), fused(*pair, far)], dim=-1) for pair in [(query, key), (key, query)]
    )
    return first - 0.3 * second


@pytest.mark.parametrize("core", [differential, differential_built, differential_in_turns])
def test_two_attentions_over_the_same_values(core):
    with pytest.raises(siftlens.CaptureError, match="blocks.1: two attentions over the same values, as in diff"):
        read(build(fused, core), images())


def heads_in_queries(query, key, value):
    """Multi-query attention, with the heads of a token side by side in the queries."""
    key, value = key[:, 0], value[:, 0]
    return (
        ((query * query.shape[-1] ** -0.5).flatten(1, 2) @ key.mT).softmax(-1).matmul(value).unflatten(1, (HEADS, -1))
    )


def test_heads_folded_into_queries_are_no_pooling_head():
    with pytest.raises(
        siftlens.CaptureError, match="blocks.1: its 48 queries come in several calls, or of several heads"
    ):
        read(build(eager, heads_in_queries), images())


def test_a_model_put_into_training_meanwhile():
    model = build(fused)
    with pytest.raises(siftlens.CaptureError, match="Model is in training mode"):
        with siftlens.read_attention(model, torch.ones(15, 1)):
            model.train()(images())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_dropout_that_forgets_evaluation(mode):
    with mode(), pytest.raises(siftlens.CaptureError, match="blocks.1: the softmax over 16 keys is changed by"):
        read(build(eager, dropped), images())


def with_a_sink(query, key, value):
    """A further key that nobody reads from."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    return torch.cat([scores, scores[..., :1] * 0], dim=-1).softmax(-1)[..., :-1] @ value


def over_heads(query, key, value):
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(1) @ value


@pytest.mark.parametrize("core", [with_a_sink, over_heads])
def test_a_block_of_another_class_is_missed_too(core):
    model = build(fused, core, fused)
    model.blocks[1].__class__ = type("Other", (type(model.blocks[1]),), {})
    with pytest.raises(siftlens.CaptureError, match="blocks.1: the softmax over .* keys is changed by"):
        read(model, images())


@pytest.mark.parametrize("grid", [None, siftlens.PatchGrid(*GRID, PATCH, PATCH)])
@pytest.mark.parametrize("core", [folded_heads_first, heads_first])
def test_heads_before_images_in_a_later_layer(core, grid):
    """As many heads as images: no shape shows that the axes are swapped."""
    with pytest.raises(siftlens.CaptureError, match="blocks.1: (two equal images get different|.*3 windows for 2 ima)"):
        read(build(eager, core), images(HEADS), grid=grid)


def test_attention_along_the_batch():
    """A forgotten batch_first, with as many images as tokens."""

    class AlongTheBatch(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(WIDTH, HEADS)

        def forward(self, x):
            return self.inner(x, x, x, need_weights=False)[0]

    model = build(fused, fused)
    model.blocks[1] = AlongTheBatch().eval()
    with pytest.raises(siftlens.CaptureError, match=r"blocks.1.inner: .* \(16 windows for 2 images\)"):
        read(model, images(16))


def test_registers_before_the_class_token():
    model = build(fused, registers=2, arrange=lambda cls, reg, patches: torch.cat([reg, cls, patches], dim=1))
    with pytest.raises(siftlens.CaptureError, match="tokens in front are register, register, class"):
        read(model, images())


def test_class_token_at_the_end():
    model = build(fused, arrange=lambda cls, reg, patches: torch.cat([patches, cls], dim=1))
    with pytest.raises(siftlens.CaptureError, match="corners of the 12x20 px image are tokens 0, 4, 10, 14 of 16"):
        read(model, images())


def test_rows_read_in_turns_from_left_and_right():
    """In a grid of seven rows, all four corners lie where they should."""
    order = torch.arange(35).view(7, 5)
    order[1::2] = order[1::2].flip(1)
    model = build(
        fused, grid=(7, 5), arrange=lambda cls, reg, patches: torch.cat([cls, patches[:, order.flatten()]], dim=1)
    )
    with pytest.raises(siftlens.CaptureError, match="token 7 does not hold patch 6 of the 7x5 grid"):
        find_layout(model, images(grid=(7, 5)))


def test_two_patches_in_each_other_s_place():
    order = torch.arange(15)
    order[[7, 8]] = order[[8, 7]]
    model = build(fused, arrange=lambda cls, reg, patches: torch.cat([cls, patches[:, order]], dim=1))
    with pytest.raises(siftlens.CaptureError, match="token 8 does not hold patch 7 of the 3x5 grid"):
        find_layout(model, images())


def test_unused_parameters_of_a_telling_name_do_not_count():
    model = build(fused)
    model.register_parameter("dist_token", nn.Parameter(torch.randn(1, 1, WIDTH)))
    layout = find_layout(model, images())
    assert (layout.class_tokens, layout.registers) == (1, 0)


def test_a_model_that_returns_nothing_is_still_checked():
    class Silent(Model):
        def forward(self, x):
            super().forward(x)

    model = build(fused, fused)
    model.__class__ = Silent
    model.blocks[1].core = lambda query, key, value: (query @ key.transpose(-1, -2)).sigmoid() @ value
    with pytest.raises(siftlens.CaptureError, match="read in 1 modules but not in blocks.1"):
        read(model, images())


def test_an_error_swallowed_inside_the_context():
    def fail(*_):
        raise ZeroDivisionError

    model, x, channels = build(fused, fused), images(), torch.ones(15, 1)
    layout = find_layout(model, x)
    model.blocks[1].register_forward_hook(fail)
    with pytest.raises(siftlens.CaptureError, match="the forward pass raised an error, so the reading is not complete"):
        with torch.no_grad(), siftlens.read_attention(model, channels, grid=layout):
            with contextlib.suppress(ZeroDivisionError):
                model(x)


def test_an_interrupt_leaves_no_trace():
    def interrupt(*_):
        raise KeyboardInterrupt

    model = build(fused, interrupt)
    with pytest.raises(KeyboardInterrupt, match="^$"), siftlens.read_attention(model, torch.ones(15, 1)):
        model(images())
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_parts_in_training_mode_are_refused():
    model = build(fused, fused)
    model.blocks[1].train()
    with pytest.raises(siftlens.CaptureError, match="blocks.1 is in training mode"):
        read(model, images())


@pytest.mark.parametrize("transform", [torch.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())])
def test_transforms_are_refused(transform):
    model = build(fused)
    with pytest.raises(siftlens.CaptureError, match="inside a transform of torch.func"):
        with siftlens.read_attention(model, torch.ones(15, 1)):
            transform(lambda x: model(x[None]))(images()[0] if transform is not torch.vmap else images())


def test_parameters_are_as_before_the_trial_runs():
    model = build(fused, registers=2)
    before = {name: (parameter, parameter.clone()) for name, parameter in model.named_parameters()}
    find_layout(model, images())
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0] and torch.equal(parameter, before[name][1])
