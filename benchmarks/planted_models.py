"""Small vision transformers trained on planted cues: a balanced stage first, then the biased one.

The balanced stage teaches the object, the biased one the shortcut: what comes out knows both, as models do that are
worth an audit.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from siftlens.data import DrawnMaterial, FolderMaterial, Material, Planted, PlantedImage, atomic_path

BATCH = 64
RATE = 2e-3
WARM_UP = 0.1  # share of the steps of a stage


@dataclass(frozen=True)
class Recipe:
    """How large the model is, and how many images each stage shows it.

    Args:
        patch: px.
        width: of the tokens.
        depth: blocks.
        balanced: images of the first stage, each shown once.
        biased: images of the second.
        shared: seeds that share a first stage: 5 lets 0 to 4 go on from the one of 0, 5 to 9 from that of 5.
    """

    patch: int = 8
    width: int = 96
    depth: int = 4
    balanced: int = 12288
    biased: int = 12288
    shared: int = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every study of these models asks for; `chosen` reads it."""
    parser.add_argument("--work", type=Path, default=Path("/tmp/audit-study"), help="folder for models")
    parser.add_argument("--cutouts", type=Path, help="CLASS/images and CLASS/masks; without, composites are drawn")
    parser.add_argument("--scenes", type=Path, help="SCENE/train and SCENE/test")
    parser.add_argument("--balanced", type=int, default=Recipe.balanced, help="images of the first stage")
    parser.add_argument("--biased", type=int, default=Recipe.biased, help="images of the second stage")
    parser.add_argument("--shared", type=int, default=Recipe.shared, help="seeds that share a first stage")


def chosen(options: argparse.Namespace) -> tuple[Material, Recipe]:
    """The images and the recipe that were asked for."""
    recipe = Recipe(balanced=options.balanced, biased=options.biased, shared=options.shared)
    return FolderMaterial(options.cutouts, options.scenes) if options.cutouts else DrawnMaterial(), recipe


def architecture(planted: Planted, recipe: Recipe) -> VisionTransformer:
    """The model with random weights."""
    return VisionTransformer(
        img_size=planted.size,
        patch_size=recipe.patch,
        embed_dim=recipe.width,
        depth=recipe.depth,
        num_heads=4,
        mlp_ratio=2.0,
        num_classes=2,
    )


def trained(planted: Planted, recipe: Recipe, work: Path) -> VisionTransformer:
    """Train a model, or take what an earlier call left in `work`.

    The first stage shows objects on scenes drawn by lot and no artefact: one for all cues and correlations, and for as
    many seeds as the recipe says.
    """
    first = planted.seed - planted.seed % recipe.shared
    torch.manual_seed(first)
    model = architecture(planted, recipe)
    # A model of its own first stage keeps the plain name
    second = planted.seed if first == planted.seed else f"{first}+{planted.seed}"
    material, form = type(planted.material).__name__, f"{planted.size}-{recipe.patch}-{recipe.width}-{recipe.depth}"
    biased = f"{recipe.balanced}-{recipe.biased}-{planted.cue}-{planted.correlation}"
    stages = (
        (
            replace(planted, cue="scene", seed=first),
            "balanced",
            recipe.balanced,
            f"{material}-{first}-{form}-{recipe.balanced}",
        ),
        (planted, "biased", recipe.biased, f"{material}-{second}-{form}-{biased}"),
    )
    for images, split, count, name in stages:
        path = work / f"{name}.safetensors"
        if path.exists():
            model.load_state_dict(load_file(path))
            continue
        _train(model, images, split, count)
        with atomic_path(path) as target:
            save_file(model.state_dict(), target)
    return model.eval().requires_grad_(False)


def to_input(images: list[PlantedImage]) -> Tensor:
    """Pixels as the models see them, in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def group_accuracy(model: VisionTransformer, planted: Planted, count: int) -> list[float]:
    """Share of right answers in each of the four groups of the test split."""
    split = planted.split("test", count)
    hits: list[list[bool]] = [[], [], [], []]
    for start in range(0, count, BATCH):
        images = split[start : start + BATCH]
        for image, answer in zip(images, model(to_input(images)).argmax(1).tolist(), strict=True):
            hits[image.group].append(answer == image.label)
    return [round(float(np.mean(of_group)), 4) for of_group in hits]


def _train(model: VisionTransformer, planted: Planted, split: str, count: int) -> None:
    """One pass over the first images of a split, every one of which is new."""
    model.train()
    stepper = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = count // BATCH
    images = planted.split(split, count)
    for step in range(steps):
        done = step / steps
        stepper.param_groups[0]["lr"] = RATE * min((done + 1 / steps) / WARM_UP, 1, (1 - done) / (1 - WARM_UP))
        batch = images[step * BATCH : (step + 1) * BATCH]
        labels = torch.tensor([image.label for image in batch])
        F.cross_entropy(model(to_input(batch)), labels).backward()
        stepper.step()
        stepper.zero_grad()
