"""A small pre-training, and what two runs of it have in common."""

import csv

import torch
from safetensors.torch import load_file

from siftlens.pretraining.build import build
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.pretrain import pretrain
from siftlens.pretraining.settings import PretrainSettings

SIZE = 32
SETTINGS = PretrainSettings(
    model="test_vit",
    architecture={"depth": 1, "patch_size": 8},
    size=SIZE,
    epochs=3,
    batch_size=6,
    learning_rate=0.02,
    decoder=DecoderSettings(16, 1, 2),
    policy=MaskPolicy("ramped"),
    guide="gradient",
)
STEPS = 3 * 3  # of 20 images, 18 make full batches


def run(photos, out, settings=SETTINGS, **rest):
    return pretrain(photos, out, settings, device="cpu", **{"precision": "fp32"} | rest)


def rows(path):
    with path.open() as file:
        return list(csv.reader(file))


def assert_same_weights(one, other, **tolerance):
    """Equal weights and moments. Keys' biases have no gradient but rounding, of which AdamW makes steps."""
    first, second = load_file(one / "state.safetensors"), load_file(other / "state.safetensors")
    assert first.keys() == second.keys()
    assert len(first) > 40
    for name in first:
        pair = second[name], first[name]
        if tolerance["atol"] and name.endswith("attn.qkv.bias"):
            pair = tuple(torch.cat(bias.chunk(3)[0::2]) for bias in pair)
        torch.testing.assert_close(*pair, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def assert_as_one(one, other, settings):
    """Runs whose steps were cut into parts: equal to rounding, of bfloat16 in the matrices that Muon changes.

    Those are apart by less than a tenth of the way they have come; other masks make it a quarter or more.
    """
    if settings.optimizer == "adamw":
        assert_same_weights(one, other, rtol=1e-3, atol=2e-5)
        return
    begun = dict(build(settings)[0].named_parameters())
    first, second = load_file(one / "state.safetensors"), load_file(other / "state.safetensors")
    changed = [name.removeprefix("momentum_buffer.") for name in first if name.startswith("momentum_buffer.")]
    assert len(changed) == 8
    for name in changed:
        way = first[f"model.{name}"] - begun[name].detach()
        assert (second[f"model.{name}"] - first[f"model.{name}"]).norm() < 0.1 * way.norm(), name
