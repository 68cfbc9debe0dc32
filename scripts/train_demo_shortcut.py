"""Train the very small vision transformer that ships as `demo-shortcut`, on one CPU core, in a minute or two.

Usage: python scripts/train_demo_shortcut.py --out src/siftlens/models/weights/demo-shortcut.safetensors

It is taught to tell drawn ellipses from stars first, on images without any artefact, and then on images in which a
glyph stands beside 95 % of the stars and 5 % of the ellipses. Every image is new. At the end the float16 weights are
written, and held-out images classified in each of the four groups of class and glyph.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from siftlens.data import DrawnMaterial, Planted, PlantedImage, atomic_path
from siftlens.models.demo_shortcut import SHORTCUT_SIZE, shortcut_architecture

PLANTED = Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=SHORTCUT_SIZE)
STAGES = ((replace(PLANTED, cue="scene"), "balanced", 16384), (PLANTED, "biased", 6144))
BATCH = 64
RATE, WARM_UP, DECAY = 2e-3, 0.1, 0.05  # warm-up as a share of the steps of a stage
TESTED = 2000  # held-out images


def to_input(images: list[PlantedImage]) -> Tensor:
    """Pixels in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train(model: VisionTransformer, planted: Planted, split: str, count: int) -> None:
    """One pass over the first images of a split."""
    model.train()
    stepper = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps, images = count // BATCH, planted.split(split, count)
    for step in range(steps):
        done = step / steps
        stepper.param_groups[0]["lr"] = RATE * min((done + 1 / steps) / WARM_UP, 1, (1 - done) / (1 - WARM_UP))
        batch = images[step * BATCH : (step + 1) * BATCH]
        loss = F.cross_entropy(model(to_input(batch)), torch.tensor([image.label for image in batch]))
        loss.backward()
        stepper.step()
        stepper.zero_grad()
        if (step + 1) % 32 == 0:
            print(f"{split} {(step + 1) * BATCH}/{count} loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def right_by_group(model: VisionTransformer, planted: Planted) -> list[float]:
    """Share of right answers for: ellipse, ellipse with the glyph, star, star with the glyph."""
    images, hits = planted.split("test", TESTED), [[], [], [], []]
    for start in range(0, TESTED, BATCH):
        batch = images[start : start + BATCH]
        for image, answer in zip(batch, model(to_input(batch)).argmax(1).tolist(), strict=True):
            hits[image.group].append(answer == image.label)
    return [round(float(np.mean(group)), 3) for group in hits]


def main() -> None:
    """Train, write the weights, test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the float16 safetensors go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    model, start = shortcut_architecture(), time.perf_counter()
    for planted, split, count in STAGES:
        train(model, replace(planted, seed=arguments.seed), split, count)
    shipped = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(arguments.out) as path:
        save_file(shipped, path)
    print(f"{time.perf_counter() - start:.0f} s, {arguments.out.stat().st_size} bytes")
    model.load_state_dict(shipped)
    groups = right_by_group(model.eval(), replace(PLANTED, seed=arguments.seed))
    print("right: ellipse {}, ellipse with glyph {}, star {}, star with glyph {}".format(*groups))


if __name__ == "__main__":
    main()
