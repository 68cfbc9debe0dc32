"""Tokens, pixels and logits under a policy against the model run by hand; what is restored, and what is refused."""

import threading

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import siftlens
from oracles.zoo import ZOO, model_of
from siftlens.attention.trial import on_trial
from siftlens.core import CaptureError, InputError
from siftlens.prompting import Bias, Contrast, PixelMask, Policy, TokenChoice, prompt
from siftlens.prompting.patches import highest

SHORTENED = ["timm-vit", "timm-vit-eager", "timm-deit3", "timm-deit-distilled", "timm-dinov2-registers", "timm-siglip"]
INSIDE = ["timm-beit", "timm-dinov3", "timm-eva02"]  # positions come in inside the blocks
SHORTENED += ["torchvision", "open_clip", *INSIDE]
STRONG = Policy(bias=(Bias(4.0),))


def setting(name="timm-vit", batch=3):
    model = model_of(ZOO[name])
    x = torch.randn(batch, 3, *ZOO[name].size, generator=torch.Generator().manual_seed(3))
    rows, cols = ZOO[name].grid
    return model, x, torch.rand(batch, rows * cols, generator=torch.Generator().manual_seed(4))


def prompted(model, x, policy, maps):
    with torch.no_grad(), prompt(model, policy, maps):
        return model(x)


def plain(model, x):
    with torch.no_grad():
        return model(x)


def by_hand(model, x, kept):
    """A plain timm model on its prefix and these patches of each image."""
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(x))
        prefix = model.num_prefix_tokens
        short = [torch.cat([row[:prefix], row[prefix:][index]]) for row, index in zip(tokens, kept, strict=True)]
        return model.forward_head(model.norm(model.blocks(torch.stack(short))))


def test_highest_patches():
    maps = torch.tensor([[0.1, 0.9, 0.5, 0.3, 0.8], [5.0, 1.0, 2.0, 4.0, 3.0]])
    assert highest(maps, 0.6).tolist() == [[1, 2, 4], [0, 3, 4]]
    tied = highest(torch.zeros(1, 100), 0.25)[0]
    assert torch.equal(tied, highest(torch.zeros(1, 100), 0.25)[0])
    assert 25 < tied.float().mean() < 75, "equal patches are chosen all over the image, not from its top"
    with pytest.raises(InputError, match=r"a share of 0.05 keeps none of 5 patches; expected at least 0.2, one patch"):
        highest(maps, 0.05)


@pytest.mark.parametrize("name", SHORTENED)
def test_dropped_tokens_have_no_say(name):
    """The image differs where tokens are dropped, and the output does not; the sequence is really shorter."""
    model, x, maps = setting(name)
    other = x.clone()
    kept = highest(maps, 0.4)
    grid = ZOO[name].grid
    for image, index in enumerate(kept):
        dropped = torch.ones(grid[0] * grid[1], dtype=torch.bool)
        dropped[index] = False
        pixels = dropped.view(grid).repeat_interleave(4, 0).repeat_interleave(4, 1)
        other[image, :, pixels] = 5.0
    policy, lengths = Policy(tokens=TokenChoice(0.4)), []
    handles = [m.register_forward_hook(lambda *a: lengths.append(a[1][0].shape)) for m in model.modules() if is_mlp(m)]
    first = prompted(model, x, policy, maps)
    longest = max(max(shape[:2]) for shape in lengths[-2:])
    for handle in handles:
        handle.remove()
    assert longest == kept.shape[1] + sum(ZOO[name].prefix)
    assert torch.equal(first, prompted(model, other, policy, maps))
    assert (first - plain(model, x)).abs().max() > 1e-3


def is_mlp(module):
    return type(module).__name__ in ("Mlp", "MLPBlock", "SwiGLU", "GluMlp") or "c_fc" in dict(module.named_children())


@pytest.mark.parametrize("name", ZOO)
def test_tokens_are_dropped_or_the_model_is_refused(name):
    """No architecture lets a token choice pass without effect."""
    model, x, maps = setting(name)
    if name in SHORTENED:
        first, second = (prompted(model, x, Policy(tokens=TokenChoice(0.4)), sign * maps) for sign in (1, -1))
        assert (first - second).abs().max() > 1e-3
    else:
        with pytest.raises(CaptureError, match=r"tokens cannot be dropped one by one|needs a model that returns a row"):
            prompted(model, x, Policy(tokens=TokenChoice(0.4)), maps)


@pytest.mark.parametrize("part", [{"tokens": TokenChoice(0.4)}, {"contrast": Contrast(0.5, view=0.4)}])
def test_a_transformers_classifier_as_one_wraps_it(part):
    """Patches that neither the kept nor the shown part holds have no say."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        num_hidden_layers=2, num_attention_heads=3, hidden_size=33, intermediate_size=37, patch_size=4, image_size=20
    )

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = transformers.ViTForImageClassification(config)

        def forward(self, x):
            return self.inner(x).logits

    torch.manual_seed(0)
    model, x = Logits().eval(), torch.randn(2, 3, 20, 20)
    maps = torch.arange(25.0).expand(2, -1)
    other = x.clone()
    other[:, :, 8:12, 8:12] = 5.0  # patch 12: dropped by the choice of the last ten, and not of the first ten
    policy = Policy(**{"tokens": TokenChoice(0.4)} | part)
    found = prompted(model, x, policy, maps)
    assert torch.equal(found, prompted(model, other, policy, maps))
    assert (found.log_softmax(1) - plain(model, x).log_softmax(1)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "part", [{"tokens": TokenChoice(0.4)}, {"pixels": PixelMask(0.4)}, {"contrast": Contrast(0.5, view=0.4)}]
)
def test_every_part_in_bfloat16(part):
    model, x, maps = setting()
    wide = prompted(model, x, Policy(**part), maps)
    low = prompted(model.bfloat16(), x.bfloat16(), Policy(**part), maps)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), wide, atol=0.1, rtol=0.1)


def test_token_choice_against_the_model_run_by_hand():
    model, x, maps = setting()
    true = by_hand(model, x, highest(maps, 0.4))
    torch.testing.assert_close(prompted(model, x, Policy(tokens=TokenChoice(0.4)), maps), true, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["timm-vit", *INSIDE])
def test_bias_and_token_choice_together(name):
    """The bias sits on the patches that are left: a strong one on the best of them makes it the only key."""
    model, x, maps = setting(name)
    one = torch.zeros_like(maps)
    one[torch.arange(3), maps.argmax(dim=1)] = 1.0
    both = Policy(bias=(Bias(90.0),), tokens=TokenChoice(0.4))
    layout = siftlens.TokenLayout(siftlens.PatchGrid(1, 6, 4, 4), *ZOO[name].prefix)
    kept = highest(one, 0.4)
    channels = torch.nn.functional.one_hot((kept == one.argmax(dim=1)[:, None]).int().argmax(dim=1), 6).float()
    with (
        torch.no_grad(),
        prompt(model, both, one),
        siftlens.read_attention(model, channels[..., None], grid=layout) as r,
    ):
        model(x)
    assert all(layer.values.min() > 0.999 for layer in r.layers)


@pytest.mark.parametrize("name", ZOO)
def test_masked_pixels_have_no_say(name):
    """Patches that stay are the image's own; the others are one colour. The output is that of the painted image."""
    model, x, maps = setting(name)
    kept = highest(maps, 0.4)
    painted = x.mean(dim=(2, 3), keepdim=True).expand_as(x).clone()
    rows, cols = ZOO[name].grid
    for image, index in enumerate(kept):
        stays = torch.zeros(rows * cols, dtype=torch.bool)
        stays[index] = True
        pixels = stays.view(rows, cols).repeat_interleave(4, 0).repeat_interleave(4, 1)
        painted[image, :, pixels] = x[image, :, pixels]
    got, true = prompted(model, x, Policy(pixels=PixelMask(0.4, "mean")), maps), plain(model, painted)
    got, true = (y if isinstance(y, torch.Tensor) else y.last_hidden_state for y in (got, true))
    torch.testing.assert_close(got, true, atol=1e-4, rtol=1e-4)


def test_blur_keeps_the_means_and_loses_the_rest():
    seen = []
    model, x, maps = setting()
    handle = model.patch_embed.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    prompted(model, x, Policy(pixels=PixelMask(0.4, "blur")), maps)
    handle.remove()
    painted = next(images for images in reversed(seen) if images.shape == x.shape)
    blocks = lambda y: y.unflatten(2, (3, 4)).unflatten(4, (5, 4)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # noqa: E731
    kept = highest(maps, 0.4)
    for image in range(3):
        gone = [patch for patch in range(15) if patch not in kept[image]]
        assert torch.equal(blocks(painted)[image, kept[image]], blocks(x)[image, kept[image]])
        assert blocks(painted)[image, gone].std(dim=(2, 3)).mean() < 0.3 * blocks(x)[image, gone].std(dim=(2, 3)).mean()
    assert (painted.mean() - x.mean()).abs() < 0.05


def test_contrast_against_the_model_run_by_hand():
    model, x, maps = setting()
    full, cue = plain(model, x).log_softmax(1), by_hand(model, x, highest(-maps, 0.4)).log_softmax(1)
    got = prompted(model, x, Policy(contrast=Contrast(0.7, view=0.4)), maps)
    torch.testing.assert_close(got, full - 0.7 * cue, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("bias", "passes"), [((), 1), (STRONG.bias, 2)])
def test_contrast_with_everything_is_computed_anew_only_beside_a_prompt(bias, passes):
    model, x, maps = setting()
    policy = Policy(bias=bias, contrast=Contrast(0.7, view=1.0))
    full = prompted(model, x, Policy(bias=bias), maps).log_softmax(1)
    calls = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    prompted(model, x, policy, maps)  # trial runs are behind it
    calls.clear()
    got = prompted(model, x, policy, maps)
    assert len(calls) == passes
    torch.testing.assert_close(got, full - 0.7 * plain(model, x).log_softmax(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", [{"pixels": PixelMask(0.4)}, {"contrast": Contrast(0.7, view=0.4)}])
def test_an_image_whose_map_is_even_is_left_alone(part):
    """As one without the cue: nothing says which patches to mask or to contrast with."""
    model, x, maps = setting()
    maps[1] = -0.5
    before, after = plain(model, x).log_softmax(1), prompted(model, x, Policy(**part), maps).log_softmax(1)
    torch.testing.assert_close(after[1], before[1], atol=1e-5, rtol=1e-5)
    assert all((after[image] - before[image]).abs().max() > 1e-3 for image in (0, 2))


def test_contrast_takes_a_plain_view_off_a_prompted_model():
    model, x, maps = setting()
    both = Policy(bias=STRONG.bias, pixels=PixelMask(0.5, "mean"), contrast=Contrast(0.7, view=0.4))
    full = prompted(model, x, Policy(bias=STRONG.bias, pixels=both.pixels), maps).log_softmax(1)
    cue = by_hand(model, x, highest(-maps, 0.4)).log_softmax(1)
    torch.testing.assert_close(prompted(model, x, both, maps), full - 0.7 * cue, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["timm-vit", "torchvision"])
def test_nothing_asked_for_changes_no_bit(name):
    model, x, maps = setting(name)
    nothing = Policy((Bias(0.0),), TokenChoice(1.0), PixelMask(1.0), Contrast(0.0, 0.5))
    for policy in (nothing, Policy.identity()):
        assert torch.equal(prompted(model, x, policy, maps), plain(model, x))


@pytest.mark.parametrize("name", ["timm-vit", "own"])
def test_the_model_is_as_before_after_an_error(name):
    model, x, maps = setting(name)
    before = plain(model, x)

    def broken(*_):
        if not on_trial():
            raise ZeroDivisionError("in the middle of the forward pass")

    handle = list(model.modules())[-1].register_forward_pre_hook(broken)
    policy = STRONG if name == "own" else Policy(STRONG.bias, TokenChoice(0.5))
    with pytest.raises(ZeroDivisionError, match="in the middle"), prompt(model, policy, maps):
        model(x)
    handle.remove()
    assert torch.equal(plain(model, x), before)
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(KeyError, match="mine"), prompt(model, STRONG, maps):
        raise KeyError("mine")
    assert torch.equal(plain(model, x), before)


def test_an_interrupt_leaves_nothing_behind():
    model, x, maps = setting()
    before = plain(model, x)
    handle = model.norm.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), prompt(model, STRONG, maps):
        model(x)
    handle.remove()
    assert torch.equal(plain(model, x), before)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.full((3, 15), torch.nan), "maps must be finite, got 45 NaN or infinite values"),
        (torch.rand(15), r"maps must be \(image, patch\), got \(15,\)"),
        (torch.rand(3, 14), r"for 3 images of 15 patches \(3 rows x 5 columns\), got \(3, 14\)"),
        (torch.rand(2, 15), r"for 3 images of 15 patches .* got \(2, 15\)"),
    ],
)
def test_maps_that_do_not_fit(maps, message):
    model, x, _ = setting()
    with pytest.raises(InputError, match=message):
        prompted(model, x, STRONG, maps)
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (Bias(1.0, layers=(1, 2)), "the model has layers 0 to 1, got 2"),
        (Bias(1.0, layers=(1,), heads=(0, 3)), "layer 1 has heads 0 to 2, got 3"),
        (Bias(1.0, heads=(5,)), "layer 0 has heads 0 to 2, got 5"),
    ],
)
def test_layers_and_heads_that_are_not_there(bias, message):
    model, x, maps = setting()
    with pytest.raises(InputError, match=message):
        prompted(model, x, Policy(bias=(bias,)), maps)


def test_an_empty_batch_gives_no_rows():
    model, x, maps = setting()
    assert prompted(model, x[:0], STRONG, maps[:0]).shape == (0, 7)


def test_a_prompt_does_not_begin_in_a_pass_that_is_read_but_is_read_inside():
    model, x, maps = setting()
    read = siftlens.read_attention(model, torch.eye(15))
    with pytest.raises(CaptureError, match="a prompt cannot begin in a forward pass whose attention is being read"):
        with read, prompt(model, STRONG, maps):
            model(x)
    alone = plain(model, x)
    with siftlens.read_attention(model, torch.eye(15)), prompt(model, Policy(bias=(Bias(0.0),)), maps):
        assert torch.equal(model(x), alone)  # one that does nothing may
    with (
        torch.no_grad(),
        prompt(model, STRONG, maps),
        siftlens.read_attention(model, torch.eye(15)) as reading,
    ):
        model(x)
    with prompt(model, STRONG, maps):
        exact = siftlens.attention_maps(model, x)
    assert exact.keys() == {0, 1} and not torch.equal(exact[0], siftlens.attention_maps(model, x)[0])
    for layer, attention in exact.items():
        torch.testing.assert_close(reading.layers[layer].values, attention[..., 1:], atol=1e-6, rtol=1e-5)
    contrast = Policy(contrast=Contrast(0.5, 0.5))
    with prompt(model, contrast, maps), pytest.raises(CaptureError, match="ran a second time in one pass, as under a"):
        siftlens.attention_maps(model, x)
    assert siftlens.attention_maps(model, x).keys() == {0, 1}


def test_every_token_dropped_is_refused():
    model, x, maps = setting()
    with pytest.raises(InputError, match="a share of 0.01 keeps none of 15 patches"):
        prompted(model, x, Policy(tokens=TokenChoice(0.01)), maps)


class Features(nn.Module):
    def __init__(self, vit, pick):
        super().__init__()
        self.vit, self.pick = vit, pick

    def forward(self, x):
        return self.pick(self.vit.forward_features(x))


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (lambda tokens: tokens, r"expected a class head, logits .* got \(2, 16, 33\)"),
        (lambda tokens: {"tokens": tokens}, "expected a class head, .* got dict"),
        (lambda tokens: tokens[:, 0, :1], r"at least 2 classes\), got \(2, 1\)"),
    ],
)
def test_contrast_needs_a_class_head(pick, message):
    model, x, maps = setting()
    with pytest.raises(InputError, match=message):
        prompted(Features(model, pick).eval(), x, Policy(contrast=Contrast(1.0, 0.5)), maps)


def test_token_choice_needs_a_row_per_image():
    model, x, maps = setting()
    with pytest.raises(CaptureError, match=r"needs a model that returns a row for each image, got \(2, 16, 33\)"):
        prompted(Features(model, lambda tokens: tokens).eval(), x, Policy(tokens=TokenChoice(0.5)), maps)


def test_features_of_a_model_without_a_head_are_no_logits():
    model, x, maps = setting()
    model.reset_classifier(0)
    with pytest.raises(InputError, match=r"expected a class head, .* got \(2, 33\) from a model of 0 classes"):
        prompted(model, x, Policy(contrast=Contrast(1.0, 0.5)), maps)


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def test_what_a_backbone_of_transformers_pools_is_no_logits():
    model, x, maps = setting("hf-clip")
    pooled = Wrapped(model, Called(lambda output: output.pooler_output)).eval()
    as_tuple = Called(lambda x: model(x, return_dict=False)[1]).eval()
    as_tuple.inner = model
    for features in (pooled, as_tuple):
        with pytest.raises(InputError, match="got the features of a CLIPVisionModel that has none"):
            prompted(features, x, Policy(contrast=Contrast(1.0, 0.5)), maps)


class Wrapped(torch.nn.Module):
    def __init__(self, inner, behind=None):
        super().__init__()
        self.inner, self.behind = inner, behind or torch.nn.Identity()

    def forward(self, x):
        return self.behind(self.inner(x))


@pytest.mark.parametrize("name", ["timm-vit", "open_clip"])
def test_features_of_a_wrapped_model_are_no_logits_and_a_head_of_ones_own_makes_them(name):
    model, x, maps = setting(name)
    if name == "timm-vit":
        model.reset_classifier(0)
    policy, kind = Policy(contrast=Contrast(1.0, 0.5)), type(model).__name__
    wanted = f"expected a class head, (got the features of a {kind} that has none|.*from a model of 0 classes)"
    for headless in (model, Wrapped(model).eval()):
        with pytest.raises(InputError, match=wanted):
            prompted(headless, x, policy, maps)
    for changed in (lambda features: 2 * features, torch.nn.functional.normalize):
        with pytest.raises(InputError, match=wanted):
            prompted(Wrapped(model, Called(changed)).eval(), x, policy, maps)
    width = plain(model, x).shape[1]
    prototypes = torch.randn(width, 5, generator=torch.Generator().manual_seed(5))
    # With weights and without, and with as many classes as features.
    for head in (
        torch.nn.Linear(width, 5),
        torch.nn.Linear(width, width),
        Called(lambda features: features @ prototypes),
        Called(lambda features: features @ prototypes @ prototypes.T),
    ):
        assert prompted(Wrapped(model, head).eval(), x, policy, maps).shape == (
            len(x),
            len(head(torch.ones(1, width))[0]),
        )


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e38), (torch.float64, 1e307), (torch.bfloat16, 1e38)])
def test_a_bias_beyond_what_scores_can_hold_is_refused(dtype, largest):
    model, x, maps = setting()
    model, x, maps = model.to(dtype), x.to(dtype), maps.double()
    maps[0, 3] = -largest
    with pytest.raises(
        InputError, match=r"strength 50 by maps of up to 1e\+\d+ is more than torch\..* scores can hold"
    ):
        prompted(model, x, Policy(bias=(Bias(20.0), Bias(30.0))), maps)
    maps[0, 3] = -1e3
    assert prompted(model, x, Policy(bias=(Bias(20.0), Bias(30.0))), maps).isfinite().all()


def test_a_context_without_a_forward_pass_is_an_error():
    model, _, maps = setting()
    with pytest.raises(CaptureError, match="no forward pass of the model ran inside"), prompt(model, STRONG, maps):
        pass


def test_nesting_is_refused_and_other_models_are_left_alone():
    model, x, maps = setting()
    other = model_of(ZOO["timm-vit"], seed=1)
    before = plain(other, x)
    with torch.no_grad(), prompt(model, STRONG, maps):
        assert torch.equal(other(x), before)
        with prompt(other, STRONG, maps):
            inner = other(x)
        model(x)
        for again in (model, Wrapped(model).eval(), model.blocks[0]):
            with pytest.raises(CaptureError, match="is prompted already"), prompt(again, STRONG, maps):
                pass
    assert torch.equal(inner, prompted(other, x, STRONG, maps))


def test_threads_prompt_their_own_models():
    models = [model_of(ZOO["own"], seed=seed) for seed in (0, 1)]
    _, x, maps = setting("own")
    alone, together = [prompted(model, x, STRONG, maps) for model in models], [None, None]

    def work(index):
        for _ in range(5):
            together[index] = prompted(models[index], x, STRONG, maps)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_call_from_another_thread_is_refused():
    model, x, maps = setting()
    errors = []

    def call():
        try:
            model(x)
        except CaptureError as error:
            errors.append(str(error))

    def elsewhere(*_):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    with torch.no_grad(), prompt(model, STRONG, maps):
        expected = model(x)
    with torch.no_grad(), prompt(model, STRONG, maps):
        elsewhere()
        model.blocks[0].mlp.register_forward_hook(elsewhere)  # in the middle of a pass, and of its trials
        assert torch.equal(model(x), expected)
    assert len(errors) > 1 and all("another thread" in error for error in errors)
    assert not _get_current_function_mode_stack()


def test_training_mode_and_compiled_models_are_refused():
    model, x, maps = setting()
    with pytest.raises(CaptureError, match=r"call model.eval\(\)"), prompt(model.train(), STRONG, maps):
        model(x)
    compiled = torch.compile(model.eval())
    with pytest.raises(CaptureError, match="compiled or scripted model hides its operators"):
        with prompt(compiled, STRONG, maps):
            compiled(x)
    model.compile()
    with pytest.raises(CaptureError, match="compiled"), prompt(model, STRONG, maps):
        model(x)


@pytest.mark.parametrize("part", ["forward", "forward_features", "blocks.1.forward"])
def test_models_with_a_compiled_method_are_refused(part):
    model, x, maps = setting()
    path, _, name = part.rpartition(".")
    module = model.get_submodule(path)
    setattr(module, name, torch.compile(getattr(module, name), backend="eager"))
    with pytest.raises(CaptureError, match="compiled or scripted model hides its operators"):
        with prompt(model, STRONG, maps):
            model(x)


@pytest.mark.parametrize("when", ["never called before", "called before"])
def test_compiled_code_that_calls_the_model_is_prompted_as_any_other(when):
    model, x, maps = setting()
    call = torch.compile(lambda images: model(images), backend="eager")
    with torch.no_grad():
        if when == "called before":
            call(x)
        with prompt(model, STRONG, maps):
            expected = model(x)
        with prompt(model, STRONG, maps):
            given = call(x)
        plain = model(x)
    assert torch.equal(given, expected)
    assert not torch.equal(given, plain)


def test_gradient_checkpointing_is_refused_where_it_would_lose_the_prompt():
    model, x, maps = setting()
    model.set_grad_checkpointing(True)
    with pytest.raises(CaptureError, match="turn gradient checkpointing off, or run it under torch.no_grad"):
        with prompt(model, STRONG, maps):
            model(x)
    with torch.no_grad():
        with prompt(model, STRONG, maps):
            given = model(x)
        model.set_grad_checkpointing(False)
        with prompt(model, STRONG, maps):
            assert torch.equal(given, model(x))


def test_a_pass_that_was_interrupted_inside_leaves_the_next_as_it_should_be():
    model, x, maps = setting()
    with torch.no_grad():
        with prompt(model, STRONG, maps):
            expected = model(x)
        with prompt(model, STRONG, maps):
            last = model.blocks[-1].register_forward_pre_hook(stop)
            with pytest.raises(KeyboardInterrupt):
                model(x)
            last.remove()
            assert torch.equal(model(x), expected)


def stop(*_):
    raise KeyboardInterrupt


def test_a_loaded_model_is_prompted_as_its_module():
    loaded = siftlens.load_model("demo-shortcut")
    x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64)
    with torch.no_grad():
        with prompt(loaded, STRONG, maps):
            given = loaded.module(x)
        with prompt(loaded.module, STRONG, maps):
            assert torch.equal(given, loaded.module(x))


def test_another_input_size_makes_another_plan():
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=2, num_heads=3, embed_dim=33, patch_size=4, img_size=12, dynamic_img_size=True
    ).eval()
    small, large = torch.randn(2, 3, 12, 12), torch.randn(2, 3, 12, 20)
    with torch.no_grad(), prompt(model, STRONG, torch.rand(2, 9)) as prompting:
        model(small)
    with torch.no_grad(), prompt(model, STRONG, torch.rand(2, 15)) as second:
        model(large)
    assert second.plan.layout.grid.patches == 15 and prompting.plan.layout.grid.patches == 9


def test_a_model_that_changes_after_its_trial_is_refused_and_then_tried_anew():
    """By a number that is none of the model's: it has more attention calls when it is tried than later."""
    model, x, maps = setting()
    blocks = list(model.blocks)

    class Shorter(torch.nn.Module):
        def forward(self, tokens):
            for block in blocks:
                tokens = block(tokens)
            return tokens

    model.blocks = Shorter().eval()
    with torch.no_grad(), prompt(model, STRONG, maps):
        model(x)
    blocks.pop()
    with pytest.raises(CaptureError, match="1 calls looked like attention, 2 when it was tried"):
        with torch.no_grad(), prompt(model, STRONG, maps):
            model(x)
    with torch.no_grad(), prompt(model, STRONG, maps) as prompting:
        model(x)
    assert prompting.plan.heads == (3,)


def test_autocast():
    model, x, maps = setting()
    with torch.autocast("cpu", torch.bfloat16):
        low = prompted(model, x, STRONG, maps)
    torch.testing.assert_close(low.float(), prompted(model, x, STRONG, maps), atol=0.3, rtol=0.1)
