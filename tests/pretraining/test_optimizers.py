"""Who changes which parameter, and how."""

import math

import pytest
import torch
from torch.optim import AdamW, Muon

from siftlens.pretraining.build import build
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.optimizers import moments, optimizers_of, restore, set_rate
from siftlens.pretraining.settings import PretrainSettings

SETTINGS = PretrainSettings(
    model="test_vit", architecture={"depth": 2, "patch_size": 8}, size=32, decoder=DecoderSettings(16, 1, 2)
)


@pytest.fixture
def model():
    return build(SETTINGS)[0]


def a_step(model, optimizers):
    """One step of everything, by gradients that are the same for the same weights."""
    random = torch.Generator().manual_seed(1)
    views = torch.randn(32, 3, 32, 32, generator=random)
    order = torch.rand(32, model.layout.grid.patches, generator=random).argsort(dim=1)
    model(views, order[:, :4], order[:, 4:]).backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def names_of(model, optimizer, **group):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]
        for each in optimizer.param_groups
        if group.items() <= each.items()
        for parameter in each["params"]
    }


def test_muon_has_the_matrices_of_the_blocks_and_adamw_has_the_rest(model):
    adamw, muon = optimizers_of(model, "muon", 0.1)
    assert (type(adamw), type(muon)) == (AdamW, Muon)
    matrices = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    blocks = ("encoder.blocks.0", "encoder.blocks.1", "decoder.blocks.0")
    assert names_of(model, muon) == {f"{block}.{matrix}.weight" for block in blocks for matrix in matrices}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names_of(model, adamw) == trained - names_of(model, muon)
    outside = {"encoder.patch_embed.proj.weight", "decoder.embed.weight", "decoder.head.weight"}
    assert names_of(model, adamw, weight_decay=0.1) == outside
    assert names_of(model, muon, weight_decay=0.1) == names_of(model, muon)


def test_muon_has_the_matrices_of_the_encoder_alone(model):
    adamw, muon = optimizers_of(model, "muon-encoder", 0.1)
    everywhere = names_of(model, optimizers_of(model, "muon", 0.1)[1])
    assert names_of(model, muon) == {name for name in everywhere if name.startswith("encoder.")}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names_of(model, adamw) == trained - names_of(model, muon)
    assert everywhere - names_of(model, muon) < names_of(model, adamw, weight_decay=0.1)


def test_adamw_alone_has_everything(model):
    (adamw,) = optimizers_of(model, "adamw", 0.1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names_of(model, adamw) == trained
    assert names_of(model, adamw, weight_decay=0.1) == {
        name for name, parameter in model.named_parameters() if name in trained and parameter.squeeze().ndim > 1
    }


def test_a_step_of_muon_is_orthogonal_and_four_times_as_large_as_one_of_adamw(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers = optimizers_of(model, "muon", 0.0)
    set_rate(optimizers, 0.01)
    a_step(model, optimizers)
    for name in names_of(model, optimizers[1]):
        change = (model.get_parameter(name).detach() - before[name]) / 0.01
        values = torch.linalg.svdvals(change) / (4 * 0.2 * math.sqrt(max(change.shape)))  # 0.2: AdamW's, by Liu et al.
        assert 0.9 < values.max() < 1.3, name
        assert values.median() > 0.4 * values.max(), name  # of the gradients' own it is a hundredth, more or less


@pytest.mark.parametrize("kind", ["muon", "muon-encoder", "adamw"])
def test_moments_put_back_go_on_as_if_never_gone(model, kind):
    optimizers = optimizers_of(model, kind, 0.1)
    assert moments(optimizers, model) == {}
    a_step(model, optimizers)
    other = build(SETTINGS)[0]
    other.load_state_dict(model.state_dict())
    new = optimizers_of(other, kind, 0.1)
    restore(new, other, {name: tensor.clone() for name, tensor in moments(optimizers, model).items()}, step=1)
    for each, own in ((model, optimizers), (other, new)):
        a_step(each, own)
    assert moments(optimizers, model).keys() == moments(new, other).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name
