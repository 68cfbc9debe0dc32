"""A bias on every architecture: what is added to the scores is what moves the attention, and nothing else changes."""

import pytest
import torch

import siftlens
from oracles.attention import true_attention
from oracles.zoo import ZOO, model_of
from siftlens.attention import find_layout
from siftlens.core import PatchGrid, TokenLayout
from siftlens.prompting import Bias, Plan, Policy, prompt

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 4e-2}


@pytest.fixture(params=ZOO)
def name(request):
    return request.param


def model_for(name):
    model = model_of(ZOO[name])
    if name == "hf-beit":
        # transformers caches its position index for the process: one made in inference mode, by any test before, cannot
        # be saved for backward.
        model.requires_grad_(False)
    return model


def images_for(name, batch=3):
    return torch.randn(batch, 3, *ZOO[name].size, generator=torch.Generator().manual_seed(3))


def maps_for(name, batch=3):
    rows, cols = ZOO[name].grid
    return torch.rand(batch, rows * cols, generator=torch.Generator().manual_seed(4))


def layout_for(name):
    (rows, cols), (classes, registers) = ZOO[name].grid, ZOO[name].prefix
    return TokenLayout(PatchGrid(rows, cols, 4, 4), classes, registers)


def tensor_of(output):
    return output if isinstance(output, torch.Tensor) else output.last_hidden_state


def moved(name, before, maps, strengths):
    """The oracle: weights times exp(beta g), rows summing to one again, head by head."""
    layout = layout_for(name)
    g = torch.zeros(len(maps), before.shape[3], dtype=torch.float64)
    g[:, before.shape[3] - layout.grid.patches :] = maps
    after = torch.empty_like(before)
    for head, beta in enumerate(strengths):
        weights = before[:, head] * torch.exp(beta * g)[:, None]
        after[:, head] = weights / weights.sum(dim=-1, keepdim=True)
    return after


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_no_strength_changes_no_bit(name, mode):
    model, x, maps = model_for(name), images_for(name), maps_for(name)
    with mode():
        before = tensor_of(model(x))
        with prompt(model, Policy(bias=(Bias(0.0),)), maps):
            same = tensor_of(model(x))
        after = tensor_of(model(x))
    assert torch.equal(same, before) and torch.equal(after, before)


def test_the_first_layer_moves_as_the_formula_says(name):
    """Deeper layers see other tokens; the first is the model's own attention with its weights moved."""
    model, x, maps = model_for(name), images_for(name), maps_for(name)
    layout, before = layout_for(name), true_attention(model, x).attention[0].double()
    heads = before.shape[1]
    channels = torch.eye(layout.grid.patches)
    policy = Policy(bias=(Bias(3.0), Bias(-1.5, layers=(0,), heads=(heads - 1,))))
    with torch.no_grad(), prompt(model, policy, maps):
        with siftlens.read_attention(model, channels, grid=layout) as reading:
            model(x)
    true = moved(name, before, maps.double(), [3.0] * (heads - 1) + [1.5])[..., layout.prefix :]
    torch.testing.assert_close(reading.layers[0].values.double(), true, atol=1e-5, rtol=1e-4)


def test_a_strong_bias_takes_all_attention_to_one_patch_in_the_chosen_layer_and_head_alone(name):
    model, x = model_for(name), images_for(name)
    layout, target = layout_for(name), torch.tensor([2, 7, 11])
    maps = torch.nn.functional.one_hot(target, layout.grid.patches).float()
    with torch.no_grad(), siftlens.read_attention(model, maps[:, :, None], grid=layout) as plain:
        model(x)
    policy = Policy(bias=(Bias(60.0, layers=(1,), heads=(0,)),))
    with torch.no_grad(), prompt(model, policy, maps):
        with siftlens.read_attention(model, maps[:, :, None], grid=layout) as reading:
            model(x)
    torch.testing.assert_close(reading.layers[0].values, plain.layers[0].values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(reading.layers[1].values[:, 1:], plain.layers[1].values[:, 1:], atol=1e-5, rtol=1e-4)
    assert plain.layers[1].values[:, 0].max() < 0.99
    assert reading.layers[1].values[:, 0].min() > 0.999


def test_a_bias_changes_the_output_and_leaves_the_model_as_it_was(name):
    model, x, maps = model_for(name), images_for(name), maps_for(name)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with torch.no_grad():
        before = tensor_of(model(x))
        with prompt(model, Policy(bias=(Bias(4.0),)), maps):
            first = tensor_of(model(x))
            second = tensor_of(model(x))
        with prompt(model, Policy(bias=(Bias(4.0),)), maps):
            third = tensor_of(model(x))
        after = tensor_of(model(x))
    assert (first - before).abs().max() > 1e-3
    assert torch.equal(first, second) and torch.equal(first, third)
    assert torch.equal(after, before)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_every_grad_mode_computes_the_same(name, mode):
    model, x, maps = model_for(name), images_for(name), maps_for(name)
    outputs = []
    for each in (torch.no_grad, mode):
        with each(), prompt(model, Policy(bias=(Bias(4.0),)), maps):
            outputs.append(tensor_of(model(x)).detach().clone())
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_bfloat16(name):
    """Attention of the first layer, on the same rounded weights."""
    model, x, maps = model_of(ZOO[name]).bfloat16(), images_for(name).bfloat16(), maps_for(name)
    layout, before = layout_for(name), true_attention(model, x).attention[0].double()
    with torch.no_grad(), prompt(model, Policy(bias=(Bias(3.0),)), maps):
        with siftlens.read_attention(model, torch.eye(layout.grid.patches), grid=layout) as reading:
            output = tensor_of(model(x))
    true = moved(name, before, maps.double(), [3.0] * before.shape[1])[..., layout.prefix :]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(reading.layers[0].values.double(), true, atol=DTYPES[torch.bfloat16], rtol=0)


def test_gradients_are_those_of_the_steered_model():
    """Fused attention against the same model with eager attention, whose softmax autograd takes apart by itself."""
    gradients = []
    for name in ("timm-vit", "timm-vit-eager"):
        model, x, maps = model_of(ZOO[name]), images_for(name).requires_grad_(True), maps_for(name)
        with prompt(model, Policy(bias=(Bias(4.0),)), maps):
            model(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["timm-siglip", "hf-siglip"])
def test_pooling_heads_are_steered_only_where_nothing_is_chosen(name):
    model, x = model_for(name), images_for(name)
    maps = torch.nn.functional.one_hot(torch.tensor([2, 7, 11]), layout_for(name).grid.patches).float()
    found = []
    for bias in (Bias(60.0), Bias(60.0, layers=(0, 1))):
        with torch.no_grad(), prompt(model, Policy(bias=(bias,)), maps):
            with siftlens.read_attention(model, maps[:, :, None], grid=layout_for(name)) as reading:
                model(x)
        found.append(reading.pool[0].values)
    assert found[0].min() > 0.999 and found[1].max() < 0.9


def test_the_plan_names_layers_and_heads(name):
    model, x = model_for(name), images_for(name)
    plan = Plan(model, (x,), {})
    assert plan.layout == find_layout(model, x) == layout_for(name)
    assert len(plan.heads) == 2 and len(set(plan.heads)) == 1
    assert sorted(layer for layer in plan.layer_of.values() if layer is not None) == [0, 1]
    assert list(plan.layer_of.values()).count(None) == ZOO[name].pool
