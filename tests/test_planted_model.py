"""Attention planted in a whole model must come back as what it is, from pixels to verdicts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import siftlens

PLANTED = ("toward keypoints", "away from keypoints", "by distance", "to the centre", "uniform")
GRID = siftlens.PatchGrid(7, 11, 8, 8)


class Planted(nn.Module):
    """One attention layer with a head for each plant; the scores are inner products, as in any transformer."""

    def __init__(self):
        super().__init__()
        centres = torch.from_numpy(GRID.centres()).float()
        place = (centres - centres.mean(dim=0)) / 20
        self.register_buffer("place", place)
        self.register_buffer("radius", place.square().sum(dim=1))

    def forward(self, images):
        batch, patches = len(images), GRID.patches
        embedded = images.unflatten(2, (7, 8)).unflatten(4, (11, 8)).sum(dim=(1, 3, 5)).reshape(batch, patches, 1)
        keypoints = [siftlens.detect(image.numpy()) for image in images.clamp(0, 1)]
        weight = torch.stack([siftlens.concentration(k, GRID).flatten() for k in keypoints]).log1p()
        z = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True).clamp_min(1e-6)
        one, zero = torch.ones(batch, patches), torch.zeros(batch, patches)
        place = self.place.expand(batch, -1, -1)
        x, y, radius = place[..., 0], place[..., 1], self.radius.expand(batch, -1)
        queries = [(one, zero, zero), (one, zero, zero), (x, y, one), (one, zero, zero), (zero, zero, zero)]
        keys = [(z, zero, zero), (-z, zero, zero), (2 * x, 2 * y, -radius), (-radius, zero, zero), (zero, zero, zero)]
        query = torch.stack([torch.stack(q, dim=-1) for q in queries], dim=1)
        key = torch.stack([torch.stack(k, dim=-1) for k in keys], dim=1) + 1e-4 * embedded[:, None]
        value = embedded[:, None].expand(batch, 5, patches, 3)
        return F.scaled_dot_product_attention(query, key, value, scale=1.0).mean(dim=(1, 2))


def pictures(count):
    """Dots scattered around a point near the centre: keypoint maps are smooth and centred, as in photographs."""
    pixels = np.full((count, 56, 88, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:56, :88]
    for image in pixels:
        y, x = rng.normal((28, 44), (8, 12))
        for _ in range(40):
            dot_y, dot_x, size = rng.normal(y, 9), rng.normal(x, 14), rng.uniform(1.2, 3)
            image[(rows - dot_y) ** 2 + (cols - dot_x) ** 2 < size**2] = rng.integers(0, 255)
    return pixels


@pytest.fixture(scope="module")
def heads():
    study = siftlens.analyze(Planted().eval(), pictures(96), normalize=None, workers=0)
    return study.heads.pivot(index="head", columns="statistic")


def test_pull_of_planted_heads(heads):
    effect, q = heads["effect"]["semantic_pull"], heads["q"]["semantic_pull"]
    assert effect[0] > 0.5 and q[0] < 1e-3
    assert effect[1] < -0.2 and q[1] < 1e-3
    assert (q[2:] > 0.05).all() and (effect[2:].abs() < 0.1).all()


def test_nulls_remove_what_layout_alone_explains(heads):
    value = heads["value"]
    assert value["semantic_pull"][3] > 0.1  # attention to the centre finds keypoints, but in any image
    assert value["assortativity"][2] > 0.3  # local attention joins like with like, on any map
    assert heads["q"]["assortativity"][2] > 0.05
    assert heads["mirror_q"]["assortativity"][2] > 0.05
    assert value["semantic_pull"][4] == pytest.approx(0, abs=1e-3)
