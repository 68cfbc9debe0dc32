"""A small pre-training, and what two runs of it have in common."""

import csv

import torch
from safetensors.torch import load_file

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
    first, second = load_file(one / "state.safetensors"), load_file(other / "state.safetensors")
    assert first.keys() == second.keys()
    assert len(first) > 40
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
