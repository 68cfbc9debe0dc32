"""What trials found is kept while a model stays as it was, and no longer."""

import collections
import gc
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import siftlens
from oracles.zoo import ZOO, model_of
from siftlens.attention.memory import _kept, _State
from siftlens.attention.trial import Trial
from siftlens.prompting import Bias, Contrast, Policy, TokenChoice

SIZE, PATCHES = (12, 20), 15


class Slots:
    __slots__ = ("kind",)

    def __init__(self):
        self.kind = "eager"


class Configured(nn.Module):
    """A model with all that may change beside weights: a buffer, numbers, a list, an object, a module not its own."""

    def __init__(self):
        super().__init__()
        self.vit = model_of(ZOO["timm-vit"])
        self.register_buffer("scale", torch.ones(()))
        self.level, self.levels = 1, [1, {"deep": 2.0}]
        self.config, self.aside = SimpleNamespace(kind="eager", inner=SimpleNamespace(column=1)), [nn.Identity()]
        self.slots, self.order, self.mixing = Slots(), np.arange(3), partial(torch.add, alpha=1)

    factor = 1

    def forward(self, images=None, flag=True, extra=None, instead=None):
        images = instead if images is None else images
        return self.vit(images) * self.scale


@pytest.fixture
def model():
    return Configured().eval()


@pytest.fixture
def trials(monkeypatch):
    """How many trials have run so far, as a function."""
    count, run = [0], Trial.run

    def counted(*given, **named):
        count[0] += 1
        return run(*given, **named)

    monkeypatch.setattr(Trial, "run", counted)

    def since():
        told, count[0] = count[0], 0
        return told

    return since


def read(model, images=None, **named):
    images = torch.zeros(2, 3, *SIZE) if images is None else images
    with torch.no_grad(), siftlens.read_attention(model, torch.eye(PATCHES)) as reading:
        model(images, **named)
    return reading


def prompted(model, policy):
    maps = torch.arange(2.0 * PATCHES).reshape(2, PATCHES)
    with torch.no_grad(), siftlens.prompt(model, policy, maps):
        return model(torch.ones(2, 3, *SIZE))


POLICIES = [Policy(bias=(Bias(2.0),)), Policy(tokens=TokenChoice(0.5)), Policy(contrast=Contrast(0.5, 0.5))]


def test_a_loop_tries_the_model_once(model, trials):
    first = read(model)
    assert trials()
    again = read(model, torch.ones(5, 3, *SIZE))
    assert not trials()
    assert again.layout == first.layout
    torch.testing.assert_close(read(model).layers[-1].values, first.layers[-1].values, rtol=0, atol=0)


def test_prompts_and_maps_remember_too(model, trials):
    first = [prompted(model, policy) for policy in POLICIES]
    assert trials()
    assert all(torch.equal(prompted(model, policy), output) for policy, output in zip(POLICIES, first, strict=True))
    siftlens.attention_maps(model, torch.zeros(1, 3, *SIZE))
    assert not trials()


def weights_in_place(model):
    with torch.no_grad():
        model.vit.blocks[0].attn.qkv.weight.mul_(1.0)


def weights_exchanged(model):
    model.vit.blocks[0].attn.qkv.weight.data = model.vit.blocks[0].attn.qkv.weight.data.clone()


def parameter_exchanged(model):
    model.vit.cls_token = nn.Parameter(model.vit.cls_token.detach().clone())


def buffer_changed(model):
    model.scale.add_(1)


def module_exchanged(model):
    model.vit.blocks[1] = model_of(ZOO["timm-vit"], seed=1).blocks[1]


def hook_added(model):
    model.vit.blocks[0].register_forward_hook(lambda *_: None)


def hook_for_all_added(_model):
    return nn.modules.module.register_module_forward_hook(lambda *_: None)


def forward_exchanged(model):
    model.vit.blocks[0].forward = model.vit.blocks[0].forward


def number_changed(model):
    model.level = 2


def number_of_another_kind(model):
    model.level = True


def list_changed(model):
    model.levels[1]["deep"] = 3.0


def object_changed(model):
    model.config.kind = "sdpa"


def object_exchanged(model):
    model.aside[0] = nn.Identity()


def inner_object_changed(model):
    model.config.inner.column = 2


def module_in_a_list_changed(model):
    model.aside[0].column = 2


def slot_changed(model):
    model.slots.kind = "sdpa"


def array_changed(model):
    model.order[0] = 2


def partial_changed(model):
    model.mixing.keywords["alpha"] = 2


def weights_changed_without_a_count(model):
    model.vit.blocks[0].attn.qkv.weight.data += 1e-3


def a_fused_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model(torch.ones(2, 3, *SIZE)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "change",
    [
        weights_in_place,
        weights_exchanged,
        parameter_exchanged,
        buffer_changed,
        module_exchanged,
        hook_added,
        hook_for_all_added,
        forward_exchanged,
        number_changed,
        number_of_another_kind,
        list_changed,
        object_changed,
        object_exchanged,
        inner_object_changed,
        module_in_a_list_changed,
        slot_changed,
        array_changed,
        partial_changed,
        weights_changed_without_a_count,
        a_fused_step,
    ],
)
def test_a_changed_model_is_tried_anew(model, trials, change):
    read(model)
    trials()
    handle = change(model)
    read(model)
    assert trials()
    read(model)
    assert not trials()
    if handle is not None:  # of a hook that other tests would see
        handle.remove()


@pytest.mark.parametrize(("name", "value"), [("forward", None), ("factor", 2)])
def test_a_class_that_changed_is_tried_anew(model, trials, monkeypatch, name, value):
    read(model)
    trials()
    forward = Configured.forward
    monkeypatch.setattr(Configured, name, value or (lambda *given, **named: forward(*given, **named)))
    read(model)
    assert trials()


def test_another_form_of_call_is_tried_by_itself(model, trials):
    read(model)
    trials()
    read(model, flag=False)
    assert trials()
    with torch.autocast("cpu", torch.bfloat16):
        read(model)
    assert trials()
    with torch.no_grad(), siftlens.read_attention(model, torch.eye(PATCHES)):
        model(instead=torch.zeros(2, 3, *SIZE))
    assert trials()
    read(model.double(), torch.zeros(2, 3, *SIZE, dtype=torch.float64))
    assert trials()


def test_given_grids_are_kept_apart(model, trials):
    read(model)
    trials()
    grid = siftlens.PatchGrid(3, 5, 4, 4)
    for tried in (True, False):
        with torch.no_grad(), siftlens.read_attention(model, torch.eye(PATCHES), grid=grid):
            model(torch.zeros(2, 3, *SIZE))
        assert bool(trials()) is tried


def test_nothing_is_kept_of_calls_that_hold_more_than_plain_values(model, trials):
    for _ in range(2):
        read(model, extra=torch.zeros(2))
        assert trials()


def test_nothing_is_kept_where_torch_is_intercepted(model, trials):
    class Passing(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    for _ in range(2):
        with Passing():
            read(model)
        assert trials()


def test_nothing_is_kept_of_weights_that_count_no_changes(trials):
    with torch.inference_mode():
        model = Configured().eval()
        for _ in range(2):
            read(model)
            assert trials()


class Raising:
    @property
    def __dict__(self):
        raise ValueError("what I hold is nobody's business")


def gone():
    lost = nn.Identity()
    return weakref.proxy(lost)


@pytest.mark.parametrize(
    "make",
    [lambda: collections.deque([1]), lambda: list(range(60_000)), Raising, gone, lambda: nn.LazyLinear(2)],
    ids=["a deque", "too much", "a closed book", "a proxy of nothing", "weights to come"],
)
def test_nothing_is_kept_where_an_attribute_cannot_be_told(model, trials, make):
    model.strange = [make()]
    for _ in range(2):
        read(model)
        assert trials()


def test_calls_of_many_forms_do_not_pile_up(model):
    for flag in range(30):
        read(model, flag=float(flag))
    assert len(_kept[model].found) <= 16


@pytest.mark.parametrize("maps", [torch.zeros(2, 4), torch.zeros(3, PATCHES)])
def test_a_prompt_that_failed_is_tried_anew(model, trials, maps):
    prompted(model, POLICIES[0])
    with pytest.raises(siftlens.InputError, match="maps must be"), siftlens.prompt(model, POLICIES[0], maps):
        model(torch.ones(2, 3, *SIZE))
    trials()
    prompted(model, POLICIES[0])
    assert trials()


def test_a_pass_that_failed_is_tried_anew(model, trials):
    read(model)
    trials()
    with pytest.raises(siftlens.InputError, match="channels are for 3 images"), torch.no_grad():
        with siftlens.read_attention(model, torch.ones(3, PATCHES, 1)):
            model(torch.zeros(2, 3, *SIZE))
    assert not trials()
    read(model)
    assert trials()


def test_an_id_holds_for_as_long_as_its_object():
    """The next object may get the id of one that is gone."""
    known = nn.Identity()
    state = _State((id(known),), (weakref.ref(known),))
    assert state.holds(_State((id(known),), ()))
    number = id(known)
    del known
    gc.collect()
    assert not state.holds(_State((number,), ()))


def test_a_model_is_not_kept_alive():
    class Own(Configured):
        def model_of(self):
            return model

    model = Own().eval()
    read(model)
    for policy in POLICIES:
        prompted(model, policy)
    parts = [weakref.ref(model), weakref.ref(model.vit.blocks[0]), weakref.ref(model.vit.blocks[0].attn.qkv.weight)]
    del model, Own
    gc.collect()
    assert [part() for part in parts] == [None] * 3
