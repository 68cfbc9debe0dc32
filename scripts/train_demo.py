"""Train the small vision transformer that ships as the `demo` model, on one CPU core, in about an hour.

Usage: python scripts/train_demo.py --data ../shared/data/imagenette-128 --work /tmp/demo --out demo.safetensors

DATA holds train/<class>/*.jpg and val/<class>/*.jpg, 128 x 128 px. First images are shrunk to 64 px (64 tokens), then
they are seen at 128 px (256 tokens) with half of the patches dropped; position embeddings are interpolated in between.
Matrices inside the blocks are stepped by Muon, everything else by AdamW, under one warm-up and one cosine.

After each epoch WORK gets `state.pt`, from which the same command resumes to the same end, and `epoch_NN.safetensors`,
what that epoch would ship. At the end the float16 weights are written to OUT and every val image is classified.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from safetensors.torch import save_file
from timm.layers import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from siftlens.data import atomic_path
from siftlens.models.demo import DEMO_CLASSES, DEMO_NORMALIZATION, DEMO_SIZE, demo_architecture


class Stage(NamedTuple):
    """Epochs at one input size, px, with a share of the patches dropped, and the smallest crop's share of the area."""

    epochs: int
    size: int
    dropped: float
    smallest_crop: float


STAGES = (Stage(10, 64, 0.0, 0.3), Stage(3, DEMO_SIZE, 0.5, 0.3))
EPOCHS = sum(stage.epochs for stage in STAGES)
BATCH = 64
MUON_RATE, ADAM_RATE, WARM_UP = 2.5e-3, 1e-3, 0.04  # warm-up as a share of all steps
COLOUR_SHIFTS = ((1, 0.2), (1, 0.2), (3, 0.1))  # channels and limit of contrast, brightness and tint


def read_split(folder: Path) -> tuple[UInt8[Tensor, "image 3 height width"], Int64[Tensor, " image"]]:
    """Decode every image of one split into memory, classes in the order of `DEMO_CLASSES`."""
    pixels, labels = [], []
    for label, name in enumerate(DEMO_CLASSES):
        for path in sorted((folder / name).glob("*.jpg")):
            pixels.append(np.asarray(Image.open(path).convert("RGB")))
            labels.append(label)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def normalize(pixels: UInt8[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3 height width"]:
    """Scale bytes to [0, 1], then subtract the model's mean and divide by its standard deviation."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DEMO_NORMALIZATION.mean, DEMO_NORMALIZATION.std))
    return (pixels / 255 - mean) / std


def augment(
    pixels: UInt8[Tensor, "image 3 height width"], stage: Stage, random: np.random.Generator
) -> Float[Tensor, "image 3 size size"]:
    """Crop each image at random, resize it to the stage's size, flip half, shift brightness and contrast mildly."""
    views = []
    for image in pixels:
        area, ratio = random.uniform(stage.smallest_crop, 1), math.exp(random.uniform(-0.25, 0.25))
        height = min(DEMO_SIZE, round(DEMO_SIZE * math.sqrt(area * ratio)))
        width = min(DEMO_SIZE, round(DEMO_SIZE * math.sqrt(area / ratio)))
        top, left = random.integers(DEMO_SIZE - height + 1), random.integers(DEMO_SIZE - width + 1)
        view = image[None, :, top : top + height, left : left + width]
        view = F.interpolate(view, (stage.size, stage.size), mode="bilinear", antialias=True)
        views.append(view.flip(3) if random.random() < 0.5 else view)
    x = normalize(torch.cat(views))
    contrast, brightness, tint = (random.uniform(-limit, limit, (len(x), n, 1, 1)) for n, limit in COLOUR_SHIFTS)
    return (x * torch.from_numpy(1 + contrast) + torch.from_numpy(brightness + tint)).float()


def optimizers(model: VisionTransformer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks; AdamW for embeddings, head, norms and biases."""
    inside = {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    matrices = [p for name, p in model.named_parameters() if name in inside]
    others = [p for name, p in model.named_parameters() if name not in inside]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.02),
    ]


def rate_at(progress: float) -> float:
    """Share of the full learning rate after a share of all steps: linear warm-up, then a cosine to zero."""
    return min(progress / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * progress))


def stage_of(epoch: int) -> Stage:
    """The stage that an epoch, counted from 0, belongs to."""
    plan = [stage for stage in STAGES for _ in range(stage.epochs)]
    return plan[epoch]


def set_stage(model: VisionTransformer, stage: Stage) -> None:
    """Give the model the stage's input size (its position embedding is interpolated) and patch dropout."""
    model.set_input_size(img_size=stage.size)
    model.patch_drop = PatchDropout(stage.dropped, num_prefix_tokens=1) if stage.dropped else torch.nn.Identity()


def shipped(model: VisionTransformer) -> dict[str, Tensor]:
    """Copy the weights as they would ship: at the final input size, float16."""
    copy = demo_architecture(model.patch_embed.img_size[0])
    copy.load_state_dict(model.state_dict())
    copy.set_input_size(img_size=DEMO_SIZE)
    return {name: value.half().contiguous() for name, value in copy.state_dict().items()}


@torch.no_grad()
def top1(model: VisionTransformer, pixels: Tensor, labels: Tensor) -> float:
    """Share of images whose highest logit is their class."""
    model.eval()
    hits = [(model(normalize(p)).argmax(1) == y).sum() for p, y in zip(pixels.split(64), labels.split(64), strict=True)]
    return float(sum(hits)) / len(labels)


def train_epoch(
    model: VisionTransformer,
    steppers: list[torch.optim.Optimizer],
    images: UInt8[Tensor, "image 3 height width"],
    labels: Int64[Tensor, " image"],
    epoch: int,
    seed: int,
) -> tuple[float, float]:
    """One pass over the shuffled images in full batches; returns mean loss and accuracy on the augmented views."""
    random = np.random.default_rng([seed, epoch])  # seeded per epoch, so that resuming needs no generator state
    torch.manual_seed(int(random.integers(2**31)))  # patch dropout
    stage, losses, hits = stage_of(epoch), [], []
    order = [part for part in torch.from_numpy(random.permutation(len(images))).split(BATCH) if len(part) == BATCH]
    model.train()
    for step, part in enumerate(order):
        rate = rate_at((epoch + step / len(order)) / EPOCHS)
        for stepper, full in zip(steppers, (MUON_RATE, ADAM_RATE), strict=True):
            stepper.param_groups[0]["lr"] = full * rate
        x, y = augment(images[part], stage, random), labels[part]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=0.1)
        loss.backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        losses.append(loss.item())
        hits.append((logits.argmax(1) == y).float().mean().item())
    return float(np.mean(losses)), float(np.mean(hits))


def main() -> None:
    """Train, evaluate and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/<class>/*.jpg and val/<class>/*.jpg"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the state and the weights of each epoch")
    parser.add_argument("--out", type=Path, required=True, help="where the final float16 safetensors go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    state_file = arguments.work / "state.pt"

    torch.manual_seed(arguments.seed)
    model = demo_architecture(STAGES[0].size)
    for block in model.blocks:
        block.attn.fused_attn = False  # the CPU's fused backward pass is slow in bfloat16: 81 images/s against 141
    images, labels = read_split(arguments.data / "train")
    first = 0
    state = torch.load(state_file, weights_only=True) if state_file.exists() else None
    if state:
        first = state["epoch"] + 1
        set_stage(model, stage_of(state["epoch"]))
        model.load_state_dict(state["model"])
    steppers = optimizers(model)
    if state:
        for stepper, saved in zip(steppers, state["steppers"], strict=True):
            stepper.load_state_dict(saved)
    for epoch in range(first, EPOCHS):
        stage, start = stage_of(epoch), time.perf_counter()
        if epoch and stage is not stage_of(epoch - 1):
            set_stage(model, stage)
            steppers[1:] = optimizers(model)[1:]  # the position embedding is a new, larger parameter
        loss, accuracy = train_epoch(model, steppers, images, labels, epoch, arguments.seed)
        seconds = time.perf_counter() - start
        state = {"epoch": epoch, "model": model.state_dict(), "steppers": [s.state_dict() for s in steppers]}
        with atomic_path(state_file) as path:
            torch.save(state, path)
        with atomic_path(arguments.work / f"epoch_{epoch + 1:02d}.safetensors") as path:
            save_file(shipped(model), path)
        print(
            f"epoch {epoch + 1}/{EPOCHS} {stage.size} px loss {loss:.3f} top-1 of augmented views {accuracy:.3f} "
            f"{len(images) / seconds:.0f} images/s {seconds:.0f} s",
            flush=True,
        )
    weights = shipped(model)
    with atomic_path(arguments.out) as path:
        save_file(weights, path)
    model = demo_architecture()
    model.load_state_dict(weights)
    print(f"val top-1 {top1(model, *read_split(arguments.data / 'val')):.4f}")


if __name__ == "__main__":
    main()
