"""The model is left as it was, and nothing is read twice, twice at once, or from elsewhere."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

import siftlens
from oracles import bare
from oracles.zoo import ZOO, model_of
from siftlens.attention import find_layout, observe

CHANNELS = torch.ones(15, 2)


def images(exhibit="timm-vit", batch=2):
    return torch.randn(batch, 3, *ZOO[exhibit].size, generator=torch.Generator().manual_seed(3))


def hooks_of(model):
    """Hooks on the model's modules, and on all modules there are."""
    everywhere = len(torch_module._global_forward_hooks) + len(torch_module._global_forward_pre_hooks)
    return everywhere + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ZOO)
def test_output_with_reading_on(name, mode):
    """Bit-identical with fused or eager attention; to 1e-5 where torch's own fast path had to be turned off."""
    model, x = model_of(ZOO[name]), images(name)
    rows, cols = ZOO[name].grid
    with mode():
        plain = model(x)
        with siftlens.read_attention(model, torch.randn(rows * cols, 5), entropy=True):
            read = model(x)
    plain, read = (y if isinstance(y, torch.Tensor) else y.last_hidden_state for y in (plain, read))
    if name in ("torchvision", "own", "open_clip"):
        torch.testing.assert_close(read, plain, atol=1e-5, rtol=1e-5)
    elif mode is torch.inference_mode and torch.__version__ < "2.15":
        torch.testing.assert_close(read, plain, atol=1e-6, rtol=1e-6)  # another linear kernel under any dispatch mode
    else:
        assert torch.equal(read, plain)


def test_gradients_are_the_same_with_reading_on():
    model, x = model_of(ZOO["timm-vit"]), images()
    model(x).sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with siftlens.read_attention(model, CHANNELS) as reading:
        model(x).sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))
    assert not reading.layers[0].values.requires_grad


def test_random_numbers_are_drawn_as_without_reading():
    model, x = model_of(ZOO["timm-vit"]), images()
    torch.manual_seed(7)
    with torch.no_grad(), siftlens.read_attention(model, CHANNELS):
        model(x)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))


def test_everything_is_restored_after_exit_and_after_an_exception():
    model, x = model_of(ZOO["own"]), images("own")
    before = hooks_of(model)
    with torch.no_grad(), siftlens.read_attention(model, CHANNELS):
        model(x)
    assert hooks_of(model) == before and torch.backends.mha.get_fastpath_enabled()

    def broken(*_):
        raise ZeroDivisionError("in the middle of the forward pass")

    handle = model.encoder.layers[1].register_forward_pre_hook(broken)
    with pytest.raises(ZeroDivisionError, match="in the middle"), siftlens.read_attention(model, CHANNELS):
        model(x)
    handle.remove()
    assert hooks_of(model) == before and torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), siftlens.read_attention(model, CHANNELS) as reading:
        model(x)
    assert len(reading.layers) == 2


def test_an_error_of_the_caller_inside_the_context_passes_through():
    model = model_of(ZOO["own"])
    with pytest.raises(KeyError, match="mine"), siftlens.read_attention(model, CHANNELS):
        raise KeyError("mine")
    assert hooks_of(model) == 0 and torch.backends.mha.get_fastpath_enabled()


def test_one_forward_per_context():
    model, x = model_of(ZOO["timm-vit"]), images()
    with pytest.raises(siftlens.CaptureError, match="second forward pass"):
        with torch.no_grad(), siftlens.read_attention(model, CHANNELS):
            model(x)
            model(x)
    with pytest.raises(siftlens.CaptureError, match="no forward pass"), siftlens.read_attention(model, CHANNELS):
        pass


def test_nesting_is_refused():
    model, other = model_of(ZOO["timm-vit"]), model_of(ZOO["timm-vit"], seed=1)
    with pytest.raises(siftlens.CaptureError, match="being read already"):
        with siftlens.read_attention(model, CHANNELS), siftlens.read_attention(other, CHANNELS):
            other(images())
    with pytest.raises(siftlens.CaptureError, match="being read already"):
        with siftlens.read_attention(model, CHANNELS):
            siftlens.attention_maps(model, images())
    with torch.no_grad(), siftlens.read_attention(model, CHANNELS) as reading:
        model(images())
    assert len(reading.layers) == 2


def test_another_model_inside_the_context_is_not_read():
    model, other, x = model_of(ZOO["timm-vit"]), model_of(ZOO["timm-vit"], seed=1), images()
    with torch.no_grad(), siftlens.read_attention(model, CHANNELS) as reading:
        other(x)
        model(x)
        other(x)
    assert len(reading.layers) == 2


def test_threads_read_their_own_models():
    models = [model_of(ZOO["own"], seed=seed) for seed in (0, 1)]
    x, channels = images("own"), torch.randn(15, 3)

    def read(model):
        with torch.no_grad(), siftlens.read_attention(model, channels) as reading:
            model(x)
        return reading.layers[1].values

    alone, together = [read(model) for model in models], [None, None]

    def work(index):
        for _ in range(5):
            together[index] = read(models[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_call_from_another_thread_is_refused():
    model, errors = model_of(ZOO["timm-vit"]), []

    def call():
        try:
            model(images())
        except siftlens.CaptureError as error:
            errors.append(str(error))

    def elsewhere(*_):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    with torch.no_grad(), siftlens.read_attention(model, CHANNELS) as undisturbed:
        model(images())
    with torch.no_grad(), siftlens.read_attention(model, CHANNELS) as reading:
        elsewhere()
        model.blocks[0].mlp.register_forward_hook(elsewhere)  # in the middle of a pass, and of its trials
        model(images())
    assert len(errors) > 1 and all("another thread" in error for error in errors)
    assert [layer.name for layer in reading.layers] == [layer.name for layer in undisturbed.layers]
    for layer, same in zip(reading.layers, undisturbed.layers, strict=True):
        assert torch.equal(layer.values, same.values)


def test_maps_leave_the_model_to_other_threads():
    model, x, elsewhere = model_of(ZOO["timm-vit"]), images(), []
    with torch.no_grad():
        alone, plain = siftlens.attention_maps(model, x), model(x)

    def call():
        with torch.no_grad():
            elsewhere.append(model(x))

    def meanwhile(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()

    model.register_forward_pre_hook(meanwhile)  # before the pass that is mapped
    model.blocks[0].mlp.register_forward_hook(meanwhile)  # and in the middle of it
    with torch.no_grad():
        maps = siftlens.attention_maps(model, x)
    assert len(elsewhere) > 1 and all(torch.equal(answer, plain) for answer in elsewhere)
    assert all(torch.equal(maps[layer], attention) for layer, attention in alone.items())


def test_maps_of_a_model_whose_call_runs_no_hooks_are_refused():
    class Direct(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __call__(self, x):
            return self.inner(x)

    with pytest.raises(siftlens.CaptureError, match="Direct ran no forward pass; expected a module whose call runs"):
        siftlens.attention_maps(Direct(model_of(ZOO["timm-vit"])).eval(), images())


def test_layers_are_handed_over_and_not_kept():
    model, x, seen = model_of(ZOO["timm-vit"]), images(), []
    with torch.no_grad(), observe(model, CHANNELS, on_layer=lambda layer: seen.append(layer.name)) as reading:
        model(x)
    assert seen == ["blocks.0.attn", "blocks.1.attn"]
    assert reading.layers == []


def test_token_norms_are_those_of_the_blocks():
    model, x, outputs = model_of(ZOO["timm-dinov2-registers"]), images(), []
    handles = [b.register_forward_hook(lambda *a: outputs.append(a[2])) for b in model.blocks]
    with torch.no_grad(), observe(model, CHANNELS, on_layer=lambda *_: None, token_norms=True) as reading:
        model(x)
    for handle in handles:
        handle.remove()
    outputs = outputs[-2:]
    assert sorted(reading.token_norms) == [0, 1]
    for layer, output in enumerate(outputs):
        torch.testing.assert_close(reading.token_norms[layer], output.norm(dim=-1))


def test_token_norms_where_the_sequence_comes_first():
    model, x = model_of(ZOO["open_clip"]), images()
    with torch.no_grad(), observe(model, CHANNELS, on_layer=lambda *_: None, token_norms=True) as reading:
        model(x)
    assert [tuple(norm.shape) for norm in reading.token_norms.values()] == [(2, 16), (2, 16)]


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (torch.ones(14, 2), "with 15 patches"),
        (torch.ones(3, 5, 15, 2), "with 15 patches"),
        (torch.ones(5, 15, 2), "channels are for 5 images, but the model got 2"),
        (torch.full((15, 2), torch.nan), "must be finite"),
    ],
)
def test_channels_that_do_not_fit(channels, message):
    model = model_of(ZOO["timm-vit"])
    with pytest.raises(siftlens.InputError, match=message), observe(model, channels, on_layer=lambda *_: None):
        model(images())
    assert hooks_of(model) == 0


def test_unknown_weighting():
    model = model_of(ZOO["timm-vit"])
    with pytest.raises(siftlens.InputError, match="one of attention, value_norm, got 'norm'"):
        with siftlens.read_attention(model, CHANNELS, weighting="norm"):
            model(images())


def test_layout_given_by_hand_is_used():
    class Unnamed(nn.Module):
        """A class token that no name gives away."""

        def __init__(self):
            super().__init__()
            self.vit = model_of(ZOO["timm-vit"])
            self.first = self.vit.cls_token
            self.vit.cls_token = None

        def forward(self, x):
            x = self.vit.patch_embed(x)
            x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1) + self.vit.pos_embed
            return self.vit.blocks(x)

    model = Unnamed().eval()
    with pytest.raises(siftlens.CaptureError, match=r"name 0 class and 0 register tokens; .* grid=TokenLayout"):
        find_layout(model, images())
    layout = siftlens.TokenLayout(siftlens.PatchGrid(3, 5, 4, 4), registers=1)
    with torch.no_grad(), siftlens.read_attention(model, CHANNELS, grid=layout) as reading:
        model(images())
    assert reading.layers[0].prefix_mass[..., 0].eq(0).all() and reading.layers[0].prefix_mass[..., 1].gt(0).all()


def test_a_grid_given_by_hand_is_as_good_as_the_found_one():
    model, x, channels = model_of(ZOO["timm-dinov2-registers"]), images(), torch.randn(15, 3)
    with torch.no_grad(), siftlens.read_attention(model, channels) as found:
        model(x)
    with torch.no_grad(), siftlens.read_attention(model, channels, grid=siftlens.PatchGrid(3, 5, 4, 4)) as given:
        model(x)
    assert given.layout == found.layout
    assert torch.equal(given.layers[1].values, found.layers[1].values)


@pytest.mark.parametrize("name", ["timm-dinov2-registers", "hf-vit", "open_clip"])
def test_trials_leave_the_model_alone_for_other_threads(name):
    """Parameters are changed to find out which token in front is which, but not for whoever else runs the model."""
    model, x, here, runs = model_of(ZOO[name]), images(), threading.get_ident(), []
    with torch.no_grad():
        true = model(x)
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.LayerNorm))

    def run():
        with torch.no_grad():
            runs.append(model(x))

    def meanwhile(*_):
        if threading.get_ident() == here:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    hook = first.register_forward_hook(meanwhile)
    find_layout(model, x)
    hook.remove()
    assert len(runs) > 5
    for found in runs:
        assert all(map(torch.equal, tensors(found), tensors(true)))


class Turned(bare.Model):
    """Its class token is multiplied by a matrix, so that autocast makes a copy of the parameter and remembers it."""

    def forward(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.place
        turned = self.cls_token @ torch.eye(bare.WIDTH)
        tokens = torch.cat([turned.expand(len(x), -1, -1).to(patches), patches], dim=1)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return tokens


@pytest.mark.parametrize("before", [True, False], ids=["a pass before", "none"])
def test_autocast_does_not_remember_what_a_trial_saw(before):
    model, x = bare.build(bare.fused, bare.fused), bare.images()
    model.__class__ = Turned
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        true = model(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        if before:
            model(x)
        layout = find_layout(model, x)
        assert torch.equal(model(x), true)
    assert (layout.class_tokens, layout.registers) == (1, 0)


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else [t for t in output.values() if isinstance(t, torch.Tensor)]
