"""A bare vision transformer whose blocks attend as a test says, and images for it."""

import torch
from torch import nn
from torch.nn import functional as F

GRID, PATCH, HEADS, WIDTH = (3, 5), 4, 3, 33


class Attention(nn.Module):
    """Projections around a core (query, key, value), each (batch, head, token, dim), that a test brings."""

    def __init__(self, core):
        super().__init__()
        self.core = core
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.asked = []

    def forward(self, x):
        query, key, value = (
            project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        self.asked.append((query.detach(), key.detach(), value.detach()))
        return self.out(self.core(query, key, value).transpose(1, 2).flatten(2))


class Model(nn.Module):
    """A class token, registers and patches, a block for each core."""

    def __init__(self, *cores, grid=GRID, registers=0, arrange=None):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.place = nn.Parameter(torch.randn(grid[0] * grid[1], WIDTH))
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.reg_token = nn.Parameter(torch.randn(1, registers, WIDTH))
        self.arrange = arrange or (lambda cls, reg, patches: torch.cat([cls, reg, patches], dim=1))
        self.blocks = nn.ModuleList(Attention(core) for core in cores)

    def forward(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.place
        front = (token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token))
        tokens = self.arrange(*front, patches)
        for block in self.blocks:
            tokens = tokens + block(F.layer_norm(tokens, (WIDTH,)))
        return tokens


def build(*cores, **settings):
    torch.manual_seed(0)
    model = Model(*cores, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def images(batch=2, grid=GRID):
    return torch.randn(batch, 3, grid[0] * PATCH, grid[1] * PATCH, generator=torch.Generator().manual_seed(batch))


def fused(query, key, value):
    return F.scaled_dot_product_attention(query, key, value)
