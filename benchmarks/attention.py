"""Speed, memory and error of reading attention, side by side with other ways to the same statistics.

Every arm but the plain forward pass computes all statistics of every layer and head for the same 59 channels.

    python benchmarks/attention.py                      all settings, about 25 minutes on 2 cores
    python benchmarks/attention.py --setting b16-224    this one again, the others stay as they were measured
    python benchmarks/attention.py --rounds 0           memory alone, times stay as they were measured
    python benchmarks/attention.py --error              errors instead, a few minutes
    python benchmarks/attention.py --device cuda        bfloat16, batches of 32, also 1024 px

Speed: the arms take turns within one process; the median over rounds of the ratio to the plain forward pass.
Memory: each arm alone in a fresh process, peak resident memory of a second pass above the
loaded model. "live": what is freed goes back to the system at once (MALLOC_MMAP_THRESHOLD_ fixed), so that the peak
is what was needed at one time. "resident": the allocator as it comes, which keeps some of what was freed, now more
and now less: the median of three processes. "process": the same peak, of the whole process with the model.
Error: the largest difference of any statistic from the same model in float64, for one image.
"""

import argparse
import json
import math
import os
import statistics
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
from siftlens.attention.weights import OWN_CHANNELS, KeyWeights
from siftlens.core import TokenLayout
from siftlens.interrelation.channels import MapBatch, map_batch
from siftlens.interrelation.nulls import Pool
from siftlens.interrelation.statistics import LayerRecord, layer_record

SEED = 0
RESIDENT_REPEATS = 3


@dataclass(frozen=True)
class Setting:
    """A model and a batch of images."""

    timm_name: str
    pixels: int
    patch: int
    batch: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


SETTINGS = {
    "b16-224": Setting("vit_base_patch16_224", 224, 16, 8),
    "b16-512": Setting("vit_base_patch16_224", 512, 16, 2),
    "b14-518": Setting("vit_base_patch14_dinov2", 518, 14, 2),
}
GPU_SETTINGS = {
    f"{name}-cuda": replace(setting, batch=32, device="cuda", dtype=torch.bfloat16)
    for name, setting in (SETTINGS | {"b16-1024": Setting("vit_base_patch16_224", 1024, 16, 32)}).items()
}
ALL_SETTINGS = SETTINGS | GPU_SETTINGS


@dataclass(frozen=True)
class Work:
    """What all arms of a setting share."""

    images: Tensor
    maps: MapBatch
    layout: TokenLayout


def prepare(setting: Setting, model: nn.Module) -> Work:
    """Random images and random maps: the cost does not depend on their content."""
    batch = setting.batch
    rng = np.random.default_rng(SEED)
    pixels = rng.standard_normal((batch, 3, setting.pixels, setting.pixels))
    images = torch.from_numpy(pixels).to(setting.device, setting.dtype)
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
        device=setting.device,
    )
    if setting.dtype == torch.float64:
        maps = replace(maps, channels=maps.channels.double(), residual=maps.residual.double())
    return Work(images, maps, layout)


def timm_model(setting: Setting, fused: bool = True) -> nn.Module:
    torch.manual_seed(SEED)
    model = timm.create_model(setting.timm_name, pretrained=False, img_size=setting.pixels).eval()
    for block in model.blocks:
        block.attn.fused_attn = fused
        block.attn.qkv.weight.data.mul_(3)  # random attention is all but uniform, and errors hide in that
    return model.to(setting.device, setting.dtype)


def hf_model(setting: Setting, attention: str = "eager") -> nn.Module:
    torch.manual_seed(SEED)
    size = {"image_size": setting.pixels, "patch_size": setting.patch, "attn_implementation": attention}
    if "dinov2" in setting.timm_name:
        model: nn.Module = Dinov2Model(Dinov2Config(**size))
    else:
        model = ViTModel(ViTConfig(**size), add_pooling_layer=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("query.weight", "key.weight", "value.weight")):
                weight.mul_(3)  # as above
    return model.eval().to(setting.device, setting.dtype)


def from_map(attention: Tensor, work: Work, weights: KeyWeights, entropy: bool) -> LayerRecord:
    """All statistics of one layer from its attention, built by whoever built it."""
    call = EagerCall(attention, attention)
    carried = weights.apply(call, entropy=entropy)
    reading = LayerReading(
        "",
        carried.values,
        carried.prefix_mass,
        weights.mean_squared_distance(carried),
        carried.entropy,
        call.backend,
    )
    return layer_record(reading, work.maps, work.layout)


def plain(setting: Setting) -> tuple[Work, Callable[[], Any]]:
    model, work = model_and_work(setting)
    return work, lambda: model(work.images)


def siftlens(setting: Setting, entropy: bool = False) -> tuple[Work, Callable[[], Any]]:
    model, work = model_and_work(setting)
    return work, lambda: read_siftlens(model, work, entropy)


def read_siftlens(model: nn.Module, work: Work, entropy: bool) -> list[LayerRecord]:
    records: list[LayerRecord] = []

    def keep(reading: LayerReading) -> None:
        records.append(layer_record(reading, work.maps, work.layout))

    with observe(model, work.maps.channels, grid=work.layout, entropy=entropy, on_layer=keep):
        model(work.images)
    return records


def layer_by_layer(setting: Setting, entropy: bool = False, untouched: bool = False) -> tuple[Work, Callable[[], Any]]:
    """The fair baseline: build A, reduce it, drop it, one layer after the other."""
    model, work = model_and_work(setting)
    return work, lambda: read_layer_by_layer(model, work, entropy, untouched)


def read_layer_by_layer(model: nn.Module, work: Work, entropy: bool, untouched: bool = False) -> list[LayerRecord]:
    """Untouched, the model's output stays its own to the last bit, as siftlens leaves it; else it is made of A."""
    records = []
    weights = KeyWeights(work.maps.channels, work.layout)
    fused = F.scaled_dot_product_attention

    def eager(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        attention = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        records.append(from_map(attention, work, weights, entropy))
        return fused(query, key, value, **given) if untouched else attention @ value

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


PLAIN = "plain forward pass"
ARMS: dict[str, Callable[[Setting], tuple[Work, Callable[[], Any]]]] = {
    PLAIN: plain,
    "siftlens": siftlens,
    "siftlens, with entropy": lambda setting: siftlens(setting, entropy=True),
    "layer by layer": layer_by_layer,
    "layer by layer, with entropy": lambda setting: layer_by_layer(setting, entropy=True),
    "layer by layer, output untouched": lambda setting: layer_by_layer(setting, untouched=True),
    "layer by layer, output untouched, with entropy": lambda setting: layer_by_layer(setting, True, True),
    "timm AttentionExtract, with entropy": timm_extract,
    "transformers output_attentions, with entropy": hf_output_attentions,
}


def memory_of(setting: Setting, arm: str) -> tuple[float, float]:
    """Peak memory of one arm above its loaded model, and of the whole process, MB, on the device."""
    _, run = ARMS[arm](setting)
    run()  # libraries claim their own buffers once
    if setting.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = torch.cuda.max_memory_allocated()
        return (peak - before) / 2**20, peak / 2**20
    machine.reset_peak_memory()
    resident = machine.memory_mb("VmRSS")
    run()
    peak = machine.memory_mb("VmHWM")
    return peak - resident, peak


def memory_in_fresh_process(setting: str, arm: str, **environment: str) -> tuple[float, float]:
    """As `memory_of`; infinite where an arm does not fit."""
    command = [sys.executable, __file__, "--memory", setting, arm]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if "OutOfMemoryError" in done.stderr:
        return math.inf, math.inf
    done.check_returncode()
    above, whole = json.loads(done.stdout)
    return above, whole


def memory_ratios(setting: str) -> dict[str, dict[str, float]]:
    """Memory of all arms, and against the plain forward pass."""
    live = {arm: memory_in_fresh_process(setting, arm, MALLOC_MMAP_THRESHOLD_="131072")[0] for arm in ARMS}
    as_it_comes = {arm: [memory_in_fresh_process(setting, arm) for _ in range(RESIDENT_REPEATS)] for arm in ARMS}
    resident = {arm: statistics.median(above for above, _ in each) for arm, each in as_it_comes.items()}
    process = {arm: statistics.median(whole for _, whole in each) for arm, each in as_it_comes.items()}
    return {
        arm: {
            "peak_memory_mb": round(live[arm], 1),
            "memory_ratio": round(live[arm] / live[PLAIN], 3),
            "resident_ratio": round(resident[arm] / resident[PLAIN], 3),
            "process_mb": round(process[arm], 1),
            "process_ratio": round(process[arm] / process[PLAIN], 3),
        }
        for arm in ARMS
    }


def largest_errors(setting: Setting) -> dict[str, float]:
    """Largest difference of any statistic of any layer from the same model in float64, for one image."""
    one = replace(setting, batch=1)
    exact = replace(one, dtype=torch.float64)
    truth = read_layer_by_layer(*model_and_work(exact), entropy=True)
    arms = {"siftlens": read_siftlens, "layer by layer": read_layer_by_layer}
    errors = {name: worst(read(*model_and_work(one), entropy=True), truth) for name, read in arms.items()}
    errors["timm AttentionExtract"] = worst(timm_extract(one)[1](), truth)
    # Not of its own eager attention, whose softmax is in float32 whatever it is given.
    theirs = hf_model(exact, "sdpa")
    truth = read_layer_by_layer(theirs, prepare(exact, theirs), entropy=True)
    errors["transformers output_attentions"] = worst(hf_output_attentions(one)[1](), truth)
    return errors


def model_and_work(setting: Setting) -> tuple[nn.Module, Work]:
    model = timm_model(setting)
    return model, prepare(setting, model)


def worst(records: list[LayerRecord], truth: list[LayerRecord]) -> float:
    """Largest difference, as a share of the value where that is above one."""
    return max(
        ((getattr(a, name) - getattr(b, name)).abs() / getattr(b, name).abs().clamp_min(1)).max().item()
        for a, b in zip(records, truth, strict=True)
        for name in ("tested", "described")
    )


def timed(setting: Setting, run: Callable[[], Any]) -> Callable[[], Any]:
    """The arm, until its device has finished."""

    def finish() -> None:
        run()
        if setting.device == "cuda":
            torch.cuda.synchronize()

    return finish


def measure(name: str, rounds: int) -> dict[str, Any]:
    setting = ALL_SETTINGS[name]
    memory = memory_ratios(name)
    fit = [arm for arm, row in memory.items() if math.isfinite(row["peak_memory_mb"])]
    load = round(os.getloadavg()[0], 2)  # before the arms are timed, one after the other
    arms = {arm: timed(setting, ARMS[arm](setting)[1]) for arm in fit}
    speed = machine.ratios(machine.take_turns(arms, rounds), PLAIN)
    return {
        "model": setting.timm_name,
        "pixels": setting.pixels,
        "batch": setting.batch,
        "dtype": str(setting.dtype),
        "channels": plain(setting)[0].maps.channels.shape[-1] + OWN_CHANNELS,
        "tokens": (setting.pixels // setting.patch) ** 2 + 1,
        "rounds": rounds,
        "command": machine.command(),
        "load_before": load,
        "arms": {
            arm: row | {"images_per_second": round(setting.batch / row["seconds"], 2)} | memory[arm]
            for arm, row in speed.items()
        },
        "out_of_memory": [arm for arm in ARMS if arm not in fit],
    }


def remeasured(name: str, before: dict[str, Any]) -> dict[str, Any]:
    """An earlier result with its memory measured anew."""
    memory = memory_ratios(name)
    return before | {"arms": {arm: row | memory[arm] for arm, row in before["arms"].items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=ALL_SETTINGS, action="append", help="only this setting; may be repeated")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--error", action="store_true", help="measure errors instead of time and memory")
    parser.add_argument("--memory", nargs=2, metavar=("SETTING", "ARM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with torch.no_grad():
        if options.memory:
            print(json.dumps(memory_of(ALL_SETTINGS[options.memory[0]], options.memory[1])))
            return
        names = options.setting or list(SETTINGS if options.device == "cpu" else GPU_SETTINGS)
        if options.error:
            errors = {name: largest_errors(ALL_SETTINGS[name]) for name in names}
            print(machine.save_result(f"attention-error-{options.device}", {"seed": SEED, "settings": errors}))
            return
        saved = f"attention-{options.device}"
        results = {} if options.rounds and not options.setting else machine.load_result(saved)["settings"]
        for name in names:
            results[name] = measure(name, options.rounds) if options.rounds else remeasured(name, results[name])
            machine.save_result(saved, {"seed": SEED, "settings": results})
            for arm, row in results[name]["arms"].items():
                print(
                    f"{name}  {arm:46} {row['images_per_second']:6.2f} images/s  {row['ratio']:5.2f}x time"
                    f"  {row['memory_ratio']:5.2f}x live memory  {row['process_ratio']:5.2f}x of the process"
                )


if __name__ == "__main__":
    main()
