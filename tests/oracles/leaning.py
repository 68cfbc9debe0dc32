"""A classifier that leans on what one tells it to, and images that hold it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROWS, COLS, SIDE = 5, 7, 4
CLASSES = ("green", "indigo")
CUE = (230, 20, 20)
OBJECTS = ((20, 200, 20), (20, 20, 200))


class Leaning(nn.Module):
    """Two transformer blocks that hardly mix, and a head that counts green, blue and red patches.

    Args:
        on_object: weight of blue against green patches.
        on_cue: weight of red patches for class 1.
        on_count: weight of every token there is, whatever it shows, for class 1.
    """

    size = (ROWS * SIDE, COLS * SIDE)
    normalize = None

    def __init__(self, on_object=1.0, on_cue=1.0, on_count=0.0):
        super().__init__()
        self.embed = nn.Linear(3, 8, bias=False)
        with torch.no_grad():
            self.embed.weight.copy_(torch.eye(8, 3))
        self.place = nn.Parameter(0.01 * torch.randn(ROWS * COLS, 8, generator=torch.Generator().manual_seed(0)))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.weights = (on_object, on_cue, on_count)

    def forward(self, images):
        patches = images.unflatten(2, (ROWS, SIDE)).unflatten(4, (COLS, SIDE)).mean(dim=(3, 5)).flatten(2)
        tokens = self.embed(patches.transpose(1, 2)) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        red, green, blue = tokens[..., :3].unbind(dim=-1)
        evidence = torch.stack([F.relu(blue - red - green), F.relu(green - red - blue), F.relu(red - green - blue)])
        blue, green, red = evidence.sum(dim=2)
        on_object, on_cue, on_count = self.weights
        count = tokens.shape[1] / (ROWS * COLS) + 0 * red
        score = on_object * (blue - green) + on_cue * red + on_count * count
        return torch.stack([-score / 2, score / 2], dim=1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()

    def forward(self, tokens):
        return tokens + 0.01 * self.attn(tokens)


class Attention(nn.Module):
    def forward(self, tokens):
        heads = tokens.unflatten(2, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Picture:
    pixels: np.ndarray
    label: int
    cue: bool
    cue_map: np.ndarray  # of patches
    object_map: np.ndarray


def pictures(count, correlation=0.9, seed=0):
    """Grey noise with an object of 2 x 2 patches, and the cue, 1 x 2 patches, as often with class 1 as asked for."""
    made = []
    for index in range(count):
        random = np.random.default_rng((seed, index))
        label = index % 2
        cue = bool(label if random.random() < correlation else 1 - label)
        blocks = random.integers(90, 150, (ROWS, COLS, 1)) + random.integers(-8, 9, (ROWS, COLS, 3))
        object_map, cue_map = np.zeros((2, ROWS, COLS), bool)
        top, left = random.integers(1, ROWS - 1), random.integers(0, COLS - 1)
        object_map[top : top + 2, left : left + 2] = True
        blocks[object_map] = np.array(OBJECTS[label]) + random.integers(-15, 16, (4, 3))
        if cue:
            across = random.integers(0, COLS - 1)
            cue_map[0, across : across + 2] = True
            blocks[cue_map] = np.array(CUE) + random.integers(-15, 16, (2, 3))
        pixels = np.clip(blocks, 0, 255).repeat(SIDE, axis=0).repeat(SIDE, axis=1).astype(np.uint8)
        pixels = np.clip(pixels + random.integers(-3, 4, pixels.shape), 0, 255).astype(np.uint8)
        made.append(Picture(pixels, label, cue, cue_map, object_map))
    return made
