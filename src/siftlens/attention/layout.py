"""Finding out, on the model itself, which token stands for which patch.

Nothing is guessed from square roots or read from a table of architectures: one pixel is changed, and the token that
moves in the first attention is the token of its patch. The corners give prefix, rows and columns; then the order of
all patches, the kind of each prefix token and the place of the images are checked, and that the tokens stay where they
are in later layers.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from siftlens.attention.calls import AttentionCall, token_change
from siftlens.attention.coverage import READABLE
from siftlens.attention.isolation import check_isolation
from siftlens.attention.memory import remembered
from siftlens.attention.prefix import name_prefix
from siftlens.attention.trial import Trial
from siftlens.core import CaptureError, PatchGrid, TokenLayout

_NOISE = 0.02  # share of the largest change below which a token has not moved (bf16 rounds at 0.004)
_AMPLITUDE = 10.0  # of the changed pixel, in the model's normalised units: far outside natural images


def find_layout(model: nn.Module, images: Float[Tensor, "batch channel height width"]) -> TokenLayout:
    """Find the patch grid and the prefix tokens of a model, by changing pixels and watching tokens.

    Costs some tens of images' forward passes; hooks of your own on the model see them too. What was found is kept for
    as long as the model stays as it was, and for calls of the same form.

    Args:
        model: a vision transformer, called as `model(images)`.
        images: any batch of the shape, type and device that the model will see; its content does not matter.

    Returns:
        The grid, the number of class tokens (distillation tokens among them) and of registers.

    Raises:
        CaptureError: no attention runs, or it is not over the whole grid in row-major order with all other
            tokens in front.
    """
    return layout_of(Trial(model, (images,), {}))


def layout_of(trial: Trial) -> TokenLayout:
    """The same for a model called in any way."""
    return remembered(trial, "layout", lambda: _tried(trial))


def _tried(trial: Trial) -> TokenLayout:
    assert trial.images is not None
    probes = _touched(trial.images, _corners(trial.images))
    height, width = trial.images.shape[-2:]
    call, where = trial.first_attention(probes)
    if call.shape[0] != len(probes):
        raise CaptureError(
            f"{where}: attention over windows of {call.shape[3]} tokens, {call.shape[0]} windows for "
            f"{len(probes)} images; only attention over the whole grid can be read; {READABLE}"
        )
    if call.shape[2] != call.shape[3]:
        raise CaptureError(
            f"{where}: the first attention is of {call.shape[2]} queries over {call.shape[3]} keys; "
            f"windowed, reduced or cross attention cannot be read; {READABLE}"
        )
    moved = _moved_tokens(call, where)
    grid, prefix = _grid_of(moved, call.shape[3], (height, width), where)
    _check_order(trial, grid, prefix)
    _check_borders(trial, grid, prefix)
    layout = name_prefix(trial, grid, prefix)
    trial.check_images_apart(layout)
    check_isolation(trial, layout)
    return layout


def given_grid(trial: Trial, grid: PatchGrid) -> TokenLayout:
    """The layout for a grid that the caller vouches for: what stands before the patches is still found.

    Raises:
        InputError: the grid does not cover the images.
    """
    if trial.images is not None:
        grid.expect_covers(*trial.images.shape[-2:])
    return remembered(trial, grid, lambda: _behind_prefix(trial, grid))


def _behind_prefix(trial: Trial, grid: PatchGrid) -> TokenLayout:
    call, where = trial.first_attention(None if trial.images is None else trial.images[:1])
    prefix = call.shape[3] - grid.patches
    if prefix < 0:
        raise CaptureError(
            f"{where}: attention over {call.shape[3]} keys, but the grid has {grid.patches} patches; "
            "windowed, channel or pooled attention cannot be read"
        )
    layout = name_prefix(trial, grid, prefix)
    if trial.images is not None:
        trial.check_images_apart(layout)
    return layout


def _corners(images: Tensor) -> list[tuple[int, int]]:
    bottom, right = images.shape[-2] - 1, images.shape[-1] - 1
    return [(0, 0), (0, right), (bottom, 0), (bottom, right)]


def _touched(images: Tensor, pixels: list[tuple[int, int]]) -> Tensor:
    """One blank image, then one for each pixel, (row, column), in which this one is changed."""
    probes = images.new_zeros(len(pixels) + 1, *images.shape[1:])
    for probe, (y, x) in zip(probes[1:], pixels, strict=True):
        probe[:, y, x] = _AMPLITUDE
    return probes


def _moved_tokens(call: AttentionCall, where: str) -> list[int]:
    """For each changed pixel, the token that moved."""
    change = token_change(call.value[:1], call.value[1:])
    largest = change.max(dim=1)
    if not bool(torch.isfinite(change).all()):
        raise CaptureError(f"{where}: the values are NaN or infinite; check the model's weights")
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


def _grid_of(moved: list[int], tokens: int, size: tuple[int, int], where: str) -> tuple[PatchGrid, int]:
    """The grid and the number of prefix tokens that explain which token moved with which pixel."""
    top_left, top_right, bottom_left, bottom_right = moved
    prefix, patches, cols = top_left, bottom_right - top_left + 1, top_right - top_left + 1
    height, width = size
    if patches > 0 and cols > 0 and patches % cols == 0 and width % cols == 0 and tokens == prefix + patches:
        rows = patches // cols
        if height % rows == 0 and bottom_left == prefix + patches - cols:
            return PatchGrid(rows, cols, height // rows, width // cols), prefix
    raise CaptureError(
        f"{where}: expected prefix tokens, then one token per patch, row by row; the corners of the "
        f"{height}x{width} px image are tokens {top_left}, {top_right}, {bottom_left}, {bottom_right} of {tokens}; "
        "such a sequence cannot be mapped to patches (pass grid=PatchGrid(...) where early layers mix neighbours but "
        "each token still stands for its patch)"
    )


def _check_borders(trial: Trial, grid: PatchGrid, prefix: int) -> None:
    """Check that patches are as large as an even grid has them: a model that pads its images has larger ones.

    By the pixels beside the first and the last inner corner of the grid, where such patches are shifted most; of a
    model whose pixels move one token each, for only there a pixel has one patch.
    """
    assert trial.images is not None
    rows, cols = grid.rows, grid.cols
    corners = [(row, col) for row, col in ((1, 1), (rows - 1, cols - 1)) if rows > 1 and cols > 1]
    inside = [(row * grid.patch_height, col * grid.patch_width, row * cols + col) for row, col in corners]
    inside += [(y - 1, x - 1, patch - cols - 1) for y, x, patch in inside]
    if not inside:
        return
    probes = _touched(trial.images, [(y, x) for y, x, _ in inside])
    call, where = trial.first_attention(probes)
    change = token_change(call.value[:1], call.value[1:])
    moved = change > _NOISE * change.max()
    if bool((moved.sum(dim=1) != 1).any()):
        return
    wrong = [
        (y, x)
        for (y, x, patch), token in zip(inside, change.argmax(dim=1).tolist(), strict=True)
        if token != prefix + patch
    ]
    if wrong:
        raise CaptureError(
            f"{where}: the pixel in row {wrong[0][0]} and column {wrong[0][1]} belongs to another token than in a "
            f"grid of {rows}x{cols} even patches; the model pads, crops or resizes its images; choose an input size "
            "that the patch size divides"
        )


def _check_order(trial: Trial, grid: PatchGrid, prefix: int) -> None:
    """Check that every token stands for its patch: bit by bit, patches are filled with one of two pictures.

    A token sides with the image that shows the same picture in its patch as the first image does.
    """
    first, second = trial.noise(2)
    patch = torch.arange(grid.patches)
    for bit in range((grid.patches - 1).bit_length()):
        ones = (patch >> bit) % 2 == 1
        pixels = ones.view(grid.rows, grid.cols).repeat_interleave(grid.patch_height, 0)
        pixels = pixels.repeat_interleave(grid.patch_width, 1).to(first.device)
        call, where = trial.first_attention(
            torch.stack([first, torch.where(pixels, first, second), torch.where(pixels, second, first)])
        )
        like, unlike = token_change(call.value[:1], call.value[1:])[:, prefix:]
        wrong = ((like < unlike).cpu() != ones).nonzero().flatten().tolist()
        if wrong:
            raise CaptureError(
                f"{where}: expected one token per patch, row by row, but token {prefix + wrong[0]} does not hold patch "
                f"{wrong[0]} of the {grid.rows}x{grid.cols} grid; such a sequence cannot be mapped to patches"
            )
