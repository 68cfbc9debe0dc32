"""Telling class tokens from registers: by the names of the parameters, and by which token each one moves."""

import re

import torch
from torch import Tensor

from siftlens.attention.calls import token_change
from siftlens.attention.trial import Trial
from siftlens.core import CaptureError, PatchGrid, TokenLayout

_KINDS = {
    "class": re.compile(r"(^|_)(cls|class|dist|distillation)(_|$)"),
    "register": re.compile(r"(^|_)(reg|register|registers|storage)(_|$)"),
}
_STILL = 0.02  # share of the largest change below which a token has not moved (bf16 rounds at 0.004)


def name_prefix(trial: Trial, grid: PatchGrid, prefix: int) -> TokenLayout:
    """Tell what stands before the patches: each parameter with such a name is changed, and the token that moves is its.

    Raises:
        CaptureError: the parameters do not account for the prefix, or class tokens do not come first.
    """
    if prefix == 0:
        return TokenLayout(grid)
    found: list[tuple[str, list[int]]] = []  # of each parameter, its kind and the tokens that it moves
    images = None if trial.images is None else trial.noise(1)
    before, where = trial.first_attention(images)
    for name, tensor in (*trial.model.named_parameters(), *trial.model.named_buffers()):
        kind = _kind(name)
        if kind is None or not tensor.is_floating_point():
            continue
        after, _ = trial.first_attention(images, {name: tensor + _noise(tensor)})
        change = token_change(before.value, after.value).amax(dim=0)
        moved = (change > _STILL * change.max()).nonzero().flatten().tolist()
        if moved and moved[-1] < prefix:
            found.append((kind, moved))
    kinds = [""] * prefix
    for kind, moved in sorted(found, key=lambda each: -len(each[1])):  # last, the one that moves a token and few others
        for token in moved:
            kinds[token] = kind
    classes, registers = kinds.count("class"), kinds.count("register")
    if classes + registers < prefix:
        raise CaptureError(
            f"{where}: {prefix} tokens stand before the patches, but the model's parameters name "
            f"{classes} class and {registers} register tokens; "
            "call these parameters cls_token and reg_token, or pass "
            "read_attention(..., grid=TokenLayout(grid, class_tokens=..., registers=...))"
        )
    if kinds != sorted(kinds):
        raise CaptureError(
            f"{where}: expected class tokens, then registers, then the patches, but the tokens in front are "
            f"{', '.join(kinds)}; such a sequence cannot be read"
        )
    return TokenLayout(grid, classes, registers)


def _kind(name: str) -> str | None:
    leaf = name.rpartition(".")[2]
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(leaf) and "pos" not in leaf), None)


def _noise(tensor: Tensor) -> Tensor:
    """Not constant: a layer norm would take a constant away."""
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
