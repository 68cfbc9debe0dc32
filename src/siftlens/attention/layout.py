"""Finding out, on the model itself, which token stands for which patch.

Nothing is guessed from square roots or read from a table of architectures: one pixel is changed, and the token that
moves in the first attention is the token of its patch. The corners give prefix, rows and columns; a sixth image
checks the row-major order inside.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from siftlens.attention.calls import AttentionCall
from siftlens.attention.intercept import Interceptor, without_fast_path
from siftlens.attention.modules import ModuleTracker
from siftlens.core import CaptureError, PatchGrid, TokenLayout

_CLASS_NAME = re.compile(r"(^|_)(cls|class|dist|distillation)(_|$)")
_REGISTER_NAME = re.compile(r"(^|_)(reg|register|registers|storage)(_|$)")
_NOISE = 0.02  # share of the largest change below which a token has not moved (bf16 rounds at 0.004)
_AMPLITUDE = 10.0  # of the changed pixel, in the model's normalised units: far outside natural images


def find_layout(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    *,
    forward: Callable[[Tensor], Any] | None = None,
) -> TokenLayout:
    """Find the patch grid and the prefix tokens of a model, by moving single pixels.

    Costs the layers before the first attention, on six images; nothing after it is run.

    Args:
        model: a vision transformer, called as `model(images)`.
        images: any batch of the shape, type and device that the model will see; its content does not matter.
        forward: how to call the model on a batch of six such images, where `model(images)` does not do.

    Returns:
        The grid, the number of class tokens (distillation tokens among them) and of registers.

    Raises:
        CaptureError: no attention runs, or it is not over the whole grid in row-major order with all other
            tokens in front.
    """
    probes, pixels = _probes(images)
    height, width = images.shape[-2:]
    call, where = first_attention(model, lambda: (forward or model)(probes), batch=len(probes))
    if call.shape[0] != len(probes):
        raise CaptureError(
            f"{where}: attention over windows of {call.shape[3]} tokens, {call.shape[0]} windows for "
            f"{len(probes)} images; only attention over the whole grid can be read"
        )
    moved = _moved_tokens(call, where)
    return split_prefix(model, *_grid_of(moved, pixels, call.shape[3], (height, width), where))


def _probes(images: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """One blank image, then one for each changed pixel: the four corners and a point inside."""
    height, width = images.shape[-2:]
    bottom, right = height - 1, width - 1
    pixels = [(0, 0), (0, right), (bottom, 0), (bottom, right), (int(0.37 * height), int(0.71 * width))]
    probes = images.new_zeros(len(pixels) + 1, *images.shape[1:])
    for probe, (y, x) in zip(probes[1:], pixels, strict=True):
        probe[:, y, x] = _AMPLITUDE
    return probes, pixels


class _Stop(BaseException):
    """Ends a forward pass at its first attention; not an Exception, so that no model catches it."""


def first_attention(model: nn.Module, forward: Callable[[], Any], *, batch: int) -> tuple[AttentionCall, str]:
    """Run a forward pass up to its first attention and return that and its module's name."""
    found: list[tuple[AttentionCall, str]] = []

    def stop(call: AttentionCall) -> None:
        found.append((call, tracker.current))
        raise _Stop

    tracker = ModuleTracker(model, lambda: len(found))
    interceptor = Interceptor(stop, batch, lambda: tracker.current)
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    tracker.attach()
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), without_fast_path(), interceptor:
            forward()
    except _Stop:
        return found[0]
    finally:
        tracker.detach()
    raise no_attention(model, tracker, interceptor)


def no_attention(model: nn.Module, tracker: ModuleTracker, interceptor: Interceptor) -> CaptureError:
    """The error for a forward pass without one readable attention: it names what looks like one."""
    name = type(model).__name__
    if interceptor.foreign:
        kernels = ", ".join(f"{module} ({kernel})" for module, kernel in list(interceptor.foreign.items())[:3])
        return CaptureError(
            f"{name}: attention runs in kernels from outside torch: {kernels}; "
            "switch the model to torch's scaled_dot_product_attention"
        )
    unused = interceptor.unused_softmaxes()
    if unused:
        what = f"changed by {unused[0].altered_by}" if unused[0].altered_by else "not used as it is"
        return CaptureError(
            f"{unused[0].module}: the softmax's output is {what} before it meets the values "
            "(talking heads, re-attention); such attention cannot be read"
        )
    if tracker.missed:
        return CaptureError(
            f"{name}: no softmax attention ran in {', '.join(tracker.missed[:3])}; "
            "linear, pooling or compiled attention cannot be read"
        )
    return CaptureError(
        f"{name}: expected a vision transformer, but no attention ran; "
        "convolutional networks have none, and a compiled model hides it (pass the uncompiled one)"
    )


def _moved_tokens(call: AttentionCall, where: str) -> list[int]:
    """For each changed pixel, the token that moved."""
    change = call.key_change()
    largest = change.max(dim=1)
    if not bool(torch.isfinite(change).all()):
        raise CaptureError(f"{where}: the keys are NaN or infinite; check the model's weights")
    if bool((largest.values < _NOISE * largest.values.max()).any()):
        raise CaptureError(
            f"{where}: some border pixels reach no token; expected an image size that the patch size divides"
        )
    spread = (change > _NOISE * largest.values[:, None]).double().mean(dim=1)
    if bool((spread > 0.25).any()) and change.shape[1] > 4:
        raise CaptureError(
            f"{where}: one pixel moves {spread.max():.0%} of the {change.shape[1]} tokens before the first "
            "attention; channel attention and shuffled tokens cannot be mapped to patches (pass grid=PatchGrid(...) "
            "where early layers mix but each token still stands for its patch)"
        )
    return largest.indices.tolist()


def _grid_of(
    moved: list[int], pixels: list[tuple[int, int]], tokens: int, size: tuple[int, int], where: str
) -> tuple[PatchGrid, int]:
    """The grid and the number of prefix tokens that explain which token moved with which pixel."""
    top_left, top_right, bottom_left, bottom_right, inside = moved
    prefix, patches, cols = top_left, bottom_right - top_left + 1, top_right - top_left + 1
    height, width = size
    if patches > 0 and cols > 0 and patches % cols == 0:
        rows = patches // cols
        if height % rows == 0 and width % cols == 0:
            grid = PatchGrid(rows, cols, height // rows, width // cols)
            y, x = pixels[-1]
            expected_inside = prefix + (y // grid.patch_height) * cols + x // grid.patch_width
            consistent = bottom_left == prefix + patches - cols and inside == expected_inside
            if consistent and tokens == prefix + patches:
                return grid, prefix
    raise CaptureError(
        f"{where}: expected prefix tokens, then one token per patch, row by row; the corners of the "
        f"{height}x{width} px image are tokens {top_left}, {top_right}, {bottom_left}, {bottom_right} of {tokens}; "
        "such a sequence cannot be mapped to patches"
    )


def split_prefix(model: nn.Module, grid: PatchGrid, prefix: int) -> TokenLayout:
    """Tell class tokens from registers by the names of the model's own parameters.

    Raises:
        CaptureError: the parameters do not account for the prefix.
    """
    tensors: Mapping[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    counts = {
        "class": _count(tensors, _CLASS_NAME),
        "register": _count(tensors, _REGISTER_NAME),
    }
    if prefix == 0:
        return TokenLayout(grid)
    if counts["class"] + counts["register"] != prefix:
        raise CaptureError(
            f"{type(model).__name__}: {prefix} tokens stand before the patches, but its parameters name "
            f"{counts['class']} class and {counts['register']} register tokens; "
            "pass grid=TokenLayout(grid, class_tokens=..., registers=...)"
        )
    return TokenLayout(grid, counts["class"], counts["register"])


def _count(tensors: Mapping[str, Tensor], pattern: re.Pattern[str]) -> int:
    """Number of tokens that parameters of such a name hold: (D,), (n, D) or (1, n, D)."""
    return sum(
        tensor.shape[-2] if tensor.ndim > 1 else 1
        for name, tensor in tensors.items()
        if pattern.search(name.rsplit(".", 1)[-1]) and "pos" not in name.rsplit(".", 1)[-1] and tensor.ndim in (1, 2, 3)
    )
