"""How the cost of reading grows with channels, pixels and heads: time as a ratio to the plain forward pass.

    python benchmarks/scaling.py            about 8 minutes on 2 cores

Reading alone, without the statistics, so that the number of channels can be anything. Random weights: the cost does
not depend on them.
"""

import argparse
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

import machine
from siftlens.attention import find_layout, observe

CHANNELS = (1, 8, 32, 58, 64, 128, 192, 256)
PIXELS = {224: 8, 384: 3, 512: 2, 640: 1}  # by batch size, so that a step takes about as long
HEADS = (3, 6, 12, 24)


def vit(pixels: int = 224, heads: int = 12) -> nn.Module:
    """A ViT-B/16 of four blocks: the ratio of reading to running is that of twelve."""
    torch.manual_seed(0)
    return timm.create_model("vit_base_patch16_224", img_size=pixels, num_heads=heads, depth=4).eval()


def reading(model: nn.Module, images: Tensor, channels: int, entropy: bool = False) -> Callable[[], Any]:
    layout = find_layout(model, images)
    weights = torch.randn(len(images), layout.grid.patches, channels)

    def run() -> None:
        with observe(model, weights, grid=layout, entropy=entropy, on_layer=lambda *_: None):
            model(images)

    return run


def compare(model: nn.Module, images: Tensor, arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Ratio of each arm to the plain forward pass."""
    seconds = machine.take_turns({"plain": lambda: model(images), **arms}, rounds)
    return machine.ratios(seconds, "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with torch.no_grad():
        model, images = vit(), torch.randn(8, 3, 224, 224)
        arms = {str(count): reading(model, images, count) for count in CHANNELS}
        result: dict[str, Any] = {"channels": compare(model, images, arms, rounds)}
        for axis, values in {"pixels": PIXELS, "heads": HEADS}.items():
            result[axis] = {}
            for value in values:
                pixels, heads, batch = (value, 12, PIXELS[value]) if axis == "pixels" else (224, value, 8)
                model, images = vit(pixels, heads), torch.randn(batch, 3, pixels, pixels)
                arms = {"58 channels": reading(model, images, 58), "with entropy": reading(model, images, 58, True)}
                result[axis][value] = compare(model, images, arms, rounds)
    for axis, table in result.items():
        for value, row in table.items():
            print(axis, value, row)
    print(machine.save_result("scaling", {"model": "ViT-B/16, 4 blocks", "rounds": rounds, **result}))


if __name__ == "__main__":
    main()
