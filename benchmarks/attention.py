"""Speed, memory and error of reading attention, side by side with other ways to the same statistics.

Every arm but the plain forward pass computes all statistics of every layer and head for the same 58 channels.

    python benchmarks/attention.py                      all settings, about 15 minutes on 2 cores
    python benchmarks/attention.py --setting b16-224

Speed: the arms take turns within one process; the median over rounds of the ratio to the plain forward pass.
Memory: each arm alone in a fresh process, peak resident memory above the loaded model.
Error: the largest difference of any statistic from the same model in float64 (`--error`, one image).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import timm
import torch
from timm.utils import AttentionExtract
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

import machine
from siftlens.attention import LayerReading, find_layout, observe
from siftlens.attention.calls import EagerCall
from siftlens.attention.weights import KeyWeights, mean_squared_distance
from siftlens.core import TokenLayout
from siftlens.interrelation.channels import MapBatch, map_batch
from siftlens.interrelation.nulls import Pool
from siftlens.interrelation.statistics import LayerRecord, layer_record

SEED = 0


@dataclass(frozen=True)
class Setting:
    """A model and a batch of images."""

    timm_name: str
    pixels: int
    patch: int
    batch: int


SETTINGS = {
    "b16-224": Setting("vit_base_patch16_224", 224, 16, 8),
    "b16-512": Setting("vit_base_patch16_224", 512, 16, 2),
    "b14-518": Setting("vit_base_patch14_dinov2", 518, 14, 2),
}


@dataclass(frozen=True)
class Work:
    """What all arms of a setting share."""

    images: Tensor
    maps: MapBatch
    layout: TokenLayout


def prepare(setting: Setting, model: nn.Module, batch: int | None = None, dtype: torch.dtype = torch.float32) -> Work:
    """Random images and random maps: the cost does not depend on their content."""
    batch = batch or setting.batch
    rng = np.random.default_rng(SEED)
    images = torch.from_numpy(rng.standard_normal((batch, 3, setting.pixels, setting.pixels))).to(dtype)
    layout = find_layout(model, images)
    rows, cols = layout.grid.rows, layout.grid.cols
    counts = rng.poisson(2, (batch, rows, cols))
    names = tuple(map(str, range(64)))
    maps = map_batch(
        [f"image {index}" for index in range(batch)],
        np.log1p(counts).astype(np.float32),
        np.digitize(counts, [1, 2, 4, 8]),
        rng.standard_normal((batch, 4, rows, cols)).astype(np.float32),
        Pool(z=rng.standard_normal((64, rows, cols)).astype(np.float32), contents=names, identities=names),
        seed=SEED,
    )
    maps = replace(maps, channels=maps.channels.to(dtype), residual=maps.residual.to(dtype))
    return Work(images, maps, layout)


def timm_model(setting: Setting, fused: bool = True) -> nn.Module:
    torch.manual_seed(SEED)
    model = timm.create_model(setting.timm_name, pretrained=False, img_size=setting.pixels).eval()
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model


def hf_model(setting: Setting) -> nn.Module:
    torch.manual_seed(SEED)
    size = {"image_size": setting.pixels, "patch_size": setting.patch, "attn_implementation": "eager"}
    if "dinov2" in setting.timm_name:
        return Dinov2Model(Dinov2Config(**size)).eval()
    return ViTModel(ViTConfig(**size), add_pooling_layer=False).eval()


def from_map(attention: Tensor, work: Work, weights: KeyWeights, entropy: bool) -> LayerRecord:
    """All statistics of one layer from its attention, built by whoever built it."""
    call = EagerCall(attention, attention, attention)
    carried = weights.apply(call)
    reading = LayerReading(
        "",
        carried.values,
        carried.prefix_mass,
        mean_squared_distance(carried, work.layout),
        call.entropy() if entropy else None,
        call.backend,
    )
    return layer_record(reading, work.maps, work.layout)


def plain(setting: Setting) -> tuple[Work, Callable[[], Any]]:
    model = timm_model(setting)
    work = prepare(setting, model)
    return work, lambda: model(work.images)


def siftlens(setting: Setting, entropy: bool = False) -> tuple[Work, Callable[[], Any]]:
    model = timm_model(setting)
    work = prepare(setting, model)
    return work, lambda: read_siftlens(model, work, entropy)


def read_siftlens(model: nn.Module, work: Work, entropy: bool) -> list[LayerRecord]:
    records: list[LayerRecord] = []

    def keep(_: int, reading: LayerReading) -> None:
        records.append(layer_record(reading, work.maps, work.layout))

    with observe(model, work.maps.channels, grid=work.layout, entropy=entropy, on_layer=keep):
        model(work.images)
    return records


def layer_by_layer(setting: Setting, entropy: bool = False) -> tuple[Work, Callable[[], Any]]:
    """The fair baseline: build A, reduce it, drop it, one layer after the other."""
    model = timm_model(setting)
    work = prepare(setting, model)
    return work, lambda: read_layer_by_layer(model, work, entropy)


def read_layer_by_layer(model: nn.Module, work: Work, entropy: bool) -> list[LayerRecord]:
    records = []
    weights = KeyWeights(work.maps.channels, work.layout)
    fused = F.scaled_dot_product_attention

    def eager(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        attention = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        records.append(from_map(attention, work, weights, entropy))
        return attention @ value

    F.scaled_dot_product_attention = eager
    try:
        model(work.images)
    finally:
        F.scaled_dot_product_attention = fused
    return records


def timm_extract(setting: Setting) -> tuple[Work, Callable[[], Any]]:
    model = timm_model(setting, fused=False)
    work = prepare(setting, model)
    extract = AttentionExtract(model, method="hook")
    weights = KeyWeights(work.maps.channels, work.layout)
    return work, lambda: [from_map(attention, work, weights, True) for attention in extract(work.images).values()]


def hf_output_attentions(setting: Setting) -> tuple[Work, Callable[[], Any]]:
    model = hf_model(setting)
    work = prepare(setting, model)
    weights = KeyWeights(work.maps.channels, work.layout)

    def run() -> list[LayerRecord]:
        attentions = model(work.images, output_attentions=True).attentions
        return [from_map(attention, work, weights, True) for attention in attentions]

    return work, run


ARMS: dict[str, Callable[[Setting], tuple[Work, Callable[[], Any]]]] = {
    "plain forward pass": plain,
    "siftlens": siftlens,
    "siftlens, with entropy": lambda setting: siftlens(setting, entropy=True),
    "layer by layer": layer_by_layer,
    "layer by layer, with entropy": lambda setting: layer_by_layer(setting, entropy=True),
    "timm AttentionExtract, with entropy": timm_extract,
    "transformers output_attentions, with entropy": hf_output_attentions,
}


def memory_of(setting: Setting, arm: str) -> float:
    """Peak memory of one arm above its loaded model, MB; run in a fresh process."""
    _, run = ARMS[arm](setting)
    before = machine.memory_mb("VmRSS")
    machine.reset_peak_memory()
    run()
    return machine.memory_mb("VmHWM") - before


def memory_in_fresh_process(setting: str, arm: str) -> float:
    command = [sys.executable, __file__, "--memory", setting, arm]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def largest_errors(setting: Setting) -> dict[str, float]:
    """Largest difference of any statistic of any layer from the float64 model, one image."""
    wide = timm_model(setting).double()
    truth = read_layer_by_layer(wide, prepare(setting, wide, 1, torch.float64), entropy=True)
    model = timm_model(setting)
    work = prepare(setting, model, 1)

    def worst(records: list[LayerRecord]) -> dict[str, float]:
        pairs = list(zip(records, truth, strict=True))
        parts = {"tested": 0.0, "described": 0.0}
        for name in parts:
            parts[name] = max(
                ((getattr(a, name) - getattr(b, name)).abs() / getattr(b, name).abs().clamp_min(1)).max().item()
                for a, b in pairs
            )
        return parts

    return {
        "siftlens": worst(read_siftlens(model, work, entropy=True)),
        "layer by layer": worst(read_layer_by_layer(model, work, entropy=True)),
    }


def measure(name: str, rounds: int) -> dict[str, Any]:
    setting = SETTINGS[name]
    speed = machine.ratios(
        machine.take_turns({arm: build(setting)[1] for arm, build in ARMS.items()}, rounds), "plain forward pass"
    )
    memory = {arm: memory_in_fresh_process(name, arm) for arm in ARMS}
    for arm, row in speed.items():
        row["images_per_second"] = round(setting.batch / row["seconds"], 2)
        row["peak_memory_mb"] = round(memory[arm], 1)
        row["memory_ratio"] = round(memory[arm] / memory["plain forward pass"], 3)
    return {
        "model": setting.timm_name,
        "pixels": setting.pixels,
        "batch": setting.batch,
        "tokens": int((setting.pixels // setting.patch) ** 2 + 1),
        "rounds": rounds,
        "arms": speed,
        "largest_error": largest_errors(setting),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="only this setting; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs=2, metavar=("SETTING", "ARM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with torch.no_grad():
        if options.memory:
            print(json.dumps(memory_of(SETTINGS[options.memory[0]], options.memory[1])))
            return
        results = {}
        for name in options.setting or SETTINGS:
            results[name] = measure(name, options.rounds)
            for arm, row in results[name]["arms"].items():
                print(
                    f"{name}  {arm:46} {row['images_per_second']:6.2f} images/s  {row['ratio']:5.2f}x time"
                    f"  {row['peak_memory_mb']:7.1f} MB  {row['memory_ratio']:5.2f}x memory"
                )
    print(machine.save_result("attention", {"seed": SEED, "channels": 58, "settings": results}))


if __name__ == "__main__":
    main()
