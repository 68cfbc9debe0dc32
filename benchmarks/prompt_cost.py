"""What a prompt costs: each policy against the plain forward pass, and the maps by themselves.

    python benchmarks/prompt_cost.py                   ViT-B/16 at 224 px, 8 images, float32 on the CPU
    python benchmarks/prompt_cost.py --device cuda     bfloat16, 64 images

Then a small model with one small image, the dearest case: what a context costs by itself weighs most there.

The arms take turns within one process; the figure is the median over rounds of the ratio to the plain forward pass.
Trial runs, which a context makes once for a model and an input size, are timed apart; so are maps, by image.
Two published alternatives are written plainly beside them: early pixel masking, as a product with a mask, and FALIP's
foveal mask, (batch, 1, token, token), which biases the class token's rows.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import machine
from siftlens.core import PatchGrid
from siftlens.prompting import Bias, Contrast, Mixture, PixelMask, Plan, Policy, TokenChoice, mixed_maps, prompt
from siftlens.prompting.plan import plan_of

POLICIES = {
    "bias": Policy(bias=(Bias(3.0),)),
    "bias, one head in each layer": Policy(bias=(Bias(3.0, layers=range(12), heads=(0,)),)),
    "tokens 3/4": Policy(tokens=TokenChoice(0.75)),
    "tokens 1/2": Policy(tokens=TokenChoice(0.5)),
    "tokens 1/4": Policy(tokens=TokenChoice(0.25)),
    "contrast, view 1/4": Policy(contrast=Contrast(0.5, view=0.25)),
    "contrast, view 3/4": Policy(contrast=Contrast(0.5, view=0.75)),
    "contrast, view 1": Policy(contrast=Contrast(0.5, view=1.0)),
    "bias, contrast, view 1": Policy(bias=(Bias(3.0),), contrast=Contrast(0.5, view=1.0)),
    "pixel mask": Policy(pixels=PixelMask(0.5)),
}


SETTINGS = {  # model, pixels, batch, and how many times the rounds: a short pass needs more
    "cpu": [("vit_base_patch16_224", 224, 8, 1), ("vit_tiny_patch16_224", 64, 1, 20)],
    "cuda": [("vit_base_patch16_224", 224, 64, 1), ("vit_tiny_patch16_224", 64, 1, 20)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    result: dict[str, Any] = {"seed": 0, "rounds": options.rounds}
    result["settings"] = [
        measure(model, size, batch, options.device, rounds * options.rounds)
        for model, size, batch, rounds in SETTINGS[options.device]
    ]
    result["maps_ms_per_image"] = map_costs()
    print(machine.save_result(f"prompt-cost-{options.device}", result))


def measure(name: str, size: int, batch: int, device: str, rounds: int) -> dict[str, Any]:
    """Every arm on one model, against its plain forward pass."""
    cuda = device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=size).eval().to(device, dtype)
    x = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
    start = time.perf_counter()
    plan = plan_of(model, (x,), {})
    trials = time.perf_counter() - start
    _ = plan.access
    maps = torch.rand(batch, plan.layout.grid.patches, device=device)
    arms: dict[str, Callable[[], Any]] = {"plain forward pass": lambda: model(x)}
    arms |= {name: under(model, policy, x, maps) for name, policy in POLICIES.items()}
    arms["early pixel mask, written plainly"] = lambda: model(x * kept_pixels(maps, plan))
    arms["foveal mask, written plainly"] = lambda: foveal(model, x, maps, plan)
    with torch.no_grad():
        speed = machine.ratios(
            machine.take_turns({name: finished(arm, cuda) for name, arm in arms.items()}, rounds),
            "plain forward pass",
        )
    print(f"{name}, {size} px, batch {batch}")
    for arm, row in speed.items():
        print(f"{arm:32} {row['ratio']:5.2f}x [{row['lowest']:.2f}, {row['highest']:.2f}]")
    result = {"model": name, "pixels": size, "batch": batch, "dtype": str(dtype), "rounds": rounds, "arms": speed}
    return {**result, "trial_runs_seconds": round(trials, 3)}


def under(model: nn.Module, policy: Policy, x: Tensor, maps: Tensor) -> Callable[[], Any]:
    """A forward pass under a policy."""

    def run() -> None:
        with prompt(model, policy, maps):
            model(x)

    return run


def kept_pixels(maps: Tensor, plan: Plan) -> Tensor:
    """Ones on the better half of the patches, zeros on the others, (batch, 1, height, width)."""
    grid = plan.layout.grid
    kept = (maps > maps.median(dim=1, keepdim=True).values).to(maps.dtype).view(-1, 1, grid.rows, grid.cols)
    return kept.repeat_interleave(grid.patch_height, 2).repeat_interleave(grid.patch_width, 3)


def foveal(model: nn.Module, x: Tensor, maps: Tensor, plan: Plan) -> None:
    """A mask of all queries by all keys, put in by a patched function."""
    tokens, fused = plan.layout.tokens, F.scaled_dot_product_attention
    mask = x.new_zeros(len(x), 1, tokens, tokens)
    mask[:, :, : plan.layout.class_tokens, plan.layout.prefix :] = 3 * maps[:, None, None].to(x.dtype)

    def masked(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        return fused(query, key, value, attn_mask=mask)

    F.scaled_dot_product_attention = masked
    try:
        model(x)
    finally:
        F.scaled_dot_product_attention = fused


def finished(arm: Callable[[], Any], cuda: bool) -> Callable[[], Any]:
    """The arm, until its device has finished."""

    def run() -> None:
        arm()
        if cuda:
            torch.cuda.synchronize()

    return run


def map_costs() -> dict[str, float]:
    """Milliseconds for the map of one image of 224 px with many keypoints, on the CPU."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (16, 28, 28, 3), np.uint8)
    images = list(coarse.repeat(8, axis=1).repeat(8, axis=2))
    costs, grid = {}, PatchGrid(14, 14, 16, 16)
    for name in ("keypoints", "gradient", "centre"):
        mixture = Mixture(**{name: 1.0})
        mixed_maps(images[:2], grid, mixture)
        start = time.perf_counter()
        mixed_maps(images, grid, mixture)
        costs[name] = round(1000 * (time.perf_counter() - start) / len(images), 2)
    return costs


if __name__ == "__main__":
    main()
