"""The arms of the study of guided pre-training, its images, and what a step of each arm costs by arithmetic."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from siftlens.pretraining import DecoderSettings, MaskPolicy, PartialDecoding, PretrainSettings
from siftlens.pretraining.build import build
from siftlens.pretraining.optimizers import optimizers_of

SMALL = {"embed_dim": 128, "depth": 4, "num_heads": 4}  # 0.9 M parameters, patches of 16 px
LARGER = {"embed_dim": 160, "depth": 4, "num_heads": 5}  # 1.4 M
LEAN = DecoderSettings(64, 2, 2)  # half as wide as the small encoder, half as deep
MAES = DecoderSettings(512, 8, 16)


@dataclass(frozen=True)
class Scale:
    """How large a study's models are, and what follows from that.

    Attributes:
        architecture: of the encoder.
        decoder: of all its arms.
        epochs: E.
        rates: learning rate of each optimizer, by `tune`.
    """

    architecture: dict[str, Any]
    decoder: DecoderSettings
    epochs: int
    rates: dict[str, float]


SCALES = {
    "small": Scale(SMALL, LEAN, 40, {"adamw": 4e-3, "muon": 4e-3, "muon-encoder": 4e-3}),
    "larger": Scale(LARGER, LEAN, 40, {"adamw": 4e-3, "muon": 4e-3, "muon-encoder": 4e-3}),  # the last as small
    "wide-decoder": Scale(LARGER, MAES, 10, {"adamw": 1e-3, "muon": 4e-3, "muon-encoder": 2e-3}),
}
BASE = PretrainSettings(
    model="vit_tiny_patch16_224",
    architecture=SMALL,
    size=96,
    source=128,
    epochs=40,
    batch_size=64,
    optimizer="adamw",
    learning_rate=SCALES["small"].rates["adamw"],
    decoding=PartialDecoding(1.0, 0.5),  # all; ranked has no say then, and is what the results' settings.json names
    decoder=LEAN,
)
GUIDED = MaskPolicy("keypoint-high")
SHARE = 1 / 3  # of the masked patches, where decoding is partial
FEWER = 0.85  # of the patches masked, where fewer are seen: 5 of 36, not 9
MUON = {"optimizer": "muon"}
ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "keypoint-high": {"policy": GUIDED},
    "other-image": {"policy": GUIDED, "guide": "other"},
    "random-partial": {"decoding": PartialDecoding(SHARE, 0.0)},
    "keypoint-partial": {"policy": GUIDED, "decoding": PartialDecoding(SHARE, 0.5)},
    "random-fewer": {"policy": MaskPolicy("random", ratio=FEWER)},
    "keypoint-fewer": {"policy": MaskPolicy("keypoint-low", ratio=FEWER)},  # what has few keypoints is thrown away
    "gradient": {"policy": GUIDED, "guide": "gradient"},
    "random-growing": {"first_size": 64, "first_part": 0.6},  # 16 patches, then 36
    "muon": MUON,  # random masks
    "muon-keypoint-high": {**MUON, "policy": GUIDED},
    "muon-other-image": {**MUON, "policy": GUIDED, "guide": "other"},
    "muon-encoder": {"optimizer": "muon-encoder"},
    "muon-encoder-partial": {"optimizer": "muon-encoder", "decoding": PartialDecoding(SHARE, 0.0)},
    "muon-partial": {**MUON, "decoding": PartialDecoding(SHARE, 0.0)},
    "muon-keypoint-partial": {**MUON, "policy": GUIDED, "decoding": PartialDecoding(SHARE, 0.5)},
}
MAIN = ("random", "keypoint-high", "other-image", "random-partial", "keypoint-partial")


def settings_of(arm: str, scale: str = "small", *, epochs: int | None = None, seed: int = 0) -> PretrainSettings:
    """What a run computes; of E epochs where no others are asked for."""
    size = SCALES[scale]
    settings = replace(BASE, architecture=size.architecture, decoder=size.decoder, seed=seed, **ARMS[arm])
    return replace(settings, epochs=epochs or size.epochs, learning_rate=size.rates[settings.optimizer])


def some_images(folder: Path, limit: int, listed: Path) -> str:
    """A text file that names some of a folder's images, spread evenly."""
    paths = sorted(folder.rglob("*.jpg"))
    chosen = paths[:: max(1, len(paths) // limit)][:limit]
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(str(path.absolute()) for path in chosen) + "\n")
    return str(listed)


def phases(settings: PretrainSettings) -> list[tuple[float, PretrainSettings]]:
    """Shares of a training in which views keep one size, each with settings whose steps cost what its steps do."""
    if settings.first_size is None:
        return [(1.0, settings)]
    first = replace(settings, size=settings.first_size, first_size=None)
    return [(settings.first_part, first), (1 - settings.first_part, replace(settings, first_size=None))]


def flops_per_step(settings: PretrainSettings) -> float:
    """Of the forward and backward pass of a batch, and of the optimizer's products; the mean over the training."""
    return sum(share * _flops(phase) for share, phase in phases(settings))


def _flops(settings: PretrainSettings) -> float:
    model, _ = build(settings)
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        block.attn.fused_attn = False  # the counter does not know the fused kernel of every device
    patches = model.layout.grid.patches
    visible = settings.policy.visible(patches)
    order = torch.rand(1, patches).argsort(dim=1)
    masked = order[:, visible:]
    decoded = settings.decoding.choose(masked, torch.zeros(1, patches), torch.zeros(1, dtype=torch.int64))
    with FlopCounterMode(display=False) as passes:
        model(torch.zeros(1, 3, settings.size, settings.size), order[:, :visible], decoded).backward()
    with FlopCounterMode(display=False) as steps:
        for optimizer in optimizers_of(model, settings.optimizer, settings.weight_decay):
            optimizer.step()
    return float(passes.get_total_flops() * settings.batch_size + steps.get_total_flops())
