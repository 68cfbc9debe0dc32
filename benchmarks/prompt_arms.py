"""What the study of prompting compares: maps (arms), what is done with them (operators), and accuracy by group."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import siftlens
from planted_models import BATCH, to_input
from siftlens.core import PatchGrid
from siftlens.data import Planted, PlantedImage
from siftlens.prompting import Bias, Contrast, Mixture, PixelMask, Plan, Policy, TokenChoice, mixed_maps, prompt
from siftlens.prompting.maps import cue_patches, harmful_rows
from siftlens.prompting.patches import highest
from siftlens.prompting.steering import Site, Steering

ARMS = ("random", "centre", "gradient", "keypoints", "keypoints+centre", "audited cue", "oracle object", "oracle cue")
ORACLES = ARMS[-2:]
MARKED = ("audited cue", *ORACLES)  # maps that say by themselves which patches
# Set before anything was run: one third of the area is what the prototype kept.
OPERATORS: dict[str, Policy] = {
    "bias 3": Policy(bias=(Bias(3.0),)),
    "bias 10": Policy(bias=(Bias(10.0),)),
    "tokens 1/3": Policy(tokens=TokenChoice(1 / 3)),
    "tokens 3/4": Policy(tokens=TokenChoice(3 / 4)),
    "contrast 1 of 2/3": Policy(contrast=Contrast(1.0, view=2 / 3)),
    "contrast 1/2 of 1/4": Policy(contrast=Contrast(0.5, view=1 / 4)),
    "early pixel mask 1/3": Policy(pixels=PixelMask(1 / 3, "mean")),
}
FOVEAL = "foveal mask 10"  # the class token's rows alone, as FALIP does


def arm_maps(
    images: list[PlantedImage], grid: PatchGrid, audit: siftlens.Audit, tokens: Tensor | None, seed: int
) -> dict[str, Tensor | None]:
    """Maps by arm, (image, patch); None for the audited cue where the audit found no harm."""
    pixels = [image.pixels for image in images]
    rows = harmful_rows(audit)
    found = torch.from_numpy(cue_patches(pixels, grid, audit, rows, tokens).any(axis=0)).float() if rows else None
    keypoints, centre = (mixed_maps(pixels, grid, Mixture(**{name: 1.0})) for name in ("keypoints", "centre"))
    return {
        "random": torch.rand(len(images), grid.patches, generator=torch.Generator().manual_seed(seed)),
        "centre": centre,
        "gradient": mixed_maps(pixels, grid, Mixture(gradient=1.0)),
        "keypoints": keypoints,
        "keypoints+centre": (keypoints + centre) / 2,
        "audited cue": None if found is None else -found,
        "oracle object": patch_share(np.stack([image.object_mask for image in images]), grid),
        "oracle cue": -patch_share(np.stack([image.cue_map for image in images]), grid),
    }


def best_third(maps: Tensor) -> Tensor:
    """1 on the third of the patches with the highest map, 0 elsewhere: arms of equal area for a bias."""
    return torch.zeros_like(maps).scatter_(1, highest(maps, 1 / 3), 1.0)


def patch_share(masks: np.ndarray, grid: PatchGrid) -> Tensor:
    """Share of each patch that a mask covers, (image, patch)."""
    blocks = masks.reshape(len(masks), grid.rows, grid.patch_height, grid.cols, grid.patch_width)
    return torch.from_numpy(blocks.mean(axis=(2, 4))).float().flatten(1)


def answers(model: VisionTransformer, images: list[PlantedImage], policy: Policy, maps: Tensor) -> np.ndarray:
    """Whether each image is answered rightly under a policy."""

    def run(x: Tensor, here: slice) -> Tensor:
        with prompt(model, policy, maps[here]):
            return model(x)

    return right(images, run)


def foveal_answers(model: VisionTransformer, images: list[PlantedImage], maps: Tensor, plan: Plan) -> np.ndarray:
    """The same with a bias of 10 on the rows of the class token alone, in all layers."""

    def run(x: Tensor, here: slice) -> Tensor:
        def bias(site: Site) -> Tensor | None:
            if site.index not in plan.layer_of:
                return None
            on_keys = 10 * plan.on_keys(maps[here], site.keys)[:, None, None]
            first = torch.zeros(site.queries, 1)
            first[: plan.layout.class_tokens] = 1
            return first * on_keys

        with Steering(bias):
            return model(x)

    return right(images, run)


@torch.no_grad()
def right(images: list[PlantedImage], run: Callable[[Tensor, slice], Tensor]) -> np.ndarray:
    """Whether each image is answered rightly, batch by batch."""
    found = []
    for start in range(0, len(images), BATCH):
        here = slice(start, start + BATCH)
        labels = np.array([image.label for image in images[here]])
        found.append(run(to_input(images[here]), here).argmax(1).numpy() == labels)
    return np.concatenate(found)


def by_group(images: list[PlantedImage], hits: np.ndarray) -> list[float]:
    """Accuracy of the four groups: 0 and 3 agree with the cue, 1 and 2 go against it."""
    groups = np.array([image.group for image in images])
    return [round(float(hits[groups == group].mean()), 4) for group in range(4)]


@torch.no_grad()
def ablated_heads(
    model: VisionTransformer, images: list[PlantedImage], plan: Plan, maps: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each head switched off alone: accuracy by group, beside what the analysis says of the head.

    keypoint_pull: how far its attention moves toward keypoints, standard deviations; cue_mass: its attention on the
    audited cue's patches over their share of the image, None without such a cue; true_cue_mass: on the planted cue's.
    """
    z = maps["keypoints"]
    z = (z - z.mean(dim=1, keepdim=True)) / z.std(dim=1, keepdim=True).clamp_min(1e-6)
    audited = maps["audited cue"]
    channels = torch.stack([z, torch.zeros_like(z) if audited is None else -audited, -maps["oracle cue"]], dim=2)
    sums = torch.zeros(len(plan.heads), plan.heads[0], 4)
    for start in range(0, len(images), BATCH):
        here = slice(start, start + BATCH)
        with siftlens.read_attention(model, channels[here], grid=plan.layout) as reading:
            model(to_input(images[here]))
        for layer, read in enumerate(reading.layers):
            patches = slice(plan.layout.prefix, None)
            sums[layer, :, :3] += read.values[:, :, patches].sum(dim=(0, 2))
            sums[layer, :, 3] += (1 - read.prefix_mass[:, :, patches].sum(dim=-1)).sum(dim=(0, 2))
    means = sums[..., :3] / sums[..., 3:]
    share = channels.mean(dim=(0, 1))
    rows = []
    for layer, heads in enumerate(plan.heads):
        for head in range(heads):
            with without_head(model, layer, head, heads):
                hits = right(images, lambda x, _: model(x))
            pull, cue, true = means[layer, head].tolist()
            rows.append(
                {
                    "layer": layer,
                    "head": head,
                    "keypoint_pull": round(pull, 4),
                    "cue_mass": None if audited is None else round(cue / max(float(share[1]), 1e-6), 4),
                    "true_cue_mass": round(true / max(float(share[2]), 1e-6), 4),
                    "groups": by_group(images, hits),
                }
            )
    return rows


@contextmanager
def without_head(model: VisionTransformer, layer: int, head: int, heads: int) -> Iterator[None]:
    """One head's output set to zero."""

    def silence(_module: torch.nn.Module, args: tuple[Tensor]) -> Tensor:
        whole = args[0].clone()
        width = whole.shape[-1] // heads
        whole[..., head * width : (head + 1) * width] = 0
        return whole

    handle = model.blocks[layer].attn.proj.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()


def token_words(model: VisionTransformer, images: list[PlantedImage], audit: siftlens.Audit, plan: Plan) -> Tensor:
    """Tokens of the audit's layer, for cues that are made of them."""
    with torch.no_grad(), plan.access.read(audit.layer) as read:
        for start in range(0, len(images), BATCH):
            model(to_input(images[start : start + BATCH]))
    return torch.cat(read)


def plan_for(model: VisionTransformer, planted: Planted) -> Plan:
    """What prompting needs to know of the model."""
    return Plan(model, (torch.zeros(1, 3, planted.size, planted.size),), {})
